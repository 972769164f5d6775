"""int8 weights: how they are rounded, and that the model computes with the rounded values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asesjax.models import t5
from asesjax.models.layers import Int8, quantize
from asesjax.models.t5_config import T5Config

MODEL = T5Config(
    40, d_model=24, d_kv=8, d_ff=32, n_heads=2, n_encoder_layers=2, n_decoder_layers=1, tied=False
)


def is_int8(x):
    return isinstance(x, Int8)


def int8_leaves(params):
    return [x for x in jax.tree.leaves(params, is_leaf=is_int8) if is_int8(x)]


def dequantize(params):
    to_float = lambda x: x.values * x.scales if is_int8(x) else x  # noqa: E731
    return jax.tree.map(to_float, params, is_leaf=is_int8)


def test_rounding_is_within_half_a_step_of_every_channel():
    params = t5.init(MODEL, jax.random.key(0))
    small = quantize(params)
    kernels = [x for path, x in jax.tree.leaves_with_path(params)
               if path[-1].key in ("kernel", "embedding")]  # fmt: skip
    assert len(int8_leaves(small)) == len(kernels) > 10
    for x, q in zip(kernels, int8_leaves(small), strict=True):
        assert q.values.dtype == jnp.int8 and np.abs(q.values).max() == 127
        assert q.scales.size in x.shape and x.ndim == 2
        error = np.abs(q.values * q.scales - x)
        assert (error <= q.scales * 0.5 * (1 + 1e-5)).all()
    table = params["token_embedder"]["embedding"]
    assert small["token_embedder"]["embedding"].scales.shape == (len(table), 1)


def test_a_channel_of_zeros_stays_zero():
    params = t5.init(MODEL, jax.random.key(0))
    kernel = params["decoder"]["logits_dense"]["kernel"].at[:, 3].set(0.0)
    params["decoder"]["logits_dense"]["kernel"] = kernel
    back = dequantize(quantize(params))["decoder"]["logits_dense"]["kernel"]
    assert not back[:, 3].any() and np.isfinite(back).all()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("mlp", ["relu", "gated-gelu"])
def test_the_model_computes_with_the_rounded_weights(tied, mlp):
    model = dataclasses.replace(MODEL, tied=tied, mlp=mlp)
    small = quantize(t5.init(model, jax.random.key(1)))
    tokens = jax.random.randint(jax.random.key(2), (3, 9), 1, 40)

    def two_steps(params):
        cache = t5.start_cache(model, params, t5.encode(model, params, tokens), tokens, 4)
        first, cache = t5.decode_step(model, params, cache, tokens[:, 0], jnp.zeros(3, int))
        second, _ = t5.decode_step(model, params, cache, tokens[:, 1], jnp.ones(3, int))
        return first, second

    for got, want in zip(two_steps(small), two_steps(dequantize(small)), strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, atol=1e-5 * float(np.abs(want).max()))
