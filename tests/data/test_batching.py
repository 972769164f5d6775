"""Batches: nothing lost or repeated, a pure function of the step, few shapes."""

import collections
import dataclasses
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asesjax.core.errors import UserError
from asesjax.core.types import Example
from asesjax.data import batching
from asesjax.data.batching import batch_at, eval_batches, make_plan, token_counts

SOURCE, TARGET = (4, 8, 16), (3, 6, 12)


def example(i, source, target):
    return Example(
        id=f"r{i}",
        inputs=np.arange(10 * i + 3, 10 * i + 3 + source, dtype=np.int32),
        targets=np.arange(7 * i + 2, 7 * i + 2 + target, dtype=np.int32),
        weights=np.linspace(0.5, 2, target, dtype=np.float32),
    )


def examples_of(lengths):
    return [example(i, s, t) for i, (s, t) in enumerate(lengths)]


LENGTHS = st.lists(
    st.tuples(st.integers(1, 16), st.integers(1, 12)), min_size=1, max_size=40
)  # fmt: skip


def forget():
    batching._window.cache_clear()
    batching._shuffled.cache_clear()


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 9), st.integers(1, 5), st.integers(0, 3))
def test_every_example_once_an_epoch(lengths, batch_size, window, seed):
    examples = examples_of(lengths)
    plan = make_plan(examples, batch_size, SOURCE, TARGET, seed)
    counts = collections.Counter()
    step = 0
    for epoch in range(1, 4):
        while step < plan.epoch_start(epoch):
            with mock.patch.object(batching, "WINDOW", window):
                counts.update(batch_at(plan, examples, step)["example_index"].tolist())
            step += 1
        assert min(counts[i] for i in range(len(examples))) >= epoch
        # What is left over belongs to the next epoch, less than a batch of it.
        assert 0 <= counts.total() - epoch * len(examples) < batch_size


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 4), st.integers(1, 4), st.lists(st.integers(0, 60), max_size=6))
def test_content_shape_and_shards_of_any_step(lengths, share, n_processes, steps):
    examples = examples_of(lengths)
    size = share * n_processes
    plan = make_plan(examples, size, SOURCE, TARGET, seed=1)
    for step in steps:
        with mock.patch.object(batching, "WINDOW", 3):
            batch = batch_at(plan, examples, step)
            parts = [batch_at(plan, examples, step, p, n_processes) for p in range(n_processes)]
        shape = batch["encoder_input_tokens"].shape[1], batch["decoder_target_tokens"].shape[1]
        rows = batch["example_index"]
        longest = plan.lengths[rows].max(0)
        fitting = [s for s in plan.shapes if s[0] >= longest[0] and s[1] >= longest[1]]
        assert shape == min(fitting, key=sum)
        for i, row in enumerate(rows):
            e = examples[row]
            assert batch["encoder_input_tokens"][i].tolist() == pad(e.inputs, shape[0])
            assert batch["decoder_target_tokens"][i].tolist() == pad(e.targets, shape[1])
            shifted = [0, *e.targets.tolist()]
            assert batch["decoder_input_tokens"][i].tolist() == pad(shifted, shape[1] + 1)[:-1]
            assert batch["decoder_loss_weights"][i].tolist() == pad(e.weights, shape[1])
        for name, whole in batch.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), whole)
            assert whole.dtype == (np.float32 if name == "decoder_loss_weights" else np.int32)


def pad(values, length):
    values = np.asarray(values).tolist()
    return values + [0] * (length - len(values))


def test_a_step_does_not_depend_on_history(monkeypatch):
    monkeypatch.setattr(batching, "WINDOW", 4)
    examples = examples_of([(1 + i % 16, 1 + i % 12) for i in range(37)])
    plan = make_plan(examples, 5, SOURCE, TARGET, seed=3)
    in_order = [batch_at(plan, examples, step)["example_index"].tolist() for step in range(40)]
    for step in reversed(range(40)):
        forget()
        fresh = make_plan(examples, 5, SOURCE, TARGET, seed=3)
        assert batch_at(fresh, examples, step)["example_index"].tolist() == in_order[step]


GROUPED = st.lists(
    st.tuples(st.integers(1, 16), st.integers(1, 12), st.sampled_from("abc")), min_size=1,
    max_size=40,
)  # fmt: skip


def grouped(rows):
    examples = examples_of([(s, t) for s, t, _ in rows])
    return [dataclasses.replace(e, group=row[2]) for e, row in zip(examples, rows, strict=True)]


@settings(max_examples=60, deadline=None)
@given(GROUPED, st.integers(1, 4), st.integers(1, 3), st.integers(0, 3))
def test_batches_of_one_group_in_proportion(rows, share, n_processes, seed):
    examples, size = grouped(rows), share * n_processes
    plan = make_plan(examples, size, SOURCE, TARGET, seed)
    sizes, n_groups = collections.Counter(row[2] for row in rows), len({row[2] for row in rows})
    steps, counts = collections.Counter(), collections.Counter()
    for step in range(plan.epoch_start(3)):
        batch = batch_at(plan, examples, step)
        indices = batch["example_index"].tolist()
        (group,) = {examples[i].group for i in indices}
        steps[group] += 1
        counts.update(indices)
        for name, n in sizes.items():
            wanted = (step + 1) * n / len(rows)
            assert abs(steps[name] - wanted) <= 0.5 + n_groups * n / len(rows) / 2 + 1e-9
        own = [counts[i] for i, e in enumerate(examples) if e.group == group]
        passes = steps[group] * size // len(own)
        assert passes <= min(own) <= max(own) <= passes + 2  # a batch may reach into the next pass
        parts = [batch_at(plan, examples, step, p, n_processes) for p in range(n_processes)]
        for name, whole in batch.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), whole)


def test_every_example_once_an_epoch_of_its_group():
    examples = grouped([(1 + i % 16, 1 + i % 12, "aab"[i % 3]) for i in range(90)])
    plan = make_plan(examples, 5, SOURCE, TARGET, seed=2)
    batches = [batch_at(plan, examples, i)["example_index"].tolist() for i in range(72)]
    for group, n in ("a", 60), ("b", 30):
        own = [batch for batch in batches if examples[batch[0]].group == group]
        for epoch in range(3):
            seen = [i for batch in own[epoch * n // 5 : (epoch + 1) * n // 5] for i in batch]
            assert sorted(seen) == [i for i, e in enumerate(examples) if e.group == group]
    # Groups of one size come in orders of their own.
    halves = grouped([(4, 3, "ab"[i % 2]) for i in range(40)])
    plan = make_plan(halves, 4, SOURCE, TARGET, seed=0)
    batches = [batch_at(plan, halves, i)["example_index"] for i in range(10)]
    first, second = (np.concatenate(batches[k::2]) // 2 for k in (0, 1))
    assert sorted(first) == sorted(second) and first.tolist() != second.tolist()


def test_a_step_of_groups_does_not_depend_on_history(monkeypatch):
    monkeypatch.setattr(batching, "WINDOW", 4)
    examples = grouped([(1 + i % 16, 1 + i % 12, "aabcc"[i % 5]) for i in range(37)])
    plan = make_plan(examples, 5, SOURCE, TARGET, seed=3)
    in_order = [batch_at(plan, examples, step)["example_index"].tolist() for step in range(40)]
    assert 0 < plan.padding_share < 1
    for step in reversed(range(40)):
        forget()
        fresh = make_plan(examples, 5, SOURCE, TARGET, seed=3)
        assert batch_at(fresh, examples, step)["example_index"].tolist() == in_order[step]


def test_one_group_is_no_group():
    plain = examples_of([(1 + i % 16, 1 + i % 12) for i in range(37)])
    named = [dataclasses.replace(e, group="x") for e in plain]
    plans = [make_plan(e, 5, SOURCE, TARGET, seed=3) for e in (plain, named)]
    for step in range(20):
        a, b = (batch_at(plan, plain, step) for plan in plans)
        assert all((a[name] == b[name]).all() for name in a)
    two = [*plain, dataclasses.replace(plain[0], group="x")]
    with pytest.raises(UserError, match="groups cannot be packed; set train.packed_length=0"):
        make_plan(two, 5, (), (), 0, packed_length=64)


def test_order_is_the_same_in_every_version():
    # A resumed run depends on this order: these numbers may never change.
    examples = examples_of([(4, 3)] * 6 + [(16, 12)] * 4)
    plan = make_plan(examples, 2, SOURCE, TARGET, seed=7)
    got = [batch_at(plan, examples, step)["example_index"].tolist() for step in range(10)]
    assert got == ORDER


ORDER = [[8, 6], [3, 2], [5, 0], [7, 9], [4, 1], [6, 7], [1, 5], [8, 9], [4, 0], [3, 2]]


def test_seeds_and_epochs_give_different_orders():
    examples = examples_of([(4, 3)] * 50)
    orders = []
    for seed in (0, 1, -1):
        plan = make_plan(examples, 5, SOURCE, TARGET, seed)
        for epoch in (0, 1):
            steps = range(10 * epoch, 10 * epoch + 10)
            orders.append(
                tuple(i for s in steps for i in batch_at(plan, examples, s)["example_index"])
            )
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len(set(orders)) == 6
    # Batches of one window come in random order, not the shortest first.
    mixed = examples_of([(4, 3)] * 40 + [(16, 12)] * 40)
    plan = make_plan(mixed, 4, SOURCE, TARGET, seed=0)
    widths = [batch_at(plan, mixed, s)["encoder_input_tokens"].shape[1] for s in range(20)]
    assert widths != sorted(widths) and set(widths) == {4, 16}


def test_shapes_are_few_and_padding_small(monkeypatch):
    rng = np.random.default_rng(0)
    lengths = [(int(rng.integers(1, 17)), int(rng.integers(1, 13))) for _ in range(2000)]
    examples = examples_of(lengths)
    for most in (1, 2, 4, 9):
        monkeypatch.setattr(batching, "MAX_SHAPES", most)
        plan = make_plan(examples, 16, SOURCE, TARGET, 0)
        assert len(plan.shapes) <= most and plan.shapes[-1] == (16, 12)
    real = sum(s + t for s, t in lengths)
    # Six pairs of buckets, and batches of like length: not far from padding each alone to nine.
    alone = sum(min(b for b in SOURCE if b >= s) + min(b for b in TARGET if b >= t)
                for s, t in lengths)  # fmt: skip
    monkeypatch.setattr(batching, "WINDOW", 125)
    share = make_plan(examples, 16, SOURCE, TARGET, 0).padding_share
    assert 1 - real / alone < share < 1 - real / alone + 0.03
    monkeypatch.setattr(batching, "MAX_SHAPES", 1)
    single = make_plan(examples, 16, SOURCE, TARGET, 0)
    assert single.padding_share == pytest.approx(1 - real / (28 * 2000), abs=1e-9)


def test_a_shape_that_saves_nothing_is_dropped():
    # One example in a thousand is short: not worth a compilation.
    few = make_plan(examples_of([(4, 3)] + [(16, 12)] * 999), 8, SOURCE, TARGET, 0)
    assert few.shapes == ((16, 12),)
    half = make_plan(examples_of([(4, 3)] * 500 + [(16, 12)] * 500), 8, SOURCE, TARGET, 0)
    assert half.shapes == ((4, 3), (16, 12))
    # (4, 12) and (16, 3) may meet in a batch, which then needs (16, 12).
    cross = make_plan(examples_of([(4, 12)] * 500 + [(16, 3)] * 500), 8, SOURCE, TARGET, 0)
    assert cross.shapes[-1] == (16, 12)


def test_without_buckets_shapes_are_chosen_from_the_lengths():
    rng = np.random.default_rng(0)
    lengths = [(int(s), int(t)) for s, t in zip(rng.integers(1, 200, 500), rng.integers(1, 90, 500),
                                                strict=True)]  # fmt: skip
    plan = make_plan(examples_of(lengths), 16, (), (), 0)
    most = tuple(-(-max(side) // 8) * 8 for side in zip(*lengths, strict=True))
    assert plan.shapes[-1] == most and 1 < len(plan.shapes) <= batching.MAX_SHAPES
    assert all(length % 8 == 0 for shape in plan.shapes for length in shape)
    assert plan.padding_share < 0.7 * make_plan(
        examples_of(lengths), 16, most[:1], most[1:], 0
    ).padding_share
    assert make_plan(examples_of([(3, 2)] * 4), 2, (), (), 0).shapes == ((8, 8),)


def test_padding_share_counts_positions():
    examples = examples_of([(3, 2), (4, 3), (1, 1), (4, 3)])
    plan = make_plan(examples, 2, (4,), (3,), 0)
    assert plan.padding_share == pytest.approx(1 - 21 / 28)


def test_token_counts():
    assert token_counts(examples_of([(3, 2), (16, 1)])).tolist() == [[3, 2], [16, 1]]
    assert token_counts([]).shape == (0, 2)


def test_wrong_buckets_sizes_and_steps_are_refused():
    examples = examples_of([(4, 3), (17, 3), (20, 3)])
    message = (
        r"example r2 has 20 source tokens, more than the largest of train.source_buckets "
        r"\(4, 8, 16\) \(2 of 3 examples do not fit\); add a bucket of at least 20"
    )
    with pytest.raises(UserError, match=message):
        make_plan(examples, 2, SOURCE, TARGET, 0)
    with pytest.raises(UserError, match=r"example r0 has 3 target tokens, .*train.target_buckets"):
        make_plan(examples[:1], 2, SOURCE, (2,), 0)
    with pytest.raises(UserError, match="no examples"):
        make_plan([], 2, SOURCE, TARGET, 0)
    with pytest.raises(UserError, match="train.batch_size must be at least 1"):
        make_plan(examples[:1], 0, SOURCE, TARGET, 0)
    for wrong in ((8, 4), (0, 4), (4, 4)):
        with pytest.raises(UserError, match="train.target_buckets must be rising"):
            make_plan(examples[:1], 2, SOURCE, wrong, 0)
    plan = make_plan(examples[:1], 3, SOURCE, TARGET, 0)
    with pytest.raises(UserError, match="train.batch_size 3 cannot be shared by 2 processes"):
        batch_at(plan, examples, 0, 0, 2)
    with pytest.raises(ValueError, match="steps count from 0"):
        batch_at(plan, examples, -1)
    with pytest.raises(UserError, match="r2 has 20 source tokens"):
        eval_batches(examples, 2, SOURCE, TARGET)  # at the call, not at the first batch


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(1, 3), st.integers(1, 3))
def test_eval_batches_give_every_example_once(lengths, share, n_processes):
    examples = examples_of(lengths)
    size = share * n_processes
    batches = list(eval_batches(examples, size, SOURCE, TARGET))
    assert len(batches) == -(-len(examples) // size)
    rows = np.concatenate([batch["example_index"] for batch in batches])
    assert sorted(rows[rows >= 0]) == list(range(len(examples)))
    assert (rows[len(examples) :] == -1).all() and len(rows) == size * len(batches)
    for batch in batches:
        assert len(batch["encoder_input_tokens"]) == size
        for i, row in enumerate(batch["example_index"]):
            expected = examples[row] if row >= 0 else example(0, 0, 0)
            for name, values in (
                ("encoder_input_tokens", expected.inputs),
                ("decoder_target_tokens", expected.targets),
                ("decoder_loss_weights", expected.weights),
            ):
                assert batch[name][i].tolist() == pad(values, batch[name].shape[1])
    parts = [
        list(eval_batches(examples, size, SOURCE, TARGET, p, n_processes))
        for p in range(n_processes)
    ]
    for i, batch in enumerate(batches):
        for name, whole in batch.items():
            np.testing.assert_array_equal(np.concatenate([p[i][name] for p in parts]), whole)
