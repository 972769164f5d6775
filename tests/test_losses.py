"""Losses against plain numpy in float64, and the properties that make sums safe to add."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asesjax import losses
from asesjax.core.errors import UserError


def expected(logits, targets, weights, z_loss, smoothing):
    """One token at a time, from the definition: cross-entropy with a smoothed distribution."""
    logits = np.asarray(logits, np.float64)
    total = dict.fromkeys(losses.LossSums._fields, 0.0)
    for b, t in np.ndindex(targets.shape):
        w = float(weights[b, t])
        if w == 0:
            continue
        row, target = logits[b, t], targets[b, t]
        log_z = np.log(np.sum(np.exp(row - row.max()))) + row.max()
        log_p = row - log_z
        wanted = np.full(row.shape, smoothing / len(row))
        wanted[target] += 1 - smoothing
        total["loss_sum"] += w * (-(wanted * log_p).sum() + z_loss * log_z**2)
        total["nll_sum"] += w * -log_p[target]
        total["weight_sum"] += w
        total["correct_sum"] += w * (row.argmax() == target)
    return total


def random_case(seed, b=3, t=5, v=11):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 4, (b, t, v)).astype(np.float32)
    targets = rng.integers(0, v, (b, t)).astype(np.int32)
    weights = (rng.random((b, t)) * 2 * (rng.random((b, t)) > 0.3)).astype(np.float32)
    return logits, targets, weights


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31), st.sampled_from([0.0, 1e-4, 0.1]), st.sampled_from([0.0, 0.1, 0.9])
)
def test_sums_equal_float64_numpy(seed, z_loss, smoothing):
    logits, targets, weights = random_case(seed)
    got = losses.weighted_cross_entropy(logits, targets, weights, z_loss, smoothing)
    want = expected(logits, targets, weights, z_loss, smoothing)
    for name, value in got._asdict().items():
        assert value.dtype == jnp.float32 and value.shape == ()
        np.testing.assert_allclose(float(value), want[name], rtol=3e-6, atol=1e-5, err_msg=name)


def test_gradient_equals_finite_differences_in_float64():
    logits, targets, weights = random_case(3, 2, 2, 5)
    weights[0, 0] = 1.5

    def loss(x):
        return losses.weighted_cross_entropy(x, targets, weights, 0.01, 0.1).loss_sum

    got = np.asarray(jax.grad(loss)(jnp.asarray(logits)))
    want = np.zeros_like(logits, np.float64)
    for index in np.ndindex(logits.shape):
        up, down = logits.astype(np.float64), logits.astype(np.float64)
        up[index] += 1e-5
        down[index] -= 1e-5
        want[index] = (
            expected(up, targets, weights, 0.01, 0.1)["loss_sum"]
            - expected(down, targets, weights, 0.01, 0.1)["loss_sum"]
        ) / 2e-5
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_zero_weight_tokens_contribute_nothing_whatever_their_logits():
    logits, targets, weights = random_case(1)
    weights[1] = 0
    garbage = logits.copy()
    garbage[1] = np.float32(3e38) * np.sign(garbage[1])
    other = targets.copy()
    other[1] = 0

    def sums(x, y):
        return losses.weighted_cross_entropy(x, y, weights, 1e-4, 0.1)

    for a, b in zip(sums(logits, targets), sums(garbage, other), strict=True):
        assert float(a) == float(b)
    gradient = jax.grad(lambda x: sums(x, other).loss_sum)(jnp.asarray(garbage))
    assert np.isfinite(gradient).all() and (np.asarray(gradient)[1] == 0).all()


def test_sums_of_parts_add_up_to_the_sums_of_the_whole():
    logits, targets, weights = random_case(7, b=8)
    whole = losses.weighted_cross_entropy(logits, targets, weights)
    halves = [losses.weighted_cross_entropy(logits[s], targets[s], weights[s])
              for s in (slice(0, 3), slice(3, 8))]
    for w, a, b in zip(whole, *halves, strict=True):
        np.testing.assert_allclose(float(w), float(a) + float(b), rtol=1e-6)


def test_bfloat16_logits_are_summed_in_float32():
    logits, targets, weights = random_case(2)
    rounded = jnp.asarray(logits, jnp.bfloat16)
    got = losses.weighted_cross_entropy(rounded, targets, weights)
    want = expected(np.asarray(rounded.astype(jnp.float32)), targets, weights, 0, 0)
    np.testing.assert_allclose(float(got.loss_sum), want["loss_sum"], rtol=3e-6)


def test_hidden_cross_entropy_is_that_of_its_logits():
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(4, 11)), jnp.float32)
    hidden = jnp.asarray(rng.normal(size=(3, 5, 4)), jnp.float32)
    _, targets, weights = random_case(0)
    got = losses.hidden_cross_entropy(lambda h: h @ kernel, hidden, targets, weights, 0.1, 0.2)
    want = losses.weighted_cross_entropy(hidden @ kernel, targets, weights, 0.1, 0.2)
    assert float(got.loss_sum) == float(want.loss_sum)


def test_examples_of_packed_rows_are_counted():
    packed = {
        "decoder_segment_ids": jnp.array([[1, 1, 2, 0], [1, 2, 3, 3], [0, 0, 0, 0]]),
        "example_index": jnp.array([0, 1, -1]),
    }
    assert float(losses.count_examples(packed)) == 5
    del packed["decoder_segment_ids"]
    assert float(losses.count_examples(packed)) == 2


def test_normalizers():
    sums = losses.LossSums(*(jnp.float32(x) for x in (1, 2, 3, 4)))
    assert float(losses.normalizer(sums, jnp.float32(9), "weights")) == 3
    assert float(losses.normalizer(sums, jnp.float32(9), "examples")) == 9
    with pytest.raises(UserError, match="did you mean 'weights'"):
        losses.normalizer(sums, jnp.float32(9), "weight")


def test_a_batch_without_weight_has_gradient_zero():
    logits, targets, weights = random_case(4)

    def mean(x):
        sums = losses.weighted_cross_entropy(x, targets, weights * 0)
        return sums.loss_sum * losses.inverse(sums.weight_sum)

    value, gradient = jax.value_and_grad(mean)(jnp.asarray(logits))
    assert float(value) == 0 and (np.asarray(gradient) == 0).all()
