"""The T5 against a NumPy T5, against itself (cached, packed, padded), and its parameter tree."""

import dataclasses
import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asesjax.core.errors import UserError
from asesjax.models import t5
from asesjax.models.attention import (
    MASKED,
    Attention,
    RelativePositionBias,
    add_shared_bias,
    overwrite,
    relative_position_buckets,
)
from asesjax.models.presets import ModelOptions, configured
from asesjax.models.t5_config import T5Config

_spec = importlib.util.spec_from_file_location("numpy_t5", Path(__file__).with_name("numpy_t5.py"))
numpy_t5 = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(numpy_t5)

# Two T5s whose heads together are wider and narrower than the model.
V1 = T5Config(37, d_model=12, d_kv=8, d_ff=20, n_heads=3, n_encoder_layers=2, n_decoder_layers=3)
V11 = T5Config(
    41, d_model=16, d_kv=3, d_ff=24, n_heads=2, mlp="gated-gelu", tied=False, n_decoder_layers=1
)
BOTH = pytest.mark.parametrize("config", [V1, V11], ids=["v1.0", "v1.1"])


def lively(config, seed=0):
    """Parameters whose every part matters: norm scales away from 1, biases away from 0."""
    params = t5.init(config, jax.random.key(seed))
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    leaves = [x + rng.normal(0, 0.3, x.shape).astype(np.float32) for x in leaves]
    return jax.tree.unflatten(tree, leaves)


def ids(rng, *shape, v=37):
    return rng.integers(2, v, shape).astype(np.int32)


def padded(rows, length):
    out = np.zeros((len(rows), length), np.int32)
    for row, values in zip(out, rows, strict=True):
        row[: len(values)] = values
    return out


def batch_of(sources, inputs, s, t):
    return {"encoder_input_tokens": padded(sources, s), "decoder_input_tokens": padded(inputs, t)}


@functools.partial(jax.jit, static_argnums=0)
def jitted(config, params, batch, key=None):
    hidden = t5.forward(config, params, batch, key)
    return hidden, t5.logits(config, params, hidden)


def all_logits(config, params, batch):
    return np.asarray(jitted(config, params, batch)[1])


encode = jax.jit(t5.encode, static_argnums=0)
start_cache = jax.jit(t5.start_cache, static_argnums=(0, 4))
decode_step = jax.jit(t5.decode_step, static_argnums=0)


@BOTH
def test_equals_numpy_t5(config):
    rng = np.random.default_rng(1)
    params = lively(config)
    sources = [ids(rng, n) for n in (40, 1, 23)]  # long enough for logarithmic buckets
    inputs = [np.append(0, ids(rng, n)) for n in (21, 3, 0)]
    got = all_logits(config, params, batch_of(sources, inputs, 48, 24))
    assert got.dtype == np.float32 and got.shape == (3, 24, config.vocab_size)
    for row, (source, target) in enumerate(zip(sources, inputs, strict=True)):
        want = numpy_t5.forward(config, params, source, target)
        np.testing.assert_allclose(got[row, : len(target)], want, rtol=2e-4, atol=2e-4)


@BOTH
def test_cached_steps_equal_teacher_forcing(config):
    rng = np.random.default_rng(2)
    params = lively(config)
    source, inputs = ids(rng, 3, 9), np.append(np.zeros((3, 1), int), ids(rng, 3, 19), axis=1)
    source[1, 4:] = 0
    want = all_logits(config, params, batch_of(source, inputs, 9, 20))
    cache = start_cache(config, params, encode(config, params, source), source, 22)
    for i in range(20):
        got, cache = decode_step(config, params, cache, inputs[:, i], np.full(3, i))
        np.testing.assert_allclose(got, want[:, i], rtol=1e-5, atol=1e-5)
    # Back to position 0 with other ids: what the cache held there and after it must not matter.
    again = inputs.copy()
    again[:, 1:] = ids(rng, 3, 19)
    want = all_logits(config, params, batch_of(source, again, 9, 20))
    for i in range(20):
        got, cache = decode_step(config, params, cache, again[:, i], np.full(3, i))
        np.testing.assert_allclose(got, want[:, i], rtol=1e-5, atol=1e-5)


def test_cached_rows_may_be_at_different_positions():
    rng = np.random.default_rng(3)
    params = lively(V1)
    source, inputs = ids(rng, 2, 6), np.append(np.zeros((2, 1), int), ids(rng, 2, 7), axis=1)
    want = all_logits(V1, params, batch_of(source, inputs, 6, 8))
    cache = start_cache(V1, params, encode(V1, params, source), source, 8)
    place = np.zeros(2, int)
    for advance in ([1, 0], [1, 0], [0, 1], [1, 1], [1, 1], [0, 1]):
        got, cache = decode_step(V1, params, cache, inputs[[0, 1], place], place)
        np.testing.assert_allclose(got, want[[0, 1], place], rtol=1e-5, atol=1e-5)
        place = place + advance


@BOTH
def test_padding_and_later_targets_change_nothing(config):
    rng = np.random.default_rng(4)
    params = lively(config)
    sources, inputs = [ids(rng, 5), ids(rng, 11)], [ids(rng, 4), ids(rng, 6)]
    tight = all_logits(config, params, batch_of(sources, inputs, 11, 6))
    wide = all_logits(config, params, batch_of(sources, inputs, 17, 9))
    np.testing.assert_allclose(wide[0, :4], tight[0, :4], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(wide[1, :6], tight[1], rtol=1e-5, atol=1e-5)
    batch = batch_of(sources, inputs, 11, 6)
    batch["decoder_input_tokens"][:, 3:] = ids(rng, 2, 3)
    other = all_logits(config, params, batch)
    np.testing.assert_allclose(other[:, :3], tight[:, :3], rtol=1e-5, atol=1e-5)
    assert np.abs(other[:, 3:] - tight[:, 3:]).max() > 0.1  # and its own input does matter


@BOTH
def test_packed_rows_equal_separate_rows(config):
    rng = np.random.default_rng(5)
    params = lively(config)
    sources, inputs = [ids(rng, n) for n in (7, 3, 5)], [ids(rng, n) for n in (2, 6, 4)]
    apart = all_logits(config, params, batch_of(sources, inputs, 7, 6))
    groups = [[0, 1], [2]]

    def rows(parts, length):
        tokens = padded([np.concatenate([parts[i] for i in g]) for g in groups], length)
        numbers = [
            np.concatenate([np.full(len(parts[i]), n + 1) for n, i in enumerate(g)]) for g in groups
        ]
        return tokens, padded(numbers, length)

    source, source_ids = rows(sources, 12)
    target, target_ids = rows(inputs, 9)
    got = all_logits(
        config,
        params,
        {
            "encoder_input_tokens": source,
            "decoder_input_tokens": target,
            "encoder_segment_ids": source_ids,
            "decoder_segment_ids": target_ids,
        },
    )
    assert np.isfinite(got).all()
    for row, group in enumerate(groups):
        start = 0
        for i in group:
            n = len(inputs[i])
            want = apart[i, :n]
            np.testing.assert_allclose(got[row, start : start + n], want, rtol=1e-5, atol=1e-5)
            start += n


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("n_buckets, max_distance", [(32, 128), (8, 20), (16, 300)])
def test_relative_buckets(bidirectional, n_buckets, max_distance):
    positions = np.arange(-400, 401)
    want = [numpy_t5.bucket(int(x), bidirectional, n_buckets, max_distance) for x in positions]
    got = relative_position_buckets(positions, bidirectional, n_buckets, max_distance)
    assert got.tolist() == want
    assert len(set(want)) == n_buckets - bidirectional  # bidirectional: "0 after" is never used


def test_every_query_and_key_gets_the_bias_of_its_distance():
    params = lively(V1)["decoder"]
    table = np.asarray(params["relpos_bias"]["rel_embedding"])
    module = RelativePositionBias(V1, bidirectional=True)
    for n_queries, n_keys in ((1, 1), (1, 5), (6, 2), (30, 40)):
        got = module.apply({"params": params["relpos_bias"]}, n_queries, n_keys)
        want = [
            [table[:, numpy_t5.bucket(j - i, True)] for j in range(n_keys)]
            for i in range(n_queries)
        ]
        np.testing.assert_array_equal(got[0], np.moveaxis(want, -1, 0))


def test_shared_bias_gradient():
    rng = np.random.default_rng(6)
    scores = rng.normal(size=(5, 2, 3, 4)).astype(np.float32)
    bias = rng.normal(size=(1, 2, 3, 4)).astype(np.float32)
    weight = rng.normal(size=scores.shape).astype(np.float32)

    def loss(add, scores, bias):
        return jnp.sum(jnp.sin(add(scores, bias)) * weight)

    got = jax.grad(loss, (1, 2))(add_shared_bias, scores, bias)
    want = jax.grad(loss, (1, 2))(lambda s, b: s + b, scores, bias)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_attention_gradients_equal_those_of_a_plain_softmax():
    """Shared bias, stopped maximum and late division leave the gradients as they were."""
    rng = np.random.default_rng(7)
    x, y = (rng.normal(size=(3, n, V1.d_model)).astype(np.float32) for n in (4, 6))
    bias = rng.normal(size=(1, 3, 4, 6)).astype(np.float32)
    mask = (np.arange(6) < np.array([[6], [2], [5]]))[:, None, None]
    weight = rng.normal(size=x.shape).astype(np.float32)
    params = lively(V1)["encoder"]["layers_0"]["attention"]

    def ours(params, x, y, bias):
        out = Attention(V1).apply({"params": params}, x, y, mask, bias, True)
        return jnp.sum(out * weight)

    def plain(params, x, y, bias):
        q, k, v = (
            (z @ params[name]["kernel"]).reshape(3, -1, V1.n_heads, V1.d_kv)
            for name, z in (("query", x), ("key", y), ("value", y))
        )
        scores = jnp.where(mask, jnp.einsum("bqhk,blhk->bhql", q, k) + bias, -jnp.inf)
        out = jnp.einsum("bhql,blhk->bqhk", jax.nn.softmax(scores, axis=-1), v)
        return jnp.sum(out.reshape(3, 4, -1) @ params["out"]["kernel"] * weight)

    args = params, x, y, bias
    got, want = (jax.jit(jax.grad(f, (0, 1, 2, 3)))(*args) for f in (ours, plain))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.abs(b).max() > 0.1
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@BOTH
def test_tree_names_axes_and_initial_spread(config):
    params = t5.init(config, jax.random.key(0))
    axes = t5.logical_axes(config)
    is_names = lambda x: isinstance(x, tuple)  # noqa: E731
    assert jax.tree.structure(axes, is_leaf=is_names) == jax.tree.structure(params)
    flat = {
        jax.tree_util.keystr(path, simple=True, separator="/"): names
        for path, names in jax.tree_util.tree_leaves_with_path(axes, is_leaf=is_names)
    }
    shapes = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    sizes = dict(
        embed=config.d_model, joined_kv=config.n_heads * config.d_kv, mlp=config.d_ff,
        heads=config.n_heads, vocab=config.vocab_size, relpos_buckets=32,
    )  # fmt: skip
    for name, shape in shapes.items():
        assert tuple(sizes[axis] for axis in flat[name]) == shape, name
    inner = ["wi"] if config.mlp == "relu" else ["wi_0", "wi_1"]
    block = [f"mlp/{w}/kernel" for w in [*inner, "wo"]] + ["pre_mlp_layer_norm/scale"]
    four = [f"{m}/kernel" for m in ("query", "key", "value", "out")]
    want = {"token_embedder/embedding", "encoder/encoder_norm/scale", "decoder/decoder_norm/scale"}
    want |= {f"{stack}/relpos_bias/rel_embedding" for stack in ("encoder", "decoder")}
    for n in range(config.n_encoder_layers):
        names = block + ["pre_attention_layer_norm/scale"] + [f"attention/{m}" for m in four]
        want |= {f"encoder/layers_{n}/{name}" for name in names}
    for n in range(config.n_decoder_layers):
        names = block + ["pre_self_attention_layer_norm/scale"]
        names += ["pre_cross_attention_layer_norm/scale"]
        names += [f"{a}/{m}" for a in ("self_attention", "encoder_decoder_attention") for m in four]
        want |= {f"decoder/layers_{n}/{name}" for name in names}
    if not config.tied:
        want.add("decoder/logits_dense/kernel")
    assert set(shapes) == want


def test_initial_spread():
    config = T5Config(2000, 96, 24, 320, 6, mlp="gated-gelu", tied=False)
    params = t5.init(config, jax.random.key(1))
    layer = params["decoder"]["layers_1"]
    attention, d = layer["encoder_decoder_attention"], 96
    want = [
        (params["token_embedder"]["embedding"], 1.0),
        (attention["query"]["kernel"], (d * 24) ** -0.5),
        (attention["key"]["kernel"], d**-0.5),
        (attention["value"]["kernel"], d**-0.5),
        (attention["out"]["kernel"], (6 * 24) ** -0.5),
        (layer["mlp"]["wi_0"]["kernel"], d**-0.5),
        (layer["mlp"]["wo"]["kernel"], 320**-0.5),
        (params["decoder"]["logits_dense"]["kernel"], d**-0.5),
    ]
    for array, stddev in want:
        assert float(array.std()) == pytest.approx(stddev, rel=0.05)
    same = jax.tree.map(np.array_equal, params, t5.init(config, jax.random.key(1)))
    assert all(jax.tree.leaves(same))
    assert not np.array_equal(attention["key"]["kernel"], attention["value"]["kernel"])


@BOTH
def test_bfloat16_is_near_float32(config):
    rng = np.random.default_rng(8)
    params = t5.init(config, jax.random.key(0))
    batch = batch_of(ids(rng, 4, 9), ids(rng, 4, 6), 9, 6)
    half = dataclasses.replace(config, dtype="bfloat16")
    assert jitted(half, params, batch)[0].dtype == jnp.bfloat16
    got, want = all_logits(half, params, batch), all_logits(config, params, batch)
    assert got.dtype == np.float32
    assert 0 < np.abs(got - want).max() < 0.1 * want.std() + 0.05
    source = batch["encoder_input_tokens"]
    cache = start_cache(half, params, encode(half, params, source), source, 3)
    assert cache["layers"][0]["self_key"].dtype == jnp.bfloat16
    logits, _ = decode_step(half, params, cache, np.zeros(4, int), np.zeros(4, int))
    assert logits.dtype == jnp.float32


def test_dropout_follows_its_key():
    config = dataclasses.replace(V1, dropout=0.3)
    rng = np.random.default_rng(9)
    params, batch = lively(V1), batch_of(ids(rng, 2, 6), ids(rng, 2, 5), 6, 5)
    run = lambda key: np.asarray(jitted(config, params, batch, key)[0])  # noqa: E731
    np.testing.assert_array_equal(run(jax.random.key(0)), run(jax.random.key(0)))
    assert np.abs(run(jax.random.key(0)) - run(jax.random.key(1))).max() > 0.01
    plain = jitted(V1, params, batch)[0]
    np.testing.assert_array_equal(run(None), plain)
    np.testing.assert_array_equal(jitted(V1, params, batch, jax.random.key(0))[0], plain)


def test_a_source_of_padding_alone_gives_no_nan():
    params = lively(V1)
    batch = batch_of([[], [3, 4]], [[0], [0]], 4, 3)
    got = all_logits(V1, params, batch)
    assert np.isfinite(got).all()
    grads = jax.jit(jax.grad(lambda p: jitted(V1, p, batch)[0].sum()))(params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert np.exp(np.float32(MASKED)) == 0


def test_overwrite_replaces():
    cache = jnp.full((2, 1, 3, 2), 7.0)
    out = np.asarray(overwrite(cache, jnp.zeros((2, 1, 1, 2)), jnp.array([2, 0])))
    assert out[:, 0, :, 0].tolist() == [[7, 7, 0], [0, 7, 7]]


def test_config_from_section_and_errors():
    section = ModelOptions()
    config = configured(section, 301)
    assert config.vocab_size == 301 and config.d_ff == section.d_ff and config.tied is True
    assert hash(config) == hash(configured(section, 301))
    good = dataclasses.asdict(V1)
    bad = dict(
        d_model=0, n_heads=-1, vocab_size=2.5, n_decoder_layers=True, mlp="silu", dtype="float16",
        tied=1, dropout=1.0, relpos_buckets=6, relpos_max_distance=16, layer_norm_epsilon=0.0,
    )  # fmt: skip
    for name, value in bad.items():
        with pytest.raises(UserError, match=name):
            T5Config(**good | {name: value})
