"""Ways of running the layers: the same numbers, dropout included, in less memory or code."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from asesjax.models import t5

MODEL = t5.T5Config(
    40, d_model=16, d_kv=8, d_ff=64, n_heads=2, n_encoder_layers=3, n_decoder_layers=3,
    mlp="gated-gelu", tied=False, dropout=0.2,
)  # fmt: skip
WAYS = [("none", True), ("dots", False), ("full", False), ("dots", True), ("full", True)]


def make_batch(rows=8, length=24):
    rng = np.random.default_rng(0)
    source, target = rng.integers(2, 40, (2, rows, length)).astype(np.int32)
    source[1, 5:] = 0
    return {"encoder_input_tokens": source, "decoder_input_tokens": target}


def gradient(model, remat, scan_layers):
    weight = np.random.default_rng(1).normal(size=(8, 24, 16)).astype(np.float32)

    def loss(params, batch, key):
        return (t5.forward(model, params, batch, key, remat, scan_layers) * weight).sum()

    return jax.jit(jax.value_and_grad(loss))


@pytest.mark.parametrize("remat, scan_layers", WAYS)
def test_every_way_gives_the_same_loss_and_gradients(remat, scan_layers):
    params, key = t5.init(MODEL, jax.random.key(0)), jax.random.key(1)
    want_loss, want = gradient(MODEL, "none", False)(params, make_batch(), key)
    loss, got = gradient(MODEL, remat, scan_layers)(params, make_batch(), key)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-5)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())


def test_every_layer_draws_its_own_dropout():
    """With equal parameters, two layers with one mask would leave the same positions."""
    model = dataclasses.replace(MODEL, dropout=0.5)
    params, batch = t5.init(model, jax.random.key(0)), make_batch()
    for side in ("encoder", "decoder"):
        equal = {f"layers_{n}": params[side]["layers_0"] for n in range(3)}
        params = params | {side: params[side] | equal}
    keys = []

    def spy(key, *args, **kwargs):
        keys.append(key)
        return bernoulli(key, *args, **kwargs)

    bernoulli = jax.random.bernoulli
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.random, "bernoulli", spy)
        t5.forward(model, params, batch, jax.random.key(2))
    drawn = {tuple(np.asarray(jax.random.key_data(key)).tolist()) for key in keys}
    # Input and output of a stack; in a layer attention weights, the wide MLP, and each block's sum.
    assert len(drawn) == len(keys) == (2 + 3 * 4) + (2 + 3 * 6)


def compiled(remat, scan_layers, model=MODEL):
    shapes = jax.eval_shape(lambda: t5.init(model, jax.random.key(0)))
    return gradient(model, remat, scan_layers).lower(shapes, make_batch(), None).compile()


def test_remat_takes_less_memory_and_a_scanned_program_does_not_grow_with_layers():
    memory = {
        remat: compiled(remat, False).memory_analysis().temp_size_in_bytes
        for remat in ("none", "dots", "full")
    }
    assert memory["full"] < 0.6 * memory["none"]
    assert memory["full"] < memory["dots"] < memory["none"]

    def products(n_layers, scan_layers):
        model = dataclasses.replace(MODEL, n_encoder_layers=n_layers, n_decoder_layers=n_layers)
        shapes = jax.eval_shape(lambda: t5.init(model, jax.random.key(0)))
        args = shapes, make_batch(), None
        text = gradient(model, "none", scan_layers).lower(*args).as_text()
        return len(re.findall("dot_general", text))

    assert products(6, True) == products(3, True) < products(3, False) < products(6, False)


def test_full_remat_computes_the_forward_pass_twice():
    # Three matrix products forward and two for each backward; full computes forward twice.
    flops = {remat: compiled(remat, True).cost_analysis()["flops"] for remat in ("none", "full")}
    assert 1.15 < flops["full"] / flops["none"] < 1.4
