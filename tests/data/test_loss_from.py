"""Targets that are given at first and count later: masks by hand, shapes that never change."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asesjax.core.types import Example
from asesjax.data.batching import batch_at, eval_batches, make_plan, token_counts

N_STEPS = 20


def example(i, steps, prefix_in_encoder=False):
    """``steps``: (tokens, share of training after which they count), the shares falling."""
    loss_from = np.repeat(np.float32([share for _, share in steps]), [n for n, _ in steps])
    return Example(
        id=f"r{i}",
        inputs=np.append(np.arange(3, 6 + i % 3), 1).astype(np.int32),
        targets=(10 + i + np.arange(len(loss_from))).astype(np.int32),
        weights=np.linspace(0.5, 2, len(loss_from), dtype=np.float32),
        loss_from=loss_from,
        prefix_in_encoder=prefix_in_encoder,
    )


SHARES = st.lists(st.sampled_from([0.25, 0.5, 0.75]), max_size=3).map(
    lambda shares: [*sorted(shares, reverse=True), 0.0]
)
STEPS = SHARES.flatmap(
    lambda shares: st.lists(st.integers(1, 3), min_size=len(shares), max_size=len(shares)).map(
        lambda lengths: list(zip(lengths, shares, strict=True))
    )
)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=9), st.booleans(), st.sampled_from([0, 48]))
def test_every_step_of_training_by_hand(several, prefix_in_encoder, packed_length):
    examples = [example(i, steps, prefix_in_encoder) for i, steps in enumerate(several)]
    plan = make_plan(
        examples, 4, (8, 16, 32), (4, 8, 16), 0, packed_length=packed_length, n_steps=N_STEPS
    )
    shapes = set()
    for step in range(N_STEPS):
        batch = batch_at(plan, examples, step)
        shapes.add((batch["encoder_input_tokens"].shape, batch["decoder_input_tokens"].shape))
        members = batch["example_index"].reshape(4, -1)
        for row, mine in enumerate(members):
            inputs, targets, weights = [], [], []
            for index in mine[mine >= 0]:
                own = examples[index]
                given_ids = [t for t, s in zip(own.targets, own.loss_from, strict=True)
                             if s > step / N_STEPS]  # fmt: skip
                n = len(given_ids)
                if prefix_in_encoder:
                    inputs += [*own.inputs[:-1], *given_ids, own.inputs[-1]]
                    targets += own.targets[n:].tolist()
                    weights += own.weights[n:].tolist()
                else:
                    inputs += own.inputs.tolist()
                    targets += own.targets.tolist()
                    weights += [0.0] * n + own.weights[n:].tolist()
            for name, want in (("encoder_input_tokens", inputs), ("decoder_target_tokens", targets),
                               ("decoder_loss_weights", weights)):  # fmt: skip
                got = batch[name][row]
                np.testing.assert_array_equal(got[: len(want)], np.asarray(want, got.dtype))
                assert not got[len(want) :].any()
    assert len(shapes) <= len(plan.shapes)


@pytest.mark.parametrize("prefix_in_encoder", [False, True])
def test_nothing_is_given_in_evaluation_or_after_the_last_start(prefix_in_encoder):
    examples = [example(i, [(2, 0.75), (3, 0.5), (2, 0.0)], prefix_in_encoder) for i in range(5)]
    plain = [
        dataclasses.replace(own, loss_from=None, prefix_in_encoder=False) for own in examples
    ]
    (batch,), (want,) = (list(eval_batches(e, 5, (32,), (16,))) for e in (examples, plain))
    for name, values in want.items():
        np.testing.assert_array_equal(batch[name], values)
    plan = make_plan(examples, 5, (32,), (16,), 0, n_steps=4)
    late, whole = (batch_at(plan, e, 3) for e in (examples, plain))
    for name, values in whole.items():
        np.testing.assert_array_equal(late[name], values)
    early = batch_at(plan, examples, 0)
    assert (early["decoder_loss_weights"] > 0).sum() == 5 * 2


def test_room_is_made_for_all_that_may_be_given():
    examples = [example(0, [(4, 0.5), (2, 0.0)]), example(0, [(4, 0.5), (2, 0.0)], True)]
    assert token_counts(examples).tolist() == [[4, 6], [8, 6]]
