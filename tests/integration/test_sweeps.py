"""Sweeps through the command line: points share what they have in common, stop, resume and grow."""

import csv
import shutil

import pytest

from asesjax import sweeps
from asesjax.cli.main import main
from asesjax.core.errors import UserError
from asesjax.core.files import read_json, read_jsonl, write_json
from asesjax.evals.report import is_right
from asesjax.experiment import open_run
from asesjax.seeds import execute_seeds, one_by_one

pytestmark = pytest.mark.long

POINTS = ("decode.max_chain_tokens=8", "decode.max_chain_tokens=16")


def command(workdir, *more, seeds="0,1"):
    return ["run", "--config", "smoke", "--workdir", str(workdir), "--config.methods=direct",
            "--config.train.steps=2", "--config.data.n_train=16", "--config.data.n_validation=8",
            "--config.decode.curve_questions=0", f"--config.seeds={seeds}", *more]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep of two points with two seeds each, and what it printed."""
    workdir, told = tmp_path_factory.mktemp("sweeps") / "sweep", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *words, **_: told.append(" ".join(map(str, words))))
        assert main(command(workdir, "--sweep", "decode.max_chain_tokens=8,16")) == 0
    return workdir, "\n".join(told)


def table(workdir):
    with open(workdir / "sweep.csv") as file:
        return list(csv.DictReader(file))


def times(workdir):
    return {path: path.stat().st_mtime_ns for path in workdir.rglob("result.json")}


def test_points_share_what_their_fields_do_not_change(finished):
    workdir, told = finished
    assert one_by_one([workdir]) == [workdir / f"{p}/seed-{s}" for p in POINTS for s in (0, 1)]
    for seed in (0, 1):
        other = workdir / f"{POINTS[0]}/seed-{seed}"
        for stage in ("data", "train-direct"):
            assert f"[{stage}] taken from {other}\n" in told
    assert told.count("[train-direct] starts") == 2 and told.count("[decode-direct] starts") == 4


def test_the_table_is_of_the_predictions(finished):
    workdir, told = finished
    rows = table(workdir)
    assert [(row["decode.max_chain_tokens"], row["method"], row["seeds"]) for row in rows] == [
        ("8", "direct", "2"), ("16", "direct", "2")
    ]  # fmt: skip
    for row, point in zip(rows, POINTS, strict=True):
        files = [workdir / f"{point}/seed-{seed}/predictions/direct/test.jsonl" for seed in (0, 1)]
        found = [one for file in files for _, one in read_jsonl(file)]
        share = sum(is_right(one, "numeric") for one in found) / len(found)
        assert float(row["mean"]) == pytest.approx(share)
        config = open_run(None, workdir / point).config
        assert config.decode.max_chain_tokens == int(point.partition("=")[2])
    for name in ("sweep.md", "sweep.tex", "figures/decode.max_chain_tokens.png"):
        assert (workdir / name).stat().st_size
    assert (workdir / "sweep.md").read_text() in told and "| decode.max_chain_tokens |" in told


def test_an_interrupted_sweep_resumes_and_another_grid_adds_points(finished, monkeypatch, capsys):
    """A point that fails does not end the others; one that was left unfinished can be left out."""
    workdir, _ = finished
    before = times(workdir)
    more = command(workdir, "--sweep", "decode.max_chain_tokens=8,12")

    def stop(error, of):
        def execute(run, redo):
            if run.workdir.name.endswith(of):
                raise error
            execute_seeds(run, redo)

        monkeypatch.setattr(sweeps, "execute_seeds", execute)

    stop(KeyboardInterrupt(), "=12")
    assert main(more) == 130
    assert list(read_json(workdir / "sweep.json")["points"]) == [*POINTS, POINTS[0][:-1] + "12"]
    stop(UserError("too long"), "=12")
    assert main(["run", "--workdir", str(workdir)]) == 2
    out, err = capsys.readouterr()
    assert "1 of 3 points failed" in err and "decode.max_chain_tokens=12: too long" in err
    assert [row["decode.max_chain_tokens"] for row in table(workdir)] == ["8", "16"]
    monkeypatch.undo()
    assert main(more) == 0
    assert [row["decode.max_chain_tokens"] for row in table(workdir)] == ["8", "12", "16"]
    assert before.items() <= times(workdir).items()
    capsys.readouterr()
    assert main(["report", "--workdir", str(workdir)]) == 0
    assert "starts" not in capsys.readouterr().out


def test_report_of_runs_that_differ_has_the_same_table(finished, tmp_path, capsys):
    workdir, _ = finished
    both = [str(workdir / point) for point in POINTS]
    assert main(["report", "--workdir", *both, "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert [row["mean"] for row in table(tmp_path)] == [
        row["mean"] for row in table(workdir) if row["decode.max_chain_tokens"] != "12"
    ]
    assert "| run " in out and (tmp_path / "figures/decode.max_chain_tokens.png").is_file()
    assert main(["report", "--workdir", f"{both[0]}/seed-0", f"{both[1]}/seed-0"]) == 0
    assert "decode.max_chain_tokens" in capsys.readouterr().out


def test_what_a_checkpoint_fills_is_no_column_beside_its_name(finished, tmp_path):
    run = finished[0] / POINTS[0] / "seed-0"
    started = {"model.init_from": "/a", "model.d_model": 8, "vocab.path": "/a/spiece.model"}
    for name, fields in (("own", {}), ("a", started), ("deep", {"model.d_model": 9})):
        shutil.copytree(run, tmp_path / name, ignore=shutil.ignore_patterns("roles"))
        config = read_json(run / "config.json") | fields
        write_json(tmp_path / name / "config.json", config)
    own, a, deep = ([tmp_path / name] for name in ("own", "a", "deep"))
    assert sweeps.varied_rows([own, a])[0] == ["model.init_from"]
    assert sweeps.varied_rows([own, deep])[0] == ["model.d_model"]


@pytest.mark.parametrize(
    "sweep, words",
    [
        (["ases.gama=1,2"], "unknown config field 'ases.gama'; did you mean 'ases.gamma'"),
        (["ases.gamma=1,x"], "ases.gamma must be a float, got 'x'"),
        (["ases.gamma=1,-1"], "ases.gamma must be at least 0, got -1.0"),
        (["ases.gamma=1,1.0"], "a value is given twice"),
        (["ases.gamma"], "needs values: --sweep ases.gamma=VALUE,VALUE"),
        (["ases.gamma=1", "ases.gamma=2"], "the field is given twice"),
        (["train.steps=1,2"], "the field is given twice"),
        (["seed=1,2"], "several seeds are --config.seeds=0,1,2"),
        (["train.keep_last=1,2"], "changes no results"),
        (["train.examples=0,5"], "exactly one of"),
    ],
)
def test_a_wrong_sweep_is_refused_before_anything_runs(tmp_path, capsys, sweep, words):
    asked = [word for one in sweep for word in ("--sweep", one)]
    assert main(command(tmp_path, *asked)) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "sweep.json").exists()


def test_lists_have_semicolons_and_long_values_short_folders(tmp_path):
    (grid,) = [sweeps._grid(["decode.question_buckets=64,96;128"], {})]
    assert grid == [{"decode.question_buckets": "64,96"}, {"decode.question_buckets": "128"}]
    names = {sweeps._name({"model.init_from": place * 9}) for place in ("./a/b c", "./a/b_c")}
    assert len(names) == 2 and all(len(name) <= 100 and "/" not in name for name in names)


def test_other_verbs_name_a_run_of_the_sweep(finished, tmp_path, capsys):
    workdir, _ = finished
    assert main(["generate", "--workdir", str(workdir), "--method", "direct",
                 "--question", "x"]) == 2  # fmt: skip
    err = capsys.readouterr().err
    assert "is a sweep, which asesjax run and report take" in err and POINTS[0] in err
    assert main(command(workdir / POINTS[0], "--sweep", "ases.gamma=1,2")) == 2
    assert "holds a run, and no sweep" in capsys.readouterr().err
    assert main(["run", "--workdir", str(tmp_path), "--sweep", "ases.gamma=1"]) == 2
    assert "--sweep needs --config" in capsys.readouterr().err
