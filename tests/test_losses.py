"""Losses against plain numpy in float64, and the properties that make sums safe to add."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asesjax import losses
from asesjax.sharding.mesh import make_mesh


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


@pytest.mark.parametrize("n_chunks", [2, 3, 5, 9])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_chunks_change_neither_sums_nor_gradients(n_chunks, dtype):
    rng = np.random.default_rng(n_chunks)
    kernel = jnp.asarray(rng.normal(size=(4, 11)), jnp.float32)
    hidden = jnp.asarray(rng.normal(size=(3, 5, 4)), dtype)
    _, targets, weights = random_case(n_chunks)

    def loss(kernel, hidden, weights, n_chunks):
        def logits_fn(h):
            product = jnp.matmul(h, kernel.astype(dtype), preferred_element_type=jnp.float32)
            return product + jnp.float32(0.5)

        sums = losses.hidden_cross_entropy(
            logits_fn, hidden, targets, weights, 0.1, 0.2, n_chunks
        )
        return 3.0 * sums.loss_sum, sums

    run = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True), static_argnums=3)
    (_, sums), gradients = run(kernel, hidden, weights, n_chunks)
    (_, want_sums), want = run(kernel, hidden, weights, 1)
    np.testing.assert_allclose(sums, want_sums, rtol=1e-6)
    plain, _ = jax.jit(loss, static_argnums=3)(kernel, hidden, weights, n_chunks)
    np.testing.assert_allclose(plain, 3 * want_sums.loss_sum, rtol=1e-6)
    # In bfloat16 the product of each chunk is rounded, then added in float32.
    rtol = 1e-5 if dtype == jnp.float32 else 2e-2
    for got, expected_gradient in zip(gradients, want, strict=True):
        assert got.dtype == expected_gradient.dtype and got.shape == expected_gradient.shape
        scale = np.abs(np.asarray(expected_gradient, np.float32)).max()
        np.testing.assert_allclose(
            np.asarray(got, np.float32), np.asarray(expected_gradient, np.float32),
            atol=rtol * scale,
        )  # fmt: skip


def test_gradient_of_many_chunks_adds_up_in_float32():
    """The kernel's gradient, 256 equal small terms, is not swallowed by bfloat16 (8 bits)."""
    kernel, ones = jnp.zeros((1, 2)), jnp.ones((1, 256))
    hidden, targets = jnp.full((1, 256, 1), 1.0078125, jnp.bfloat16), jnp.zeros((1, 256), int)

    def loss(kernel):
        logits_fn = lambda h: (h @ kernel.astype(h.dtype)).astype(jnp.float32)  # noqa: E731
        return losses.hidden_cross_entropy(logits_fn, hidden, targets, ones, n_chunks=256).loss_sum

    np.testing.assert_allclose(jax.grad(loss)(kernel), [[-129.0, 129.0]], rtol=1e-6)


def test_small_losses_are_whole_and_large_ones_are_cut_by_device():
    assert losses._count_chunks(32, 80, 256) == 1
    assert losses._count_chunks(8, 128, 32128) == 4
    assert losses._count_chunks(4096, 3, 250112) == 3
    mesh = make_mesh(2, 2, 2)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        assert losses._count_chunks(64, 128, 32128) == 4


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


def test_a_batch_without_weight_has_gradient_zero():
    logits, targets, weights = random_case(4)

    def mean(x):
        sums = losses.weighted_cross_entropy(x, targets, weights * 0)
        return sums.loss_sum * losses.inverse(sums.weight_sum)

    value, gradient = jax.value_and_grad(mean)(jnp.asarray(logits))
    assert float(value) == 0 and (np.asarray(gradient) == 0).all()
