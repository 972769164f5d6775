"""KPOD through the command line: every stage, kills, changed fields, real data."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from shared.environment import xla_flags

from asesjax.cli.main import main
from asesjax.config import load_config
from asesjax.core.errors import UserError
from asesjax.core.files import read_json, read_jsonl
from asesjax.data.corpus import read_corpus
from asesjax.data.vocab import load_saved
from asesjax.data.vocab_training import train_vocabulary
from asesjax.experiment import execute, make_stages, open_run
from asesjax.methods.kpod.stages import WEIGHTS, predictor_shape
from asesjax.methods.kpod.steps import step_ends
from asesjax.run import Run, load_method, model_config

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/kpod.py")
SMALL = {
    "methods": "direct,kpod,kpod_self_paced,usm_kpod", "variants.usm_kpod.method": "usm",
    "variants.usm_kpod.ases.token_weights": "kpod", "data.n_train": 32, "data.n_validation": 8,
    "data.n_test": 8, "data.min_steps": 2, "data.max_steps": 3, "train.tokens": 0,
    "train.steps": 24, "train.batch_size": 8, "train.evaluate_every_share": 0.5,
    "train.save_every_steps": 3, "model.d_model": 16, "model.d_ff": 16, "model.n_heads": 2,
    "model.d_kv": 8, "model.n_encoder_layers": 1, "model.n_decoder_layers": 1,
    "train.source_buckets": "(128,)", "train.target_buckets": "(80,)", "decode.batch_size": 8,
    "decode.context_lengths": "()",
    "decode.curve_questions": 2, "decode.max_chain_tokens": 16, "decode.max_segment_tokens": 8,
    "decode.max_rounds": 2, "segment.strategy": "location", "kpod.weight_epochs": 6,
    "kpod.n_stages": 4,
}  # fmt: skip


def command(workdir, **more):
    fields = SMALL | {name.replace("__", "."): value for name, value in more.items()}
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    return ["run", "--config", CONFIG, "--workdir", str(workdir), *overrides]


def process(arguments):
    # One device is quicker to compile for than the tests' eight.
    environment = os.environ | {
        "XLA_FLAGS": xla_flags(1), "PYTHONWARNINGS": "error", "JAX_PLATFORMS": "cpu",
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "asesjax.cli.main", *arguments], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def rows(path):
    return [row for _, row in read_jsonl(path)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("kpod") / "run"
    running = process(command(workdir))
    output = running.communicate(timeout=1200)[0]
    assert running.returncode == 0, output
    return workdir


def test_the_report_has_a_row_for_every_variant(finished):
    report = read_json(finished / "report.json")
    assert [row["method"] for row in report["rows"]] == SMALL["methods"].split(",")
    text = (finished / "report.md").read_text()
    assert "| kpod_self_paced " in text
    weights = read_json(finished / "roles/kpod_weights/weights/result.json")
    before = {row["method"]: row for row in report["rows"]}
    assert before["direct"]["before"] == []
    for name in SMALL["methods"].split(",")[1:]:
        assert before[name]["before_tokens"] == weights["tokens"] > 0
        assert before[name]["before"][0]["name"] == "train-kpod-weights"
    assert f"needed: train-kpod-weights ({weights['tokens']:,} tokens, " in text
    config = load_config(CONFIG)
    names = [stage.name for stage in make_stages(Run(config, finished))]
    assert names.count("train-kpod-weights") == names.count("kpod-difficulty") == 1
    assert set(config.methods) == {"direct", "kpod", *config.variants}
    for name in config.methods[1:]:
        assert names.index("kpod-weights") < names.index(f"schedule-{name}")
        assert names.index(f"schedule-{name}") < names.index(f"train-{name}")
        assert f"decode-{name}" in names


def encoded(workdir):
    """The training records with their token weights."""
    template = load_config(CONFIG).data.answer_template
    return read_corpus(workdir, "train", template, (WEIGHTS,))


def test_what_the_stages_write_fits_together(finished, annotations):
    records = encoded(finished)
    measured = annotations(finished, "kpod/difficulty/train.npz")
    schedule = annotations(finished, "kpod/kpod/train.npz")
    for i, record in enumerate(records):
        ends, given, difficulty = (schedule[k][i] for k in ("ends", "given", "difficulty"))
        weights, n, losses = record.annotations["weights"], ends[-1], measured["losses"][i]
        assert "".join(record.chain.token_texts()[:n]) == record.record.rationale
        assert len(record.chain.ids) == len(weights) and n == len(losses)
        assert (0 <= weights).all() and (weights <= 1).all() and set(weights[n:]) == {1.0}
        assert ends == measured["ends"][i] == step_ends(record).tolist()
        assert len(difficulty) == len(ends)
        assert len(given) == 5 and given == sorted(given, reverse=True)
        steps = np.split(np.array(losses), ends[:-1])
        for own, mean in zip(steps, difficulty, strict=True):
            assert own.min() - 1e-5 <= mean <= own.max() + 1e-5
    summary = read_json(finished / "kpod/kpod/schedule.json")
    total = sum(map(sum, schedule["difficulty"]))
    assert summary["ceiling"][-1] == pytest.approx(total, abs=1e-3)
    assert summary["ceiling"][0] == pytest.approx(0.3 * total, abs=1e-3)
    for h, d in zip(summary["difficulty"], summary["ceiling"], strict=True):
        assert h <= d + 1e-9
    assert sum(summary["clusters"]) == 32
    page = (finished / "kpod/weights/train.html").read_text()
    assert page.count("<span title=") == 11 + sum(len(one.chain.ids) for one in records)


def test_the_view_of_the_data_shows_weights(finished, capsys):
    view = ["data", "--workdir", str(finished), "--show", "0"]
    assert main([*view, "--weights", "2"]) == 0
    out = capsys.readouterr().out
    assert "chains, weights in tenths" in out and "kpod/main" in out
    first = encoded(finished)[0]
    level = min(int(first.annotations["weights"][0] * 10), 9)
    assert f"{first.chain.token_texts()[0]}[{level}]" in out


def test_weights_that_are_not_trained_yet_are_refused(tmp_path, capsys):
    small = [a for a in command(tmp_path)[5:] if "methods" not in a]
    view = ["data", "--config", CONFIG, "--show", "0", "--config.methods=direct,kpod", *small]
    assert main([*view, "--weights", "1"]) == 2
    error = capsys.readouterr().err
    assert "no token weights: they are trained by asesjax run with a method" in error


@pytest.mark.parametrize(
    "field, value, stale, kept",
    [
        ("kpod__alpha", 0.7, ("train-kpod-weights", "schedule-kpod", "train-usm_kpod"),
         ("kpod-difficulty", "train-direct", "segment")),
        ("kpod__beta", 3.0, ("schedule-kpod", "train-kpod"),
         ("train-kpod-weights", "kpod-difficulty", "train-usm_kpod")),
        ("kpod__n_clusters", 2, ("kpod-difficulty", "schedule-kpod"),
         ("train-kpod-weights", "train-usm_kpod")),
        ("kpod__given", "encoder", ("train-kpod", "train-kpod_self_paced"),
         ("schedule-kpod", "train-usm_kpod", "train-direct")),
        ("train__steps", 12, ("train-direct", "train-kpod"),
         ("train-kpod-weights", "schedule-kpod")),
    ],
)  # fmt: skip
def test_a_changed_field_refuses_stages_that_read_it(finished, capsys, field, value, stale, kept):
    assert main(command(finished, **{field: value})) == 2
    error = capsys.readouterr().err
    named = {line.split(":")[0].removeprefix("  stage ") for line in error.splitlines()
             if line.startswith("  stage ")}  # fmt: skip
    assert named.issuperset(stale) and not named & set(kept), error


def test_a_predictor_may_begin_as_another_checkpoint(finished, tmp_path, annotations):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    fields = {"kpod.predictor_from": str(finished / "roles/direct/main"), "kpod.mask": "gumbel"}
    execute(open_run(None, folder, fields), ("kpod-weights",), redo=True)
    new, old = (annotations(one, WEIGHTS.format(split="train")) for one in (folder, finished))
    weights, ends = new["weights"], annotations(finished, "kpod/kpod/train.npz")["ends"]
    for own, end in zip(weights, ends, strict=True):
        assert all(0 <= w <= 1 for w in own) and set(own[end[-1] :]) == {1.0}
    assert weights != old["weights"]
    config, vocab = open_run(None, folder).config, load_saved(finished / "vocab")
    other = tmp_path / "other"
    other.mkdir()
    train_vocabulary(["a b c d"] * 9, 20, extra_ids=4).save(other / "vocab")
    model = model_config(Run(config, folder), vocab)
    with pytest.raises(UserError, match="kpod.predictor_from .* has another vocabulary"):
        predictor_shape(Run(config, other), model)


def until_killed(workdir, stage, log):
    """Start the run and end it with SIGKILL in the middle of a stage."""
    running = process(command(workdir))
    record = workdir / f"stages/{stage}.json"
    wanted = {
        "train-kpod-weights": "roles/kpod_weights/weights/checkpoints/step_[1-9]*",
        "train-kpod": "roles/kpod/main/checkpoints/step_[1-9]*",
    }
    deadline = time.time() + 600
    while not record.exists() or stage in wanted and not list(workdir.glob(wanted[stage])):
        assert running.poll() is None and time.time() < deadline, running.communicate()[0]
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    log.append(running.wait() == -signal.SIGKILL and not read_json(record)["finished"])
    running.stdout.close()


@pytest.mark.slow
def test_a_run_killed_in_every_stage_resumes_to_the_same_bits(finished, tmp_path):
    log = []
    for stage in ("train-kpod-weights", "kpod-weights", "kpod-difficulty", "schedule-kpod",
                  "train-kpod", "decode-kpod", "report"):  # fmt: skip
        until_killed(tmp_path, stage, log)
    running = process(command(tmp_path))
    output = running.communicate(timeout=1200)[0]
    assert running.returncode == 0, output
    assert all(log), log
    for name in ("weights", "difficulty", "kpod", "kpod_self_paced"):
        for file in (finished / f"kpod/{name}").iterdir():
            assert (tmp_path / f"kpod/{name}/{file.name}").read_bytes() == file.read_bytes()
    for method in ("kpod", "usm_kpod"):
        got, want = (
            jax.tree.leaves(load_method(open_run(None, folder), method).params)
            for folder in (tmp_path, finished)
        )
        for one, other in zip(got, want, strict=True):
            np.testing.assert_array_equal(one, other)
    for row in ("kpod", "usm_kpod"):
        chains = [[r["chain"] for r in rows(folder / f"predictions/{row}/test.jsonl")]
                  for folder in (tmp_path, finished)]  # fmt: skip
        assert chains[0] == chains[1]


def test_weights_are_selected_by_their_own_loss(tmp_path):
    run = open_run(CONFIG, tmp_path, {"train.keep_best": "bleu", "train.patience": "2"})
    fields = {stage.name: stage.reads for stage in make_stages(run)}
    chosen = [
        tuple(fields[f"train-{name}"][f"train.{field}"] for field in ("keep_best", "patience"))
        for name in ("kpod", "kpod-weights")
    ]
    assert chosen == [("bleu", 2), ("validation_loss", 0)]


def test_mistakes_are_explained(tmp_path, capsys):
    for more, words in (
        ({"kpod__alpha": -1.0}, "kpod.alpha must be at least 0"),
        ({"kpod__weight_epochs": 0.0}, "kpod.weight_epochs must be above 0"),
        ({"kpod__given": "decodr"}, "did you mean 'decoder'"),
        ({"data__answer_template": ""}, "KPOD needs an answer sentence"),
    ):
        folder = tmp_path / json.dumps(list(more))
        assert main(command(folder, methods="kpod", **more)) == 2
        assert words in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.data
def test_gsm8k_goes_through_every_stage(tmp_path, data_folder, annotations):
    small = {
        "data.path": data_folder / "gsm8k", "data.n_train": 32, "data.n_validation": 8,
        "data.n_test": 8, "train.tokens": 0, "train.steps": 4, "train.batch_size": 8,
        "model.d_model": 16, "model.d_ff": 16, "model.n_heads": 2, "model.d_kv": 8,
        "decode.batch_size": 8,
        "decode.context_lengths": "()", "decode.curve_questions": 2, "decode.max_chain_tokens": 16,
        "methods": "kpod,kpod_without_diversity", "kpod.n_stages": 2,
        "train.source_buckets": "(1024,)", "train.target_buckets": "(768,)",
        "kpod.weight_epochs": 0.5,
    }  # fmt: skip
    overrides = [f"--config.{name}={value}" for name, value in small.items()]
    spec = f"{CONFIG}:gsm8k"
    assert main(["run", "--config", spec, "--workdir", str(tmp_path), *overrides]) == 0
    report = read_json(tmp_path / "report.json")
    assert [row["method"] for row in report["rows"]] == ["kpod", "kpod_without_diversity"]
    steps = map(len, annotations(tmp_path, "kpod/kpod/train.npz")["ends"])
    assert max(steps) >= 4  # solutions of GSM8K have a step a line
