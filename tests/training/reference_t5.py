"""The loss of a T5 written from the paper in whatever precision its parameters have.

One example a row, no packing, no cache, one softmax as in the textbook; buckets are counted one by
one by ``numpy_t5``. Checked against ``numpy_t5`` in the tests, and differentiable.
"""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

_PATH = Path(__file__).parents[1] / "models" / "numpy_t5.py"
_spec = importlib.util.spec_from_file_location("numpy_t5", _PATH)
numpy_t5 = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(numpy_t5)


def norm(x, scale, epsilon):
    return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * scale["scale"]


def attend(p, x, context, mask, bias, n_heads):
    q, k, v = (
        (y @ p[name]["kernel"]).reshape(*y.shape[:2], n_heads, -1)
        for name, y in (("query", x), ("key", context), ("value", context))
    )
    scores = jnp.einsum("bqhk,blhk->bhql", q, k) + bias
    weights = jax.nn.softmax(jnp.where(mask, scores, -1e30), axis=-1)
    mixed = jnp.einsum("bhql,blhk->bqhk", weights, v)
    return mixed.reshape(*x.shape[:2], -1) @ p["out"]["kernel"]


def mlp(p, x):
    if "wi" in p:
        return jnp.maximum(x @ p["wi"]["kernel"], 0) @ p["wo"]["kernel"]
    y = x @ p["wi_0"]["kernel"]
    gate = 0.5 * y * (1 + jnp.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    return (gate * (x @ p["wi_1"]["kernel"])) @ p["wo"]["kernel"]


def biases(table, length, bidirectional):
    places = range(length)
    buckets = [[numpy_t5.bucket(j - i, bidirectional) for j in places] for i in places]
    return table["rel_embedding"][:, np.array(buckets)]


def logits(config, params, source, inputs):
    """[N, S] and [N, T] ids, 0 is padding at the end, to [N, T, V]."""
    epsilon, heads = config.layer_norm_epsilon, config.n_heads
    seen = (source != 0)[:, None, None, :]
    table = params["token_embedder"]["embedding"]
    p = params["encoder"]
    bias = biases(p["relpos_bias"], source.shape[1], True)
    x = table[source]
    for n in range(config.n_encoder_layers):
        layer = p[f"layers_{n}"]
        y = norm(x, layer["pre_attention_layer_norm"], epsilon)
        x = x + attend(layer["attention"], y, y, seen, bias, heads)
        x = x + mlp(layer["mlp"], norm(x, layer["pre_mlp_layer_norm"], epsilon))
    memory = norm(x, p["encoder_norm"], epsilon)
    p = params["decoder"]
    bias = biases(p["relpos_bias"], inputs.shape[1], False)
    before = np.tril(np.ones((inputs.shape[1],) * 2, bool))
    x = table[inputs]
    for n in range(config.n_decoder_layers):
        layer = p[f"layers_{n}"]
        y = norm(x, layer["pre_self_attention_layer_norm"], epsilon)
        x = x + attend(layer["self_attention"], y, y, before, bias, heads)
        y = norm(x, layer["pre_cross_attention_layer_norm"], epsilon)
        x = x + attend(layer["encoder_decoder_attention"], y, memory, seen, 0.0, heads)
        x = x + mlp(layer["mlp"], norm(x, layer["pre_mlp_layer_norm"], epsilon))
    x = norm(x, p["decoder_norm"], epsilon)
    return x / np.sqrt(config.d_model) @ table.T if config.tied else x @ p["logits_dense"]["kernel"]


def loss_and_gradient(config, params, rows, z_loss, smoothing):
    """Weighted mean loss of examples and its gradient, in float64.

    Args:
      config: T5Config.
      params: numpy arrays.
      rows: source [N, S], targets [N, T] and weights [N, T], padding at the end.
      z_loss: factor of the squared log normaliser.
      smoothing: share of the uniform distribution.
    """
    source, targets, weights = rows
    inputs = np.pad(targets[:, :-1], ((0, 0), (1, 0)))

    def loss(params):
        scores = logits(config, params, source, inputs)
        log_z = jax.nn.logsumexp(scores, axis=-1)
        log_p = scores - log_z[..., None]
        nll = -jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
        token = (1 - smoothing) * nll - smoothing * log_p.mean(-1) + z_loss * log_z**2
        return (token * weights).sum() / weights.sum()

    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), params)
        value, gradient = jax.jit(jax.value_and_grad(loss))(wide)
        assert value.dtype == jnp.float64
        return float(value), jax.tree.map(np.asarray, gradient)
