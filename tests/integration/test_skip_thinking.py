"""Chunk-wise and skip-thinking training through the command line, and their data against loops."""

import importlib.util
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from asesjax.cli.main import main
from asesjax.core.errors import Preempted
from asesjax.core.files import read_json, read_jsonl
from asesjax.data.vocab import load_saved
from asesjax.decode.score import score_examples, token_scores
from asesjax.evals.runner import decode_spec, n_compilations
from asesjax.experiment import open_run
from asesjax.jobs.training import role_examples
from asesjax.methods.method import TrainedMethod, make_method
from asesjax.methods.skip_thinking import skip_data as skipping
from asesjax.methods.skip_thinking import training as chunks
from asesjax.methods.skip_thinking.search import objective
from asesjax.models import t5
from asesjax.models.t5_config import T5Config
from asesjax.run import Run, load_method, load_role, with_lengths
from asesjax.training.watch import StepTimes

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/skip_thinking.py")
_spec = importlib.util.spec_from_file_location("reference", ROOT / "tests/decode/reference.py")
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)
METHODS = ["cwt", "skip_thinking", "full_thinking"]
SMALL = {
    "data.n_train": 40, "data.n_validation": 10, "data.n_test": 12, "data.min_steps": 1,
    "data.n_fillers": 1, "chunk.n_chunks": 4, "chunk.chunking": "search", "chunk.threshold": 0.0,
    "train.tokens": 0, "train.steps": 9, "train.batch_size": 16, "train.evaluate_every_share": 1.0,
    "train.source_buckets": "(112,)", "train.target_buckets": "(80,)",
    "methods": ",".join(METHODS),
    "model.d_model": 16, "model.d_ff": 32, "model.n_heads": 2, "model.d_kv": 8,
    "model.n_encoder_layers": 1, "model.n_decoder_layers": 1,
    "decode.batch_size": 8,
    "decode.context_lengths": "()", "decode.max_segment_tokens": 8, "decode.max_chain_tokens": 32,
    "decode.curve_questions": 4,
}  # fmt: skip


def command(workdir, config=CONFIG, verb="run", **more):
    fields = SMALL | {name.replace("__", "."): value for name, value in more.items()}
    return [verb, "--config", config, "--workdir", str(workdir),
            *(f"--config.{name}={value}" for name, value in fields.items())]  # fmt: skip


def train_cwt(workdir, **more):
    return [*command(workdir, verb="train", **more), "--method", "cwt"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("skip") / "run"
    assert main(command(workdir)) == 0
    return workdir


def rows(path):
    return [row for _, row in read_jsonl(path)]


def test_every_stage_ran_and_the_report_says_what_was_left_out(finished, capsys):
    assert main(["run", "--workdir", str(finished)]) == 0
    out = capsys.readouterr().out
    assert out.count("; kept") == len(list((finished / "stages").iterdir())) == 9
    report = read_json(finished / "report.json")
    assert [row["method"] for row in report["rows"]] == METHODS
    skips = report["skipping"]
    assert list(skips["methods"]) == METHODS and list(skips["data"]) == ["train", "validation"]
    for own in skips["methods"].values():
        assert own["seconds_per_question"] > 0 and own["reference_filler"] == 1
    data = skips["data"]["train"]
    assert data["records"] == 40 and data["sentences"]["FILLER"] == 40
    assert data["kept_share"] + sum(data["left_out_by_place"].values()) > 0
    assert "figures/accuracy_by_length.png" in report["figures"]
    assert (finished / "figures/accuracy_by_length.png").read_bytes().startswith(b"\x89PNG")
    text = (finished / "report.md").read_text()
    assert "Sentences left out:" in text and "| skip_thinking" in text

    cwt = read_json(finished / "roles/cwt/main/result.json")
    before = [row["before"] for row in report["rows"]]
    assert [[part["name"] for part in own] for own in before] == [
        ["chunk search"], ["train-cwt", "chunk search", "skip-data"], ["train-cwt", "chunk search"]
    ]  # fmt: skip
    assert before[1][0] == {"name": "train-cwt", "tokens": cwt["tokens"], "seconds": cwt["seconds"]}
    assert before[0][0]["seconds"] == before[2][1]["seconds"] > 0
    assert [row["before_tokens"] for row in report["rows"]] == [0, cwt["tokens"], cwt["tokens"]]


def test_chunks_move_in_training_and_their_number_stays(finished, annotations):
    phases = [annotations(finished, f"chunks/{k}/train.npz")["boundaries"] for k in range(3)]
    assert phases[-1] == annotations(finished, "chunks/train.npz")["boundaries"]
    shapes = [list(map(len, phase)) for phase in phases]
    assert shapes[0] == shapes[1] == shapes[2] and set(shapes[0]) == {4, 5}
    assert phases[0] != phases[1]
    for k, step in ((1, 3), (2, 6)):
        found = read_json(finished / f"chunks/{k}/search.json")["train"]
        changed = sum(a != b for a, b in zip(phases[k - 1], phases[k], strict=True))
        assert found["step"] == step and found["moved"] >= changed and found["cuts"] > 80
        assert found["total"][1] <= found["total"][0]


def final(workdir):
    params = load_method(open_run(None, workdir), "cwt").params
    return [np.asarray(x) for x in jax.tree.leaves(params)]


def same_as(workdir, finished):
    for one, other in zip(final(workdir), final(finished), strict=True):
        np.testing.assert_array_equal(one, other)
    for k in ("", "0/", "1/", "2/"):
        file = f"chunks/{k}train.npz"
        assert (workdir / file).read_bytes() == (finished / file).read_bytes()
    steps = [[(row["kind"], row["step"]) for row in rows(folder / "roles/cwt/main/metrics.jsonl")]
             for folder in (workdir, finished)]  # fmt: skip
    assert steps[0] == steps[1]


@pytest.mark.parametrize(
    "stop", [2, pytest.param(4, marks=pytest.mark.slow), 7], ids=lambda n: f"step {n}"
)
def test_training_stopped_within_a_phase_resumes_to_the_same_bits(
    finished, tmp_path, stop, monkeypatch
):
    def waits(self, following, now, *what):
        if following == stop + 1:
            raise Preempted(f"stopped after step {stop}")

    own = dict(train__save_every_steps=1)
    with monkeypatch.context() as patch:
        patch.setattr(StepTimes, "waits", waits)
        assert main(train_cwt(tmp_path, **own)) == 42
    assert main(train_cwt(tmp_path, **own)) == 0
    same_as(tmp_path, finished)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("when", ["before the search", "in the search", "after it"])
def test_training_killed_between_phases_resumes_to_the_same_bits(
    finished, tmp_path, when, monkeypatch
):

    def kill(*args, **options):
        raise Killed

    with monkeypatch.context() as patch:
        if when == "before the search":
            patch.setattr(chunks, "search", kill)
        elif when == "in the search":
            patch.setattr(chunks, "write_json", kill)
            patch.setattr(chunks, "_cut_evenly", kill)
            for split in ("train", "validation"):
                target = tmp_path / f"chunks/0/{split}.npz"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(finished / f"chunks/0/{split}.npz", target)
            shutil.copy(finished / "chunks/0/search.json", tmp_path / "chunks/0")
        else:
            train_role = chunks.train_role
            phases = iter([train_role, kill])
            patch.setattr(chunks, "train_role", lambda *a, **o: next(phases)(*a, **o))
        with pytest.raises(Killed):
            main(train_cwt(tmp_path))
    there = (tmp_path / "chunks/1/search.json").exists()
    assert there == (when == "after it")
    assert (tmp_path / "chunks/1/train.npz").exists() == (when != "before the search")
    assert main(train_cwt(tmp_path)) == 0
    same_as(tmp_path, finished)


def test_phases_go_on_between_evaluations_by_what_is_written(finished, tmp_path):
    patient = {"train__keep_best": "answer_accuracy", "train__patience": 9}
    assert main(train_cwt(tmp_path, train__evaluate_every_share=0.5, **patient)) == 0
    run = open_run(None, tmp_path)
    last = jax.tree.leaves(load_role(run, make_method("cwt", run.config), "main", 9))
    for one, other in zip(last, final(finished), strict=True):
        np.testing.assert_array_equal(one, other)
    for k in ("", "0/", "1/", "2/"):
        file = f"chunks/{k}train.npz"
        assert (tmp_path / file).read_bytes() == (finished / file).read_bytes()
    assert len(list((tmp_path / "curves/cwt").glob("*.jsonl"))) == 2


def test_too_few_steps_for_the_phases(finished, tmp_path, capsys):
    assert main(train_cwt(tmp_path, train__steps=2)) == 2
    assert "2 steps of training cannot be divided into the 3 phases" in capsys.readouterr().err


def test_settings_are_checked_before_anything_runs(tmp_path, capsys):
    assert main(command(tmp_path, chunk__mark_from=9)) == 2
    assert "vocab.extra_ids is 12; set it to at least 16" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def plain_answer(student, config, sample, kept, following):
    """One trial in plain Python: the specification's inner loop, and the smallest margin."""
    spec, limits = decode_spec(student.method, student.vocab)
    n, answer, margin = len(sample.boundaries) - 1, spec.n_turns - 1, np.inf
    stages = [*range(n - len(following), n), answer]
    if config.skip.continuation == "teacher":
        kept, stages = [*kept, *following], [answer]
    ids = [i for run in sample.ids(kept) for i in run]
    while stages:
        stage, token, segment = stages.pop(0), None, []
        context = [*spec.turns[stage].prompt.lead, *sample.question, *ids, spec.eos_id]
        while token is None or len(segment) < limits.max_segment_tokens:
            logits = reference.next_logits(student.model, student.params["main"], context, segment)
            logits = logits[: spec.vocab_limit].copy()
            logits[0] = -np.inf
            first, second = np.sort(logits)[[-1, -2]]
            margin, token = min(margin, float(first - second)), int(logits.argmax())
            if token in (spec.eos_id, spec.turns[-1].mark):
                break
            segment.append(token)
        if stage != answer:
            ids += segment
            if token == spec.turns[-1].mark:
                stages = [answer]
    return student.vocab.decode(segment), margin


def plain_kept(student, config, sample, judge):
    """The specification's loop over chunks, and our last test."""
    n, kept, margins = len(sample.boundaries) - 1, [], []

    def right(kept, following):
        text, margin = plain_answer(student, config, sample, kept, following)
        margins.append(margin)
        return judge(text)

    if config.skip.order == "front_to_back":
        for m in range(n):
            if not right(kept, range(m + 1, n)):
                kept.append(m)
    else:
        for m in reversed(range(n)):
            if not right(range(m), kept):
                kept.insert(0, m)
    before, after = right(range(n), ()), right(kept, ())
    return (kept if after else list(range(n))), before, after or before, min(margins)


@pytest.fixture(scope="module")
def wild(finished):
    """A student with large random weights, which writes chunks of all kinds."""
    run = open_run(None, finished)
    vocab = load_saved(run / "vocab")
    model = T5Config(256, 16, 8, 32, 2, n_encoder_layers=1, n_decoder_layers=1, tied=False)
    params = jax.tree.map(lambda x: 2.5 * x, t5.init(model, jax.random.key(1)))
    marks = [vocab.eos_id, vocab.sentinel(run.config.chunk.mark_from + 4)]
    kernel = params["decoder"]["logits_dense"]["kernel"]
    params["decoder"]["logits_dense"]["kernel"] = kernel.at[:, marks].multiply(2.0)
    method = with_lengths(run, make_method("cwt", run.config))
    return run, TrainedMethod(method, model, {"main": params}, vocab)


def judge(text, answer="", metric="", marker=""):
    """Right or wrong by chance, so that all kinds of trials turn up."""
    return sum(map(ord, text)) % 3 == 0


@pytest.mark.parametrize("order", ["front_to_back", "back_to_front"])
@pytest.mark.parametrize("continuation", ["student", "teacher"])
def test_skip_data_equals_plain_python(wild, monkeypatch, continuation, order):
    run, student = wild
    monkeypatch.setattr(skipping, "is_correct", judge)
    fields = {"skip.continuation": continuation, "skip.order": order}
    run = Run(run.config.changed(fields), run.workdir)
    samples = chunks.read_samples(run, "train")[:20]
    before = n_compilations()
    found = skipping.skip_rows(run, student, samples)
    # Chunks and answers are a program each, compiled once for each length that contexts have.
    assert n_compilations() - before <= 3 * 2
    clear = some = 0
    for sample, row in zip(samples, found, strict=True):
        kept, right_before, right_after, margin = plain_kept(student, run.config, sample, judge)
        if margin < 1e-3:  # rounding could turn it
            continue
        clear += 1
        some += 0 < len(kept) < len(row["chunks"])
        own = (row["kept"], row["right_before"], row["right_after"])
        assert own == (kept, right_before, right_after)
        # What is kept is enough for the answer, or it is everything.
        assert right_after or len(kept) == len(row["chunks"])
    assert clear >= 15 and some >= 4


def test_cuts_move_by_the_loss_of_the_items(finished):
    run = open_run(None, finished)
    student = load_method(run, "cwt")
    even = "chunks/0/{split}.npz"
    samples = chunks.read_samples(run, "train", even)
    found = chunks.search_boundaries(run, student, samples)
    n_compiled = token_scores._cache_size()
    assert chunks.search_boundaries(run, student, samples) == found
    assert token_scores._cache_size() == n_compiled
    items = role_examples(run, student.method, "train", (even,))["main"]
    for sample, before, after in zip(samples, found.before, found.after, strict=True):
        own = [item for item in items if item.id.split("/")[0] == sample.record.id][:-1]
        assert len(own) == len(before) == len(after)
        scores = score_examples(student.model, student.params["main"], own, (112,), (80,))
        for item, cost, (nll, _) in zip(own, before, scores, strict=True):
            assert cost.nll == pytest.approx(float(nll.sum()), rel=1e-5)
            assert cost.tokens == len(item.targets)
        assert objective(after, "total") <= objective(before, "total") + 1e-6


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("argument, source, folder", [
    ("svamp", "palm_svamp", "palm_rationales/svamp"),
    ("letters", "last_letter_concatenation", "symbolic"),
])  # fmt: skip
def test_real_data_goes_through_every_stage(tmp_path, data_folder, argument, source, folder):
    fields = dict(
        data__source=source, data__path=data_folder / folder,
        data__n_train=24, data__n_validation=6, data__n_test=6,
        train__steps=3, methods="skip_thinking,full_thinking", skip__write="stages",
        train__source_buckets="(512,)", train__target_buckets="(256,)",
        decode__max_chain_tokens=160, decode__question_buckets="(512,)", vocab__extra_ids=100,
        data__n_fillers=0,
    )  # fmt: skip
    assert main(command(tmp_path, f"{CONFIG}:{argument}", **fields)) == 0
    report = read_json(tmp_path / "report.json")
    assert [row["method"] for row in report["rows"]] == ["skip_thinking", "full_thinking"]
    assert report["skipping"]["data"]["train"]["records"] == 24
    sizes = {len(row["chunks"]) for row in rows(tmp_path / "skip/train.jsonl")}
    assert max(sizes) == 4 and (len(sizes) > 1) == (argument == "svamp")
