"""``asesjax compile``: its output, exit status and errors, mostly with a fake compiler."""

import json

import pytest

from asesjax.aot import measure as measuring
from asesjax.aot import topology
from asesjax.aot.hlo import Traffic
from asesjax.aot.measure import Measured
from asesjax.aot.topology import GIB, Chip
from asesjax.cli.main import main
from asesjax.core.errors import UserError

TINY = [
    "--config.model.d_model=16", "--config.model.d_ff=32", "--config.model.n_heads=2",
    "--config.model.d_kv=8", "--config.model.n_encoder_layers=1",
    "--config.model.n_decoder_layers=1", "--config.train.batch_size=32",
]  # fmt: skip
BASE = ["compile", "--config", "configs/smoke.py", "--topology", "cpu:8", "--vocab-rows", "384"]


@pytest.fixture
def compiler(monkeypatch):
    """A chip of 1 GiB, and a fake compiler that needs as many GiB as ``needs`` says."""
    chip = Chip(GIB, 1e12, 1e11)
    monkeypatch.setattr(topology, "CPU", chip)
    seen, needs = [], {"train": lambda program: 0.5, "decode": lambda program: 0.5}

    def measure(program, on):
        assert on is chip
        seen.append(program.what)
        needed = int(needs[program.name](program) * GIB)
        if needed > GIB:
            return Measured(program, 1.0, None, needed, False, refusal="Ran out of memory")
        memory = dict(arguments=needed, outputs=5, aliased=4, temporaries=3, code=2, peak=needed)
        return Measured(
            program, 61.0, memory, needed, True, 5e12,
            Traffic({"all-reduce": 3}, {"all-reduce": 3e6}, 4e6, 5e9),
            {"compute": 0.25, "memory": 0.005, "links": 4e-5},
        )  # fmt: skip

    monkeypatch.setattr(measuring, "measure", measure)
    return needs, seen


def test_both_programs_fit(compiler, capsys):
    assert main(BASE + TINY) == 0
    out = capsys.readouterr().out
    assert "smoke on cpu:8: 8 x cpu, 1.00 GiB each for programs" in out
    train, decode = out[out.index("train:") : out.index("decode:")], out[out.index("decode:") :]
    assert "train: batch 32 x (96 + 64); mesh data 8 x fsdp 1 x tensor 1" in train
    assert "yes: 0.50 GiB of 1.00 a chip at once" in train
    assert "3 all-reduce (3 MB); 4 MB sent by a chip in a step" in train
    assert "at least 250 ms (compute 250 ms, memory 5 ms, links 0.04 ms)" in train
    assert "bound by compute" in train and "ESTIMATE" in train
    assert "a token of every slot" in decode and "smallest change" not in out


def test_one_program_alone(compiler, capsys):
    assert main([*BASE, *TINY, "--only", "decode"]) == 0
    assert "train:" not in capsys.readouterr().out
    assert len(compiler[1]) == 1


def test_a_program_that_does_not_fit_gets_the_smallest_change(compiler, capsys, tmp_path):
    needs, seen = compiler
    needs["train"] = lambda program: 0.9 if "4 microbatches" in program.what else 1.5
    rows = tmp_path / "rows.jsonl"
    assert main([*BASE, *TINY, "--json", str(rows)]) == 1
    out = capsys.readouterr().out
    assert "NO: 1.50 GiB of 1.00 a chip at once" in out and "Ran out of memory" in out
    assert "tried           --config.train.microbatches=2: 1.50 GiB of 1.00" in out
    assert "smallest change --config.train.microbatches=4\n" in out
    assert "decode: " in out  # the second program is compiled all the same
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [(row["program"], row["fits"], row["change"]) for row in lines] == [
        ("train", False, {}),
        ("train", False, {"train.microbatches": "2"}),
        ("train", True, {"train.microbatches": "4"}),
        ("decode", True, {}),
    ]
    assert all(row["topology"] == "cpu:8" and row["config"] == "smoke" for row in lines)


def test_changes_that_the_run_refuses_are_skipped(compiler, capsys):
    def needs(program):
        if "2 microbatches" in program.what:
            raise UserError("refused")
        return 0.9 if "4 microbatches" in program.what else 1.5

    compiler[0]["train"] = needs
    assert main([*BASE, *TINY, "--only", "train"]) == 1
    out = capsys.readouterr().out
    assert out.count("tried ") == 1 and "smallest change --config.train.microbatches=4\n" in out


def test_no_change_that_fits_is_reported(compiler, capsys):
    compiler[0]["decode"] = lambda program: 3.0
    assert main([*BASE, *TINY, "--only", "decode"]) == 1
    out = capsys.readouterr().out
    assert "smallest change none of these" in out
    assert "tried           --config.decode.batch_size=4" in out


def test_search_is_a_table_of_meshes(compiler, capsys):
    compiler[0]["train"] = lambda p: 1.5 if p.mesh.shape["fsdp"] == 1 else 0.5
    assert main([*BASE, *TINY, "--search"]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {table[0].count("|")}
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[2:]]
    train = [row for row in rows if row[0] == "train"]
    assert [row[1] for row in train] == ["dp", "fsdp", "tp", "fsdp_tp", "fsdp_tp"]
    assert [row[3] for row in train] == ["NO", "yes", "NO", "yes", "yes"]
    assert train[1][2:] == ["1 x 8 x 1", "yes", "0.50", "4 MB", "250 ms", "compute", "61 s"]
    assert len([row for row in rows if row[0] == "decode"]) == 5


def test_search_lists_meshes_that_cannot_run(compiler, capsys):
    few = [*TINY[:-1], "--config.train.batch_size=4"]
    assert main([*BASE, *few, "--search", "--only", "train"]) == 0
    out = capsys.readouterr().out
    assert "cannot run: train.batch_size 4" in out and "| tp |" in out


def test_search_without_a_fitting_mesh_exits_with_1(compiler, capsys):
    compiler[0]["train"] = lambda program: 9.0
    assert main([*BASE, *TINY, "--search", "--only", "train"]) == 1


@pytest.mark.parametrize(
    "arguments, words",
    [(["--topology", "v5e"], "--topology 'v5e' is no slice"),
     (["--topology", "cpu:8", "--vocab-rows", "0"], "--vocab-rows must be at least 1"),
     (["--topology", "cpu:8", "--config.train.batch_size=30"], "8 devices"),
     (["--topology", "cpu:8", "--config.mesh.fsdp=3"], "multiply to 3, which does not divide"),
     (["--topology", "cpu:8", "--config.mesh.slices=3"], "mesh.slices=3 must divide mesh.data"),
     (["--topology", "cpu:8", "--config.decode.beams=0"], "decode.beams must be at least 1")],
)  # fmt: skip
def test_wrong_arguments_are_explained(arguments, words, compiler, capsys):
    only = ["--only", "decode"] if "beams" in words else []
    assert main(["compile", "--config", "configs/smoke.py", *arguments, *only]) == 2
    assert words in capsys.readouterr().err


def test_a_json_file_is_not_overwritten(compiler, capsys, tmp_path):
    (tmp_path / "a.jsonl").write_text("mine")
    assert main([*BASE, "--json", str(tmp_path / "a.jsonl")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "a.jsonl").read_text() == "mine"


def test_help_explains_the_exit_status(capsys):
    with pytest.raises(SystemExit):
        main(["compile", "--help"])
    assert "Exit status 1: a program does not fit" in capsys.readouterr().out


def test_the_real_compiler_on_virtual_cpus(capsys, tmp_path):
    """Nothing faked; what a CPU cannot measure is left out."""
    rows = tmp_path / "rows.jsonl"
    more = ["--config.mesh.fsdp=2", "--config.mesh.preset=fsdp", "--json", str(rows)]
    more += ["--config.methods=usm", "--config.decode.context_lengths=()"]
    assert main([*BASE, *TINY[:-1], *more]) == 0
    out = capsys.readouterr().out
    assert "not known: a CPU has no memory of its own" in out and "ESTIMATE" not in out
    train, decode = (json.loads(line) for line in rows.read_text().splitlines())
    assert train["hbm"] is None and train["estimated_seconds"] == {}
    # Two devices share each parameter: they gather it and sum its gradient, at least.
    assert {"all-gather", "all-reduce"} <= set(train["collectives"])
    assert train["bytes_sent"] > train["parameters"] and decode["bytes_moved"] > 0
