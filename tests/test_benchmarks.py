"""The programs of ``benchmarks``: each runs on little, and prints JSON lines. ``gpu.sh`` survives
whatever fails, without packages that a machine with a GPU may lack.
"""

import functools
import importlib.util
import json
import os
import re
import runpy
import string
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace as Namespace

import jax
import numpy as np
import pytest
from shared.environment import xla_flags

from asesjax.config import base_config, finish
from asesjax.data.sources import load_records
from asesjax.data.vocab_training import train_vocabulary
from asesjax.models import t5
from asesjax.models.t5_config import T5Config, token_flops

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tests/benchmarks"
WITH_TORCH = all(map(importlib.util.find_spec, ("torch", "transformers")))


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where its dataclasses look for it
    spec.loader.exec_module(module)
    return module


gpu, device, random_work = map(load, ("gpu", "device", "random_work"))

SMALL_MODEL = {
    "model.d_model": 16, "model.d_ff": 32, "model.n_heads": 2, "model.d_kv": 8,
    "model.n_encoder_layers": 1, "model.n_decoder_layers": 1, "data.n_train": 40,
    "data.n_validation": 10, "data.n_test": 8, "data.min_steps": 1, "data.max_steps": 1,
    "train.tokens": 0, "train.steps": 4, "train.batch_size": 8, "train.evaluate_every_share": 1.0,
    "train.source_buckets": "(112,)", "train.target_buckets": "(80,)", "decode.batch_size": 4,
    "decode.context_lengths": "()", "decode.max_segment_tokens": 8,
    "decode.max_chain_tokens": 16, "decode.curve_questions": 4,
}  # fmt: skip
FIELDS = " ".join(f"--config.{name}={value}".replace(", ", ",")
                  for name, value in SMALL_MODEL.items())  # fmt: skip
SKIP = "--config configs/skip_thinking.py --config.methods=cwt --config.chunk.n_chunks=4 " + FIELDS
# What each program runs on here: DATA has files of GSM8K's form, RUN is a finished run.
TINY = {
    "convert_memory": "--preset t5-efficient-tiny --layers 1",
    "data_pipeline": "--data DATA --times 1 --scratch DATA",
    "decode_vs_hf": "--data DATA --size tiny --batch 2 --questions 3 --repeats 1 --profile "
                    "--context-lengths --contestants plain continuous",
    "device": "",
    "host_pipeline": "--data DATA --batch 4 --packed-length 256",
    "kpod_auc": "--config configs/kpod.py --workdir DATA/auc --seeds 0 --config.kpod.n_stages=2 "
                + FIELDS,
    "kpod_schedule": "--questions 40 --stages 4",
    "learnability": "--workdir DATA/learned " + SKIP,
    "packing": "--data DATA --batch 4 --packed-length 256 --records 20 --steps 2",
    "pod_decode": "--workdir RUN --method cwt --processes 2",
    "pod_shares": "--data DATA",
    "remat_memory": "--layers=1 --width=16 --batch=2 --length=8 --vocab=32 --optimizer=sgd --run",
    "same_results": "RUN RUN",
    "skip_data": "RUN --records 10",
    "skip_speed": "RUN --questions 2 --rounds 2",
    "train_vs_hf": "--data DATA --batch 4 --packed-length 256 --records 20 --steps 1 --rounds 1 "
                   + ("--curve-steps 1 --contestants torch" if WITH_TORCH else
                      "--curve-steps 0 --contestants packed --profile --scan-layers"),
}  # fmt: skip
# gpu.sh runs below, and mutants.py runs tests itself.
OTHERS = {"gpu", "mutants", "random_work"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder of files with the names and the form of GSM8K's, and a vocabulary of their words."""
    folder, texts = tmp_path_factory.mktemp("data"), []
    options = finish(base_config(), {"data.n_train": "150", "data.n_test": "20"}).data
    (folder / "gsm8k").mkdir()
    for split in ("train", "test"):
        records = load_records(options, split, 0)[0]
        rows = [{"question": r.question, "answer": f"{r.rationale}\n#### {r.answer}"}
                for r in records]  # fmt: skip
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"gsm8k/{split}.jsonl").write_text(text)
        texts += [value for row in rows for value in row.values()]
    train_vocabulary([*texts, string.printable[:95]], 300).save(folder / "t5_vocab")
    return folder


@pytest.fixture(scope="module")
def finished(data):
    """A finished run of one method, by the program that makes such."""
    out = subprocess.run(
        [sys.executable, FOLDER / "learnability.py", *arguments("learnability", data)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert not out.returncode, out.stderr
    return data / "learned/seed=0"


def arguments(name, data, run=""):
    return TINY[name].replace("DATA", str(data)).replace("RUN", str(run)).split()


def read(text):
    """The JSON lines of a program."""
    return [json.loads(line) for line in text.splitlines()]


def test_every_program_has_a_tiny_form():
    assert {path.stem for path in FOLDER.glob("*.py")} == TINY.keys() | OTHERS


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(TINY))
def test_a_program_prints_json_lines(name, data, request, monkeypatch, capfd):
    run = request.getfixturevalue("finished") if re.search(r"\bRUN\b", TINY[name]) else ""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments(name, data, run)])
    capfd.readouterr()
    try:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    except SystemExit as end:
        assert not end.code, end
    lines = read(capfd.readouterr().out)
    assert lines and all(lines)
    apart = "largest_relative_difference_of_losses"
    assert all(line[apart] < 1e-5 for line in lines if apart in line)


# What a machine with a GPU may lack, and what the core path never imports.
ABSENT = ("ml_collections", "orbax", "sentencepiece", "seqio", "shtab", "tensorboardX",
          "tensorflow")  # fmt: skip


@pytest.mark.long
def test_one_call_measures_a_device(tmp_path):
    for name in ABSENT:
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is absent here')\n")
    done = subprocess.run(
        ["bash", FOLDER / "gpu.sh", tmp_path / "out", "--tiny"], capture_output=True, text=True,
        env=os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(tmp_path),
                          "OMP_NUM_THREADS": "1", "XLA_FLAGS": xla_flags(1)},
    )  # fmt: skip
    lines = read(done.stdout)
    assert lines == read((tmp_path / "out/results.jsonl").read_text())
    failed = {line["part"]: line["error"] for line in lines if "error" in line}
    if WITH_TORCH:
        assert not failed and not done.returncode, (failed, done.stderr)
    else:
        assert failed.keys() == {"train-tiny-torch", "decode-torch"} and done.returncode == 1
        assert all("lacks torch, transformers" in error for error in failed.values()), failed
    parts = {part.name: [line for line in lines if line["part"] == part.name]
             for part in gpu.all_parts(True) if part.name not in failed}  # fmt: skip
    for name, own in parts.items():
        fields = {field for line in own for field in line}
        assert "seconds" in fields
        if name.startswith("train"):
            assert fields >= {"first_losses", "examples_per_second", "mfu", "peak_memory_bytes"}
        if name.startswith("decode"):
            assert fields >= {"questions_per_second", "mfu", "least_gb_s", "peak_memory_bytes"}
        tops = [line for line in own if "top" in line]
        assert len(tops) == {"device": 0, "decode-torch": 2}.get(name, 1)
        for line in tops:
            assert 1 <= len(line["top"]) <= 10
            ms = sum(kernel["ms"] for kernel in line["top"])
            assert ms + line["other_kernels_ms"] == pytest.approx(line["kernels_ms"], abs=0.01)
    floors = [line for part in parts.values() for line in part if "floor_ms" in line]
    assert {line["contestant"] for line in floors} == {"packed", "floor of a step"}
    assert all(line["over_floor"] > 0 and line["share_of_bandwidth"] > 0 for line in floors)
    measured = {line["what"]: line["measured"] for line in lines if line["part"] == "targets"}
    assert len(measured) == 8 and measured.pop("training, tiny, packed: share of the peak") is None
    if WITH_TORCH:
        assert all(value is not None for value in measured.values()), measured
        # The same batches from the same weights.
        assert measured["training, tiny: first losses apart from transformers'"] < 1e-3


def ran(part, tmp_path, left=60.0):
    """The lines of a part."""
    lines = []
    gpu.run(part, left, lines.append, tmp_path / "log.txt")
    return lines


def part_of(code, seconds=60.0, packages=()):
    return gpu.Part("part", ["-c", code], seconds, packages)


CHILD = "import subprocess, sys; print('{\"a\": 1}', flush=True)\n"
CHILD += "subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"


@pytest.mark.parametrize("part, left, printed, error", [
    (part_of("print('{\"a\": 1}'); print('noise'); print('[1]')"), 60, [{"a": 1}], None),
    (part_of("import sys; print('{\"a\": 1}'); sys.exit('out of memory')"), 60, [{"a": 1}],
     "exit status 1: out of memory"),
    (part_of("import os; os.abort()"), 60, [], "exit status -6: "),
    (part_of(CHILD, 5), 60, [{"a": 1}], "stopped after 5 s"),
    (part_of("", 60), 19, [], "no time was left for it; run it with --only part"),
    (part_of("", packages=("json", "no_such", "nor_this")), 60, [],
     f"{sys.executable} lacks no_such, nor_this, which this part needs; install them or put a "
     "folder that holds them on PYTHONPATH"),
])  # fmt: skip
def test_a_part_that_fails_is_a_line(tmp_path, part, left, printed, error):
    start = time.monotonic()
    *lines, last = ran(part, tmp_path, left)
    assert lines == [{"part": "part"} | line for line in printed]
    assert last.pop("seconds") == pytest.approx(time.monotonic() - start, abs=1)
    assert last == {"part": "part"} | ({"error": error} if error else {})


def test_targets_say_what_was_measured():
    lines = [
        {"part": "train-base-packed", "contestant": "packed", "mfu": 0.4,
         "examples_per_second": 30.0},
        {"part": "train-base-torch", "error": "stopped"},
        {"part": "decode-ours", "contestant": "continuous", "questions_per_second": 200.0},
        {"part": "decode-torch", "contestant": "authors", "questions_per_second": 1.0},
        {"part": "decode-torch", "contestant": "batched", "questions_per_second": 40.0},
    ]  # fmt: skip
    found = {row["what"]: (row["measured"], row["met"]) for row in gpu.targets(lines)}
    assert found["training, base, packed: share of the peak"] == (0.4, False)
    assert found["training, base, packed: times transformers with torch.compile"] == (None, None)
    assert found["decoding: times authors"] == (200.0, True)
    assert found["decoding: times batched"] == (5.0, False)


@pytest.mark.parametrize("mlp", ["relu", "gated-gelu"])
def test_products_are_the_operations_that_training_counts(mlp):
    config = T5Config(96, 24, 8, 40, 5, n_encoder_layers=3, n_decoder_layers=2, mlp=mlp)
    found = device.products(config, 7, 11, 5).values()
    of_source, of_target = token_flops(config, 11, 5)
    assert sum(product.flops for product in found) == 7 * (11 * of_source + 5 * of_target)


@pytest.mark.long
def test_drawn_lengths_are_those_of_gsm8k(data_folder):
    examples = load("packing").gsm8k_examples(data_folder)
    of_question: dict[str, list] = {}
    for example in examples:
        of_question.setdefault(example.id.rsplit("/", 1)[0], []).append(example)
    tables = {
        "QUESTION": [len(own[0].inputs) - 1 for own in of_question.values()],
        "SEGMENT": [len(example.targets) - 1 for example in examples],
        "SEGMENTS": [len(own) for own in of_question.values()],
    }
    for name, found in tables.items():
        table = getattr(random_work, name)
        np.testing.assert_allclose(table, np.quantile(found, random_work.SHARES), 0, 1)
    lengths = np.array([[len(e.inputs), len(e.targets)] for e in examples])
    kept = (lengths <= random_work.LONGEST).all(1)
    drawn = [[len(e.inputs), len(e.targets)] for e in random_work.examples(2000, 0)]
    np.testing.assert_allclose(np.mean(drawn, 0), lengths[kept].mean(0), rtol=0.05)
    assert kept.mean() == pytest.approx(0.76, abs=0.01)


def test_drawn_parameters_have_the_deviations_of_new_ones():
    config = T5Config(128, 64, 16, 96, 3, 1, 1, mlp="gated-gelu", tied=False)
    drawn = random_work.params(config, 0)
    new = jax.tree.map(np.asarray, t5.init(config, jax.random.key(0)))
    assert jax.tree.structure(drawn) == jax.tree.structure(new)
    for path, ours in jax.tree.leaves_with_path(drawn):
        theirs = functools.reduce(lambda tree, key: tree[key.key], path, new)
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        wanted = np.std(theirs) or np.mean(theirs)
        assert (np.std(ours) or np.mean(ours)) == pytest.approx(wanted, rel=0.2), path


def test_kernels_are_those_of_a_gpus_streams():
    event = lambda name, us, **stats: Namespace(  # noqa: E731
        name=name, duration_ns=1000 * us, stats=stats.items()
    )
    line = lambda name, *events: Namespace(name=name, events=events)  # noqa: E731
    host = Namespace(name="/host:CPU", lines=[
        line("pool", event("dot", 30, hlo_op="dot"), event("while.1", 90, hlo_op="while.1"),
             event("wait", 5)),
    ])  # fmt: skip
    gpu = Namespace(name="/device:GPU:0", lines=[
        line("XLA Ops", event("dot", 7)), line("Stream #13(Compute)", event("gemm", 4)),
        line("Stream #14(MemcpyD2D)", event("gemm", 2), event("copy", 1)),
    ])  # fmt: skip
    assert device.kernels_of([host]) == {"dot": (0.03, 1)}
    assert device.kernels_of(iter([host, gpu])) == {"gemm": (0.006, 2), "copy": (0.001, 1)}
