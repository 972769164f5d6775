"""Checkpoints selected by what the roles of a method write together (``train.keep_best``)."""

from pathlib import Path

import jax
import numpy as np
import pytest

from asesjax.core.errors import UserError
from asesjax.core.files import read_json, read_jsonl
from asesjax.core.stages import builds_on
from asesjax.evals.report import accuracy
from asesjax.evals.text import corpus_bleu
from asesjax.experiment import execute, make_stages, open_run
from asesjax.jobs import curve, training
from asesjax.methods.ases import stages as ases
from asesjax.methods.method import make_method
from asesjax.run import load_role
from asesjax.training import loop
from asesjax.training.checkpoint import read_cursor

pytestmark = pytest.mark.long

SMOKE = str(Path(__file__).resolve().parents[2] / "configs/smoke.py")
EPOCHS, BATCH = 1.5, 8
FIELDS = {
    "methods": "dsm", "segment.strategy": "location", "train.steps": "0",
    "train.epochs": str(EPOCHS), "train.evaluate_every_share": "0.25", "train.keep_best": "bleu",
    "decode.curve_questions": "4", "data.n_test": "4",
}  # fmt: skip
ROLES = ("es", "as")


class Killed(BaseException):
    """Nothing catches it."""


def open_dsm(workdir, **more):
    fields = FIELDS | {name.replace("__", "."): value for name, value in more.items()}
    return open_run(SMOKE, workdir, fields)


def script(patch, values):
    """Evaluations are decoded and come out as ``values`` says."""
    measured, seen = training.decoded_measures, []

    def scripted(run, method, evaluations):
        found = measured(run, method, evaluations)
        seen[:] = found
        return [row | {run.config.train.keep_best: values[row["step"]]} for row in found]

    patch.setattr(training, "decoded_measures", scripted)
    return seen


def results(workdir):
    return [read_json(workdir / f"roles/dsm/{role}/result.json") for role in ROLES]


def params(run, role, step=None):
    return jax.tree.leaves(load_role(run, make_method("dsm", run.config), role, step))


def same(one, other):
    return all(map(np.array_equal, one, other))


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    """A run whose second of four evaluations wrote best, its BLEU as it was, and times of files."""
    run = open_dsm(tmp_path_factory.mktemp("selected") / "run")
    with pytest.MonkeyPatch.context() as patch:
        seen = script(patch, [0.1, 0.5, 0.4, 0.2])
        execute(run, until=("train-dsm",))
    files = sorted((run / "curves/dsm").glob("*.jsonl"))
    before = {path.name: path.stat().st_mtime_ns for path in files}
    execute(run)
    return run, seen, before


def test_every_role_passes_its_own_examples_as_often_as_asked(selected):
    run, _, _ = selected
    sizes = []
    for role, result in zip(ROLES, results(run.workdir), strict=True):
        cursor = read_cursor(run / f"roles/dsm/{role}", result["steps"])
        assert result["steps"] == round(EPOCHS * result["examples"] / BATCH)
        assert abs(cursor["totals"]["examples"] / result["examples"] - EPOCHS) < 0.1
        sizes.append(result["examples"])
    assert sizes[0] != sizes[1]
    report = read_json(run / "report.json")
    assert report["budget"] == "every role gets 1.5 epochs over its own examples"
    best = [result["best_step"] for result in results(run.workdir)]
    assert report["rows"][0]["selected_steps"] == best


def test_the_best_evaluation_is_selected_for_all_roles_and_restored_exactly(selected):
    run, _, _ = selected
    for role, result in zip(ROLES, results(run.workdir), strict=True):
        best = result["kept_steps"][1]
        assert len(result["kept_steps"]) == 4 and result["best_step"] == best < result["steps"]
        assert same(params(run, role), params(run, role, best))
        assert not same(params(run, role), params(run, role, result["steps"]))


def test_the_curve_is_what_was_measured_and_is_decoded_once(selected):
    run, seen, before = selected
    points = read_json(run / "predictions/dsm/curve.json", list)
    kept = [own["kept_steps"] for own in results(run.workdir)]
    assert [tuple(point["steps"]) for point in points] == list(zip(*kept, strict=True))
    for point, measured in zip(points, seen, strict=True):
        rows = [row for _, row in read_jsonl(run / "predictions/dsm" / point["file"])]
        chains, references = ([row[k] for row in rows] for k in ("chain", "reference_chain"))
        assert len(rows) == 4 and measured["bleu"] == corpus_bleu(chains, references, "en")
    files = {path.name: path.stat().st_mtime_ns for path in (run / "curves/dsm").glob("*.jsonl")}
    assert files == before and len(files) == 4


def test_roles_stop_together_and_a_killed_selection_resumes_to_the_same(
    selected, tmp_path, monkeypatch
):
    run = open_dsm(tmp_path, train__keep_best="answer_accuracy", train__patience="1")
    script(monkeypatch, [0.1, 0.5, 0.5, 0.9])
    with monkeypatch.context() as patch:
        calls, predict = [], curve.predict

        def killed(*args):
            calls.append(len(calls))
            if len(calls) == 2:
                raise Killed
            return predict(*args)

        patch.setattr(curve, "predict", killed)
        with pytest.raises(Killed):
            execute(run, until=("train-dsm",))
    assert len(list((tmp_path / "curves/dsm").glob("*.jsonl"))) == 1
    assert not (tmp_path / "roles/dsm/es/result.json").exists()
    execute(run, until=("decode-dsm",))

    # The third evaluation is no better than the second, and has learned more; the fourth would have
    # been better.
    whole = results(selected[0].workdir)
    for role, result, other in zip(ROLES, results(tmp_path), whole, strict=True):
        assert result["kept_steps"] == other["kept_steps"][:3]
        assert (result["steps"], result["best_step"]) == (other["kept_steps"][2],) * 2
        for step in result["kept_steps"]:  # trained in turn, as if through
            assert same(params(run, role, step), params(selected[0], role, step))
        assert same(params(run, role), params(run, role, result["best_step"]))
    assert len(read_json(tmp_path / "predictions/dsm/curve.json", list)) == 3
    rows = [row for _, row in read_jsonl(next((tmp_path / "curves/dsm").glob("*.jsonl")))]
    assert 0 <= accuracy(rows, "numeric")[0] <= 1


def test_a_selection_by_chains_needs_questions_and_depends_on_decoding(tmp_path):
    with pytest.raises(UserError, match="keep_best=bleu.*decode.curve_questions=0.*at least 1"):
        make_stages(open_dsm(tmp_path, decode__curve_questions="0"))

    def train_fields(**more):
        stages = {stage.name: stage for stage in make_stages(open_dsm(tmp_path, **more))}
        owners = [name for name, stage in stages.items() if "curves/dsm" in stage.outputs]
        return stages["train-dsm"].reads, owners

    fields, owners = train_fields()
    assert {"decode.curve_questions", "evaluate.language", "ases.stop_text"} <= fields.keys()
    assert "evaluate.metric" not in fields and owners == ["train-dsm"]
    assert "evaluate.metric" in train_fields(train__keep_best="answer_accuracy")[0]
    fields, owners = train_fields(train__keep_best="validation_loss", decode__curve_questions="0")
    assert "decode.curve_questions" not in fields and owners == ["decode-dsm"]


def test_a_scorer_of_its_own_is_its_best_checkpoint_and_is_counted(tmp_path, monkeypatch):
    scorer = {"variants.scorer.method": "direct", "segment.scorer": "scorer"}
    own = {"methods": "usm", "variants.scorer.train.keep_best": "validation_loss"}
    run = open_run(SMOKE, tmp_path, scorer | own | {"decode.curve_questions": "0"})
    losses = iter([1.0, 2.0])
    with monkeypatch.context() as patch:
        patch.setattr(
            loop, "validate",
            lambda *args: {"validation_loss": next(losses), "validation_accuracy": 0.5},
        )  # fmt: skip
        execute(run, until=("train-scorer",))
    result = read_json(tmp_path / "roles/scorer/main/result.json")
    assert result["best_step"] == result["kept_steps"][0] < result["steps"]

    used, score = [], ases.score_examples
    monkeypatch.setattr(
        ases, "score_examples", lambda model, p, *a, **k: used.append(p) or score(model, p, *a, **k)
    )
    execute(run)
    row = make_method("scorer", run.config)
    steps = result["best_step"], result["steps"]
    assert [same(jax.tree.leaves(used[0]), jax.tree.leaves(load_role(run, row, "main", step)))
            for step in steps] == [True, False]  # fmt: skip
    (usm,) = read_json(tmp_path / "report.json")["rows"]
    assert [part["name"] for part in usm["before"]] == ["train-scorer", "score", "segment"]
    assert usm["before_tokens"] == result["tokens"] == usm["before"][0]["tokens"]
    assert usm["before_seconds"] == sum(part["seconds"] for part in usm["before"]) > 0
    assert not usm["curve"] and not (tmp_path / "curves").exists()
    needed = f"usm needed: train-scorer ({result['tokens']:,} tokens, "
    assert needed in (tmp_path / "report.md").read_text()

    # A scorer that only compares its labels with gold ones is no part of what a row needs.
    gold = open_run(SMOKE, tmp_path, {"methods": "direct,usm", "segment.strategy": "location"})
    stages = make_stages(gold)
    assert "train-direct" in next(own for own in stages if own.name == "score").needs
    assert [own.name for own in builds_on(stages, "train-usm")] == ["data", "score", "segment"]
