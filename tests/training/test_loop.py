"""The loop as a whole: resumes, divergence, signals, what is logged and kept."""

import dataclasses
import json
import re
import resource
import shutil
import signal

import jax
import numpy as np
import pytest

from asesjax.core import signals
from asesjax.core.errors import Preempted, UserError
from asesjax.core.metric_log import read_metrics
from asesjax.losses import LossSums
from asesjax.models import t5
from asesjax.sharding.mesh import make_mesh
from asesjax.sharding.place import rules
from asesjax.training import checkpoint, duration, loop, meter, objective, validation


def same(tiny, a, b):
    a, b = tiny.leaves(a), tiny.leaves(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """An uninterrupted run: its folder and its result."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, tiny.run(folder)


def test_files_and_totals_of_a_run(tiny, whole):
    folder, result = whole
    rows = tiny.lines(folder)
    assert [(row["kind"], row["step"]) for row in rows] == [
        ("train", 3), ("train", 6), ("train", 9), ("train", 12), ("validation", 12),
        ("train", 15), ("train", 18), ("train", 21), ("train", 24), ("validation", 24),
    ]  # fmt: skip
    assert rows[-2]["loss"] < rows[0]["loss"]
    assert result.steps == 24 and result.kept_steps == (12, 24) and result.n_programs == 2
    assert result.tokens == rows[-2]["tokens"]
    assert result.examples == rows[-2]["examples"] == 24 * 8
    assert rows[-2]["tokens"] == rows[-2]["source_tokens"] + rows[-2]["target_tokens"]
    assert checkpoint.steps(folder / "checkpoints") == [12, 20, 24]
    times = [row["seconds"] for row in read_metrics(folder / "metrics.jsonl")]
    assert times == sorted(times) and 0 < times[0] and times[-1] <= result.seconds + 1e-3 < 60
    assert list((folder / "tensorboard").iterdir())


def test_the_progress_says_what_is_compiled(tiny, tmp_path, capsys):
    loop._programs.cache_clear()
    tiny.run(tmp_path, until=1)
    assert re.search(r"step 0/24: compiling \d+ x \d+ for step 1\n", capsys.readouterr().err)


def test_training_in_parts_equals_training_at_once(tiny, whole, tmp_path):
    """Stopped at given steps and resumed, on the same examples: the same bits; a part is kept."""
    for until, steps in ((7, 7), (7, 7), (15, 15), (10, 15), (None, 24)):
        result = tiny.run(tmp_path, until=until)
        assert result.steps == steps == checkpoint.steps(tmp_path / "checkpoints")[-1]
    same(tiny, result.params, whole[1].params)
    assert tiny.lines(tmp_path)[-1]["step"] == 24


def test_a_later_part_may_have_other_examples(tiny, whole, tmp_path):
    tiny.run(tmp_path, until=12)
    result = tiny.run(tmp_path, items=tiny.examples(seed=1))
    again = tiny.run(tmp_path)
    same(tiny, result.params, again.params)  # finished: nothing is trained
    other = tiny.leaves(result.params)
    assert any((other[name] != value).any() for name, value in tiny.leaves(whole[1].params).items())


def test_tokens_and_padding_are_those_of_the_batches(tiny, whole):
    from asesjax.data.batching import batch_at, make_plan

    train, examples = tiny.config(), tiny.examples()
    plan = make_plan(examples, 8, train.source_buckets, train.target_buckets, seed=3)
    source = target = places = 0
    for i in range(3):
        batch = batch_at(plan, examples, i)
        source += int((batch["encoder_input_tokens"] != 0).sum())
        target += int((batch["decoder_target_tokens"] != 0).sum())
        places += batch["encoder_input_tokens"].size + batch["decoder_target_tokens"].size
    row = tiny.lines(whole[0])[0]
    assert (row["source_tokens"], row["target_tokens"]) == (source, target)
    assert row["padding_share"] == pytest.approx(1 - (source + target) / places)


def test_validation_loss_is_that_of_all_of_validation(tiny, whole):
    folder, result = whole
    sums = LossSums(0, 0, 0, 0)
    from asesjax.data.batching import eval_batches

    for batch in eval_batches(tiny.examples(20, seed=9), 20, (16,), (8,)):
        sums = objective.batch_loss(tiny.DRY, result.params, batch)
    row = tiny.lines(folder)[-1]
    want = float(sums.nll_sum) / float(sums.weight_sum)
    assert row["validation_loss"] == pytest.approx(want, rel=1e-5)


def test_a_finished_role_returns_at_once(tiny, whole):
    folder, result = whole
    before = (folder / "metrics.jsonl").stat().st_mtime_ns
    again = tiny.run(folder)
    assert again.n_programs == 0
    same(tiny, again.params, result.params)
    assert (again.steps, again.tokens, again.examples, again.seconds, again.kept_steps) == (
        result.steps, result.tokens, result.examples, result.seconds, result.kept_steps
    )  # fmt: skip
    assert (folder / "metrics.jsonl").stat().st_mtime_ns == before


@pytest.mark.parametrize("stop", [4, 11, 12, 23])
def test_a_resumed_run_is_bit_identical(tiny, whole, tmp_path, stop):
    with tiny.stopped(stop):
        tiny.run(tmp_path)
    # No save of its own: those of every fifth step, the last two of them, and the evaluated 12.
    there = {4: [], 11: [5, 10], 12: [10, 12], 23: [12, 15, 20]}[stop]
    assert checkpoint.steps(tmp_path / "checkpoints") == there
    result = tiny.run(tmp_path)
    same(tiny, result.params, whole[1].params)
    assert tiny.lines(tmp_path) == tiny.lines(whole[0])
    assert (result.tokens, result.examples) == (whole[1].tokens, whole[1].examples)


def test_a_damaged_newest_checkpoint_costs_steps_but_not_bits(tiny, whole, tmp_path, capsys):
    with tiny.stopped(17):
        tiny.run(tmp_path)
    newest = tmp_path / "checkpoints" / "step_15"
    victim = max((newest / "params").rglob("*"), key=lambda path: path.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-20])
    result = tiny.run(tmp_path)
    (warning,) = [x for x in capsys.readouterr().err.splitlines() if "warning" in x]
    assert str(newest) in warning and "damaged" in warning
    same(tiny, result.params, whole[1].params)
    assert tiny.lines(tmp_path) == tiny.lines(whole[0])


def test_resuming_on_another_mesh_stays_close(tiny, whole, tmp_path):
    with tiny.stopped(12):
        tiny.run(tmp_path)
    result = tiny.run(tmp_path, mesh=make_mesh(2, 2, 2), rules=rules("fsdp_tp"))
    assert any(not x.sharding.is_fully_replicated for x in jax.tree.leaves(result.params))
    for row, want in zip(tiny.lines(tmp_path), tiny.lines(whole[0]), strict=True):
        assert row.keys() == want.keys()
        if row["kind"] == "train":
            assert row["loss"] == pytest.approx(want["loss"], rel=1e-3)
            assert row["tokens"] == want["tokens"]


def test_sigterm_before_the_first_step_loses_nothing(tiny, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(signals, "_came", signal.SIGTERM)
    for _ in range(2):  # the second time there is a checkpoint of step 0
        with pytest.raises(Preempted, match="after step 0 of 24"):
            tiny.run(tmp_path)
        assert checkpoint.steps(tmp_path / "checkpoints") == [0]
    monkeypatch.undo()
    same(tiny, tiny.run(tmp_path).params, whole[1].params)
    assert tiny.lines(tmp_path) == tiny.lines(whole[0])


@pytest.mark.parametrize("packed_length", [0, 32])
def test_a_loss_that_is_not_finite_stops_the_run(tiny, tmp_path, monkeypatch, packed_length):
    real, poisoned = loop.batch_at, []

    def batch_at(plan, examples, i, *share):
        batch = real(plan, examples, i, *share)
        if i == 7:
            batch["decoder_loss_weights"][0, 0] = np.inf
            poisoned[:] = [examples[k].id for k in batch["example_index"].ravel() if k >= 0]
        return batch

    monkeypatch.setattr(loop, "batch_at", batch_at)
    with pytest.raises(UserError) as caught:
        tiny.run(tmp_path, tiny.config(packed_length=packed_length), role="direct/main")
    message = str(caught.value)
    assert "role direct/main: loss is inf at step 8" in message
    assert ", ".join(poisoned[:8]) in message and "train.learning_rate" in message
    assert (f" and {len(poisoned) - 8} more" in message) == (len(poisoned) > 8)
    assert (len(poisoned) > 8) == bool(packed_length)
    assert str(tmp_path / "checkpoints" / "step_5") in message
    assert checkpoint.steps(tmp_path / "checkpoints") == [5]
    assert max(row["step"] for row in tiny.lines(tmp_path)) < 8


def test_an_infinite_gradient_stops_before_the_evaluation(tiny, tmp_path):
    huge = jax.tree.map(lambda x: x * 1e15, t5.init(tiny.DRY, jax.random.key(0)))
    with pytest.raises(UserError, match=r"(loss|gradient norm) is (nan|inf) at step \d+"):
        tiny.run(tmp_path, tiny.config(clip_norm=0.0, learning_rate=1e30), tiny.DRY,
                 init_params=huge)  # fmt: skip
    assert not [row for row in tiny.lines(tmp_path) if row["kind"] == "validation"]


@pytest.fixture
def full_disk():
    """Let no file grow beyond some bytes: for the program, a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda n: resource.setrlimit(resource.RLIMIT_FSIZE, (n, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit, what", [(20_000, "a checkpoint to"), (1_500, "{}/metrics.jsonl")])
def test_a_full_disk_is_an_error_and_loses_nothing(tiny, whole, tmp_path, full_disk, limit, what):
    with tiny.stopped(11):
        tiny.run(tmp_path)
    full_disk(limit)
    with pytest.raises(UserError) as caught:
        tiny.run(tmp_path)
    full_disk(resource.RLIM_INFINITY)
    message = str(caught.value)
    assert f"cannot write {what.format(tmp_path)}" in message and "File too large" in message
    assert checkpoint.steps(tmp_path / "checkpoints") == [5, 10]
    same(tiny, tiny.run(tmp_path).params, whole[1].params)
    assert tiny.lines(tmp_path) == tiny.lines(whole[0])


def test_a_folder_that_cannot_be_made_is_a_user_error(tiny, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot write .*Not a directory"):
        tiny.run(tmp_path / "file" / "role")
    assert (tmp_path / "file").read_text() == "mine"


def test_nonfinite_updates_are_skipped_and_counted_and_too_many_stop_the_run(
    tiny, tmp_path, monkeypatch, capsys
):
    real, bad = loop.batch_at, {4, 5}

    def batch_at(plan, examples, i, *share):
        batch = real(plan, examples, i, *share)
        if i in bad:
            batch["decoder_loss_weights"][0, 0] = np.inf
        return batch

    monkeypatch.setattr(loop, "batch_at", batch_at)
    skipping = {"skip_nonfinite": True}
    with tiny.stopped(5):  # in a window with a step that was left out
        tiny.run(tmp_path / "a", tiny.config(**skipping))
    result = tiny.run(tmp_path / "a", tiny.config(**skipping))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(result.params))
    rows = [row for row in tiny.lines(tmp_path / "a") if row["kind"] == "train"]
    assert [row["skipped"] for row in rows] == [0, 2] + [0] * 6
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert "step 6: 2 of 3 updates skipped, not finite" in capsys.readouterr().err

    bad |= set(range(4, 24))
    monkeypatch.setattr(meter, "_MOST_SKIPPED", 7)
    with tiny.stopped(8):
        tiny.run(tmp_path / "b", tiny.config(**skipping))
    # Four of the seven came before the interruption: step 5 was saved, 6, 7 and 8 are done again.
    with pytest.raises(UserError, match="not finite for the 7th time in a row at step 11, in the"):
        tiny.run(tmp_path / "b", tiny.config(**skipping))


def test_init_params_are_where_training_starts(tiny, whole, tmp_path):
    start_from = whole[1].params
    config = tiny.config(learning_rate=1e-9, weight_decay=0.0, steps=1, evaluate_every_share=1.0)
    result = tiny.run(tmp_path, config, n_steps=1, init_params=start_from)
    for name, value in tiny.leaves(start_from).items():
        np.testing.assert_allclose(tiny.leaves(result.params)[name], value, atol=1e-8)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"n_steps": 30}, "optimizer steps was 24 and is now 30"),
        ({"seed": 4}, "seed was 3 and is now 4"),
        ({"items": 49}, "training examples was 50 and is now 49"),
        ({"train_config": {"learning_rate": 0.5}}, "train.learning_rate was 0.01 and is now 0.5"),
        ({"train_config": {"optimizer": "adafactor"}}, "train.optimizer was 'adamw'"),
        ({"train_config": {"source_buckets": (16,)}}, "train.source_buckets"),
    ],
)
def test_a_folder_of_another_run_is_refused_and_left_alone(tiny, whole, change, message):
    if "train_config" in change:
        change = {"train_config": tiny.config(**change["train_config"])}
    if "items" in change:
        change = {"items": tiny.examples(change["items"])}
    before = checkpoint.steps(whole[0] / "checkpoints")
    with pytest.raises(UserError, match=re.escape(message)):
        tiny.run(whole[0], **change)
    assert checkpoint.steps(whole[0] / "checkpoints") == before


def test_another_model_is_refused_with_the_shapes(tiny, whole):
    with pytest.raises(UserError, match=r"wi/kernel: expected \(16, 48\), found \(16, 32\)"):
        tiny.run(whole[0], model=dataclasses.replace(tiny.MODEL, d_ff=48))


def test_a_batch_that_the_devices_cannot_share_is_refused(tiny, tmp_path):
    with pytest.raises(UserError, match="8 in 2 microbatches gives 4 rows, which 8 devices"):
        tiny.run(tmp_path, tiny.config(microbatches=2), mesh=make_mesh())


def test_metrics_are_read_only_when_the_next_step_is_running(tiny, tmp_path, monkeypatch):
    reads = []
    real = loop.Meter._count
    monkeypatch.setattr(
        loop.Meter, "_count", lambda self, i, v: (reads.append(i), real(self, i, v))[1]
    )
    dispatched = []
    add = loop.Meter.add

    def spy(self, i, metrics, *lengths):
        add(self, i, metrics, *lengths)
        dispatched.append((i, len(reads)))

    monkeypatch.setattr(loop.Meter, "add", spy)
    config = tiny.config(log_every_steps=4, save_every_steps=0, evaluate_every_share=1.0)
    tiny.run(tmp_path, config)
    # Steps 1-4 are read when step 5 is under way, 5-8 when step 9 is.
    assert dispatched == [(i, 4 * ((i - 1) // 4)) for i in range(1, 25)]


def test_cursor_holds_the_unfinished_window(tiny, tmp_path):
    with tiny.stopped(6):
        tiny.run(tmp_path)
    cursor = json.loads((tmp_path / "checkpoints/step_5/cursor/metadata").read_text())
    assert cursor["step"] == 5 and cursor["window"]["steps"] == 2  # steps 4 and 5
    assert cursor["totals"]["examples"] == 40 and cursor["seconds"] > 0
    shutil.rmtree(tmp_path / "checkpoints/step_5")
    assert checkpoint.steps(tmp_path / "checkpoints") == []


LOSSES = [3.0, 2.0, 2.5, 2.0, 1.0, 1.5]  # of the evaluations at steps 4, 8, ..., 24


@pytest.fixture
def scripted(monkeypatch):
    """Evaluations come out as LOSSES says, one after the other."""
    evaluated = []

    def validate(eval_fn, params, batches, mesh):
        loss = LOSSES[len(evaluated)]
        evaluated.append(loss)
        return {"validation_loss": loss, "validation_accuracy": 1 / loss}

    monkeypatch.setattr(loop, "validate", validate)
    return evaluated


@pytest.mark.parametrize("metric", ["validation_loss", "validation_accuracy"])
def test_training_stops_when_validation_stops_improving(tiny, tmp_path, scripted, capsys, metric):
    fields = {"evaluate_every_share": 1 / 6, "keep_best": metric}
    config = tiny.config(patience=2, **fields)
    with tiny.stopped(10):
        tiny.run(tmp_path, tiny.config(patience=2, **fields))
    result = tiny.run(tmp_path, config)  # remembers the evaluations before
    assert (result.steps, result.best_step, result.kept_steps) == (16, 8, (4, 8, 12, 16))
    assert f"{metric} has not gained for 2 evaluations; stopped early, the best was at step 8" in (
        capsys.readouterr().err
    )
    assert len(scripted) == 4 and 8 in checkpoint.steps(tmp_path / "checkpoints")
    again = tiny.run(tmp_path, config)
    assert again.n_programs == 0 and again.compile_seconds == 0
    of_call = {"params": None, "n_programs": 0, "compile_seconds": 0.0}
    assert dataclasses.replace(again, **of_call) == dataclasses.replace(result, **of_call)
    # With more patience it resumes where it stopped.
    longer = tiny.run(tmp_path, tiny.config(patience=3, **fields))
    assert (longer.steps, longer.best_step) == (24, 20)
    assert dataclasses.replace(longer, params=None).kept_steps == (4, 8, 12, 16, 20, 24)


def test_stopping_early_changes_no_bit_of_what_came_before(tiny, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "gave_up", lambda evaluations, train: len(evaluations) == 1)
    early = tiny.run(tmp_path)
    assert early.steps == 12 and early.best_step == 12  # keep_best is off: the last
    assert tiny.lines(tmp_path) == tiny.lines(whole[0])[:5]
    monkeypatch.undo()
    same(tiny, tiny.run(tmp_path).params, whole[1].params)
    assert tiny.lines(tmp_path) == tiny.lines(whole[0])


@pytest.mark.parametrize(
    "fields, n_validation, message",
    [
        ({"patience": 2}, 5, "train.patience 2 needs a train.keep_best"),
        ({"keep_best": "validation_loss"}, 0, "needs validation examples"),
    ],
)
def test_impossible_early_stopping_is_refused(tiny, fields, n_validation, message):
    with pytest.raises(UserError, match=message):
        duration.check_early_stopping(tiny.config(**fields), n_validation)


def test_the_best_evaluation_is_never_nan_and_of_equal_chains_the_last():
    rows = [{"step": i, "validation_loss": x, "validation_accuracy": y}
            for i, x, y in [(1, np.nan, np.nan), (2, 2.0, 0.5), (3, 2.0, 0.5)]]  # fmt: skip
    assert duration.best_step(rows, "validation_loss") == 2
    assert duration.best_step(rows, "validation_accuracy") == 2
    decoded = [{"step": i, "bleu": x} for i, x in enumerate([0.0, 30.0, 30.0])]
    assert duration.best_step(decoded, "bleu") == 2
    assert duration.best_step([row | {"bleu": 0.0} for row in decoded], "bleu") == 2


def test_equal_chains_are_no_gain_and_none_right_says_nothing(tiny):
    train = tiny.config(keep_best="bleu", patience=1)
    rows = [{"step": i, "bleu": x} for i, x in enumerate([0.0, 30.0, 30.0])]
    assert not duration.gave_up(rows[:2], train) and duration.gave_up(rows, train)
    assert not duration.gave_up([row | {"bleu": 0.0} for row in rows], train)


def test_keep_last_checkpoints_are_kept(tiny, tmp_path):
    with tiny.stopped(11):
        tiny.run(tmp_path, tiny.config(save_every_steps=2, keep_last=4))
    assert checkpoint.steps(tmp_path / "checkpoints") == [4, 6, 8, 10]
    with pytest.raises(UserError, match="train.keep_last must be at least 1 .*, got 0"):
        tiny.run(tmp_path, tiny.config(keep_last=0))


def test_profile_steps_writes_a_trace(tiny, whole, tmp_path):
    result = tiny.run(tmp_path, tiny.config(profile_steps=(3, 5)))
    (trace,) = (tmp_path / "profile/plugins/profile").glob("*/*.xplane.pb")
    assert trace.stat().st_size > 0
    same(tiny, result.params, whole[1].params)
    assert not (whole[0] / "profile").exists()
    for steps in ((5, 3), (0, 5), (1, 2, 3), (4,)):
        with pytest.raises(UserError, match="train.profile_steps must be the first and the last"):
            tiny.run(tmp_path, tiny.config(profile_steps=steps))


def test_validation_has_the_loss_of_each_kind_of_segment(tiny, whole):
    from asesjax.data.batching import eval_batches

    params, examples = whole[1].params, tiny.examples(20, seed=9)
    named = [dataclasses.replace(x, kind=("es", "as", "answer")[i % 3])
             for i, x in enumerate(examples)]  # fmt: skip
    mesh = make_mesh(devices=jax.devices()[:1])
    runs = []

    def eval_fn(params, batch):
        runs.append(batch["encoder_input_tokens"].shape)
        return np.asarray(objective.batch_loss(tiny.DRY, params, batch))

    def mean(some):
        sums = [LossSums(*objective.batch_loss(tiny.DRY, params, batch))
                for batch in eval_batches(some, 8, (16,), (8,))]  # fmt: skip
        return float(sum(s.nll_sum for s in sums) / sum(s.weight_sum for s in sums))

    got = validation.validate(
        eval_fn, params, validation.validation_batches(tiny.config(), named), mesh
    )
    assert len(set(runs)) <= 2 and got.keys() == {
        "validation_loss", "validation_accuracy", "validation_loss_es", "validation_loss_as",
        "validation_loss_answer",
    }  # fmt: skip
    assert got["validation_loss"] == pytest.approx(mean(examples), rel=1e-5)
    for i, kind in enumerate(("es", "as", "answer")):
        assert got[f"validation_loss_{kind}"] == pytest.approx(mean(examples[i::3]), rel=1e-5)
