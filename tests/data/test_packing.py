"""Packed rows: the same loss and gradients, weights kept, nothing lost, both sides full."""

import collections
import functools
import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asesjax import losses
from asesjax.core.errors import UserError
from asesjax.core.types import Example
from asesjax.data import batching, packing
from asesjax.data.batching import (
    batch_at,
    eval_batches,
    examples_per_row,
    make_plan,
    token_counts,
)
from asesjax.models import t5
from asesjax.models.t5_config import T5Config

MODEL = T5Config(
    vocab_size=40, d_model=16, d_kv=8, d_ff=32, n_heads=2, n_encoder_layers=2, n_decoder_layers=2,
    relpos_buckets=8, relpos_max_distance=16,
)  # fmt: skip


def examples_of(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Example(
            id=f"r{i}",
            inputs=rng.integers(1, 40, s).astype(np.int32),
            targets=rng.integers(1, 40, t).astype(np.int32),
            weights=rng.choice([0.0, 0.5, 1.0, 0.1, 1.7], t).astype(np.float32),
        )
        for i, (s, t) in enumerate(lengths)
    ]


def plan_of(examples, batch_size=2, packed_length=32, seed=0):
    return make_plan(examples, batch_size, (), (), seed, packed_length=packed_length)


LENGTHS = st.lists(
    st.tuples(st.integers(1, 14), st.integers(1, 14)), min_size=1, max_size=50
)  # fmt: skip


def long_enough(lengths):
    """Return a packed length that holds every example."""
    total, longest = np.sum(lengths, axis=0), np.max(lengths, axis=0)
    long = int(total.argmax())
    other = (longest[1 - long] + 8) * total[long] / total[1 - long]
    return int(max(longest[long], other)) + 8


def row_of(batch, row):
    return [i for i in batch["example_index"][row].tolist() if i >= 0]


def segments(batch, row):
    """Take a row apart into the examples it holds, in plain Python."""
    out = []
    for number, index in enumerate(row_of(batch, row), start=1):
        source = np.flatnonzero(batch["encoder_segment_ids"][row] == number)
        target = np.flatnonzero(batch["decoder_segment_ids"][row] == number)
        for where in (source, target):
            assert where.tolist() == list(range(where[0], where[-1] + 1))
        out.append(
            (index, batch["encoder_input_tokens"][row, source],
             batch["decoder_input_tokens"][row, target],
             batch["decoder_target_tokens"][row, target],
             batch["decoder_loss_weights"][row, target])
        )  # fmt: skip
    return out


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 4), st.lists(st.integers(0, 50), min_size=1, max_size=4))
def test_rows_hold_whole_examples_and_nothing_else(lengths, batch_size, steps):
    examples = examples_of(lengths)
    plan = plan_of(examples, batch_size, long_enough(lengths), seed=1)
    ((source, target),) = plan.shapes
    assert source % 8 == target % 8 == 0 and max(source, target) <= long_enough(lengths)
    for step in steps:
        batch = batch_at(plan, examples, step)
        real = collections.Counter()
        for row in range(batch_size):
            for index, *got in segments(batch, row):
                want = examples[index]
                shifted = np.append([0], want.targets[:-1])
                for a, b in zip(
                    got, (want.inputs, shifted, want.targets, want.weights), strict=True
                ):
                    assert a.tolist() == b.tolist()  # weights too: the same floats
                real.update(source=len(want.inputs), target=len(want.targets))
        for side, name in (("source", "encoder_segment_ids"), ("target", "decoder_segment_ids")):
            assert (batch[name] > 0).sum() == real[side]
        for tokens, ids in (
            ("encoder_input_tokens", "encoder_segment_ids"),
            ("decoder_input_tokens", "decoder_segment_ids"),
            ("decoder_target_tokens", "decoder_segment_ids"),
            ("decoder_loss_weights", "decoder_segment_ids"),
        ):
            assert not batch[tokens][batch[ids] == 0].any()
        assert float(losses.count_examples(batch)) == (batch["example_index"] >= 0).sum()
        for name, values in batch.items():
            assert values.dtype == (np.float32 if name == "decoder_loss_weights" else np.int32)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 5), st.integers(0, 3))
def test_every_example_once_an_epoch(lengths, batch_size, seed):
    examples = examples_of(lengths)
    plan = plan_of(examples, batch_size, long_enough(lengths), seed)
    counts, rows, step = collections.Counter(), 0, 0
    for epoch in range(1, 4):
        while step < plan.epoch_start(epoch):
            found = batch_at(plan, examples, step)["example_index"]
            counts.update(found[found >= 0].tolist())
            rows += batch_size
            step += 1
        assert min(counts[i] for i in range(len(examples))) >= epoch
        # What is left over are rows of the next epoch, less than a batch of them.
        over = rows - epoch * len(plan.lengths)
        assert 0 <= over < batch_size
        assert counts.total() - epoch * len(examples) <= over * plan.packing.most
        if not over:
            assert set(counts.values()) == {epoch}


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(1, 2), st.lists(st.integers(0, 60), min_size=1, max_size=4))
def test_processes_and_steps_in_any_order(lengths, share, steps):
    examples, size = examples_of(lengths), 4 * share
    plan = plan_of(examples, size, long_enough(lengths), seed=5)
    whole = {step: batch_at(plan, examples, step) for step in steps}
    for cached in (batching._window, batching._shuffled, batching._dealt, packing._pack):
        cached.cache_clear()
    for step in reversed(steps):
        fresh = plan_of(examples, size, long_enough(lengths), seed=5)
        for n in (1, 2, 4):
            parts = [batch_at(fresh, examples, step, p, n) for p in range(n)]
            for name, values in whole[step].items():
                np.testing.assert_array_equal(np.concatenate([x[name] for x in parts]), values)


def test_rows_are_the_same_in_every_version():
    # A resumed run depends on this order: these numbers may never change.
    lengths = [(9, 4), (5, 3), (9, 4), (12, 2), (7, 7), (5, 3), (3, 5), (9, 4)] * 2
    examples = examples_of(lengths)
    plan = plan_of(examples, 1, 32, seed=7)
    got = [row_of(batch_at(plan, examples, i), 0) for i in range(10)]
    assert plan.shapes == ((32, 16),)
    assert got == ROWS


ROWS = [
    [12, 4, 11], [6, 5, 1, 3, 13], [7, 10, 0], [2, 9, 15, 8], [14],
    [15, 2, 8], [7, 13, 0, 10], [4, 12, 11], [6], [14, 9, 1, 3, 5],
]  # fmt: skip


def test_epochs_and_seeds_mix_examples_of_equal_lengths():
    examples = examples_of([(8, 4), (6, 6)] * 40)
    seen = {}
    for seed in (0, 1, -1):
        plan = plan_of(examples, 1, 32, seed)
        n = len(plan.lengths)
        for epoch in (0, 1):
            steps = range(epoch * n, (epoch + 1) * n)
            rows = [tuple(row_of(batch_at(plan, examples, step), 0)) for step in steps]
            assert sorted(i for row in rows for i in row) == list(range(80))
            seen[seed, epoch] = rows
            lengths = token_counts(examples)
            patterns = sorted(tuple(sorted(map(tuple, lengths[list(row)]))) for row in rows)
            assert patterns == seen.setdefault("patterns", patterns)
    pairs = {
        key: {frozenset((a, b)) for row in rows for a in row for b in row if a < b}
        for key, rows in seen.items() if key != "patterns"
    }  # fmt: skip
    assert len({tuple(rows) for rows in seen.values()}) == 7
    for key, other in ((0, 0), (0, 1)), ((0, 0), (1, 0)), ((0, 0), (-1, 0)):
        assert len(pairs[key] & pairs[other]) < 0.3 * len(pairs[key])


def test_the_number_of_rows_is_known_without_a_plan():
    examples = examples_of([(1 + i % 14, 1 + i % 9) for i in range(300)])
    plan = plan_of(examples, 3, 40)
    assert examples_per_row(examples, 40) == 300 / len(plan.lengths)
    assert examples_per_row(examples, 0) == 1.0
    assert plan_of(examples, 3, 40, seed=9).packing.n_rows == plan.packing.n_rows
    # The rows are those of the lengths, whatever their order.
    again = examples[::-1]
    assert plan_of(again, 3, 40).packing.n_rows == plan.packing.n_rows


@pytest.mark.parametrize("mean", [(100, 17), (30, 30), (20, 60)])
def test_both_sides_are_full(mean):
    rng = np.random.default_rng(0)
    # As spread as the examples of GSM8K: a standard deviation of half the mean.
    lengths = np.maximum(rng.gamma(4, np.array(mean) / 4, (3000, 2)).astype(int), 1)
    longest = 384 * np.array(mean) / max(mean)
    lengths = lengths[(lengths < 0.4 * longest).all(1)]
    plan = plan_of(examples_of(lengths), 1, 384)
    full = plan.lengths.sum(0) / (len(plan.lengths) * np.array(plan.shapes[0]))
    assert full.min() >= 0.97 and plan.lengths.max(0).tolist() <= list(plan.shapes[0])
    assert plan.padding_share == pytest.approx(1 - plan.lengths.sum() / sum(plan.shapes[0])
                                               / len(plan.lengths))  # fmt: skip


def test_examples_that_fit_no_row_are_refused():
    examples = examples_of([(20, 4), (10, 2), (9, 9), (70, 3)])
    message = r"example r3 has 70 source tokens, too many for rows of train.packed_length 64; .*72"
    with pytest.raises(UserError, match=message):
        plan_of(examples, 1, 64)
    lengths = [(40, 4)] * 20 + [(10, 30)]
    # In proportion, the target side would be a seventh of the source side.
    assert plan_of(examples_of(lengths), 1, 64).shapes == ((64, 32),)
    with pytest.raises(UserError, match="example r20 has 70 target tokens, .* at least 72"):
        plan_of(examples_of([(40, 4)] * 20 + [(10, 70)]), 1, 64)
    for wrong in (-1, 7):
        with pytest.raises(UserError, match="train.packed_length must be 0 .* at least 8"):
            plan_of(examples, 1, wrong)
    with pytest.raises(UserError, match="no examples"):
        plan_of([], 1)
    with pytest.raises(UserError, match="cannot be shared by 2 processes"):
        batch_at(plan_of(examples, 3, 96), examples, 0, 0, 2)
    nothing = Example("x", np.array([4, 0, 1], np.int32), np.ones(2, np.int32), np.ones(2))
    with pytest.raises(ValueError, match="x holds the id 0, which is padding"):
        plan_of([nothing], 1)
    with pytest.raises(ValueError, match="r0 has a side without tokens"):
        plan_of(examples_of([(0, 3)]), 1)


@jax.jit
def loss_and_gradients(params, batch):
    def loss(params):
        hidden = t5.forward(MODEL, params, batch)
        sums = losses.hidden_cross_entropy(
            functools.partial(t5.logits, MODEL, params), hidden,
            batch["decoder_target_tokens"], batch["decoder_loss_weights"], z_loss=1e-3,
        )  # fmt: skip
        return sums.loss_sum, sums

    gradients, sums = jax.grad(loss, has_aux=True)(params)
    return sums, losses.count_examples(batch), gradients


def test_loss_and_gradients_are_those_of_the_unpacked_batch():
    lengths = np.random.default_rng(0).integers((4, 2), (30, 9), (60, 2))
    for seed in range(3):
        examples = examples_of(lengths, seed)
        params = t5.init(MODEL, jax.random.key(seed))
        packed = batch_at(plan_of(examples, 6, 64, seed), examples, 0)
        chosen = [examples[i] for i in packed["example_index"].ravel() if i >= 0]
        assert len(chosen) > 15
        (plain,) = eval_batches(chosen, 40, (30,), (9,))
        want = jax.device_get(loss_and_gradients(params, plain))
        got = jax.device_get(loss_and_gradients(params, packed))
        # What either normaliser divides by, and with it the normalised loss and gradients.
        np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
        assert got[1] == want[1] == len(chosen)
        leaves = zip(jax.tree.leaves_with_path(got[2]), jax.tree.leaves(want[2]), strict=True)
        for (path, a), b in leaves:
            scale = np.abs(b).max()
            assert scale > 0, path
            np.testing.assert_allclose(a, b, atol=1e-5 * scale, rtol=0, err_msg=str(path))


def test_neighbours_in_a_row_do_not_see_each_other():
    examples = examples_of([(8, 4)] * 12)
    params = t5.init(MODEL, jax.random.key(0))
    forward = jax.jit(functools.partial(t5.forward, MODEL))
    batch = batch_at(plan_of(examples, 1, 32), examples, 0)
    before = np.asarray(forward(params, batch))[0]
    batch["encoder_input_tokens"][batch["encoder_segment_ids"] == 2] = 39
    batch["decoder_input_tokens"][batch["decoder_segment_ids"] == 2] = 38
    after = np.asarray(forward(params, batch))[0]
    other = (batch["decoder_segment_ids"] > 0) & (batch["decoder_segment_ids"] != 2)
    np.testing.assert_array_equal(after[other[0]], before[other[0]])
    assert (after != before)[batch["decoder_segment_ids"][0] == 2].all()


def test_gsm8k_fills_both_sides(data_folder):
    path = Path(__file__).parents[1] / "benchmarks/packing.py"
    spec = importlib.util.spec_from_file_location("packing_benchmark", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    examples = benchmark.gsm8k_examples(data_folder)
    plan = plan_of(examples, 16, 512)
    full = plan.lengths.sum(0) / (len(plan.lengths) * np.array(plan.shapes[0]))
    # 99.7 % of the source and 99.6 % of the target positions, in rows of 472 and 72.
    assert len(examples) > 30_000 and full.min() >= 0.99, full
