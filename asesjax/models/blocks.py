"""T5's encoder and decoder layers, normalised before and added after (Raffel et al. 2020, 2.1), and
stacks of them, unrolled or as one scan. Checkpoints have a tree for each layer (``layers_0``,
``layers_1``, ...) either way.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from asesjax.models.attention import Attention, RelativePositionBias, overwrite
from asesjax.models.layers import MLP, Dense, RMSNorm, dropout, shard_rows
from asesjax.models.t5_config import T5Config

# What is stored for the backward pass, which computes the rest again, layer by layer (T5X's
# "minimal" and "full"). "dots" leaves out products of two activations: attention scores are larger
# than the queries and keys that they are computed from.
REMAT = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class EncoderLayer(nn.Module):
    """Self-attention and MLP."""

    config: T5Config

    @nn.compact
    def __call__(self, x, mask, bias, deterministic):
        """[B, S, D] -> [B, S, D]; mask and bias as in ``Attention``."""
        c, drop = self.config, dropout(self.config, name="dropout")
        y = RMSNorm(c.layer_norm_epsilon, name="pre_attention_layer_norm")(x)
        y = Attention(c, name="attention")(y, y, mask, bias, deterministic)
        x = x + drop(y, deterministic=deterministic)
        y = RMSNorm(c.layer_norm_epsilon, name="pre_mlp_layer_norm")(x)
        y = MLP(c, name="mlp")(y, deterministic)
        return x + drop(y, deterministic=deterministic)


class DecoderLayer(nn.Module):
    """Causal self-attention, attention over the encoded source, and MLP."""

    config: T5Config

    def setup(self) -> None:
        """Declare the blocks."""
        c = self.config
        self.pre_self_attention_layer_norm = RMSNorm(c.layer_norm_epsilon)
        self.self_attention = Attention(c)
        self.pre_cross_attention_layer_norm = RMSNorm(c.layer_norm_epsilon)
        self.encoder_decoder_attention = Attention(c)
        self.pre_mlp_layer_norm = RMSNorm(c.layer_norm_epsilon)
        self.mlp = MLP(c)
        self.dropout = dropout(c)

    def __call__(self, x, encoded, self_mask, cross_mask, bias, deterministic):
        """[B, T, D] over [B, S, D] -> [B, T, D]."""
        y = self.pre_self_attention_layer_norm(x)
        return self._blocks(x, y, y, encoded, self_mask, cross_mask, bias, deterministic)

    def step(self, x, cache, positions, self_mask, cross_mask, bias):
        """One position a row: x [B, 1, D] -> [B, 1, D] and the layer's new cache."""
        y = self.pre_self_attention_layer_norm(x)
        key, value = self.self_attention.keys_values(y)
        written = (
            overwrite(cache["self_key"], key, positions),
            overwrite(cache["self_value"], value, positions),
        )
        source = cache["cross_key"], cache["cross_value"]
        x = self._blocks(x, y, written, source, self_mask, cross_mask, bias, True)
        return x, {**cache, "self_key": written[0], "self_value": written[1]}

    def _blocks(self, x, y, written, source, self_mask, cross_mask, bias, deterministic):
        """The three blocks, given ``y``, which is ``x`` normalised for the first."""
        y = self.self_attention(y, written, self_mask, bias, deterministic)
        x = x + self.dropout(y, deterministic=deterministic)
        y = self.pre_cross_attention_layer_norm(x)
        y = self.encoder_decoder_attention(y, source, cross_mask, None, deterministic)
        x = x + self.dropout(y, deterministic=deterministic)
        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic)
        return x + self.dropout(y, deterministic=deterministic)


class Stack(nn.Module):
    """The layers of one side, which share a table of relative position biases. The decoder also
    holds the output kernel where it is not tied to the embedding.
    """

    config: T5Config
    is_decoder: bool
    remat: str = "none"
    scan_layers: bool = False

    def setup(self) -> None:
        """Declare the layers."""
        c = self.config
        self.relpos_bias = RelativePositionBias(c, bidirectional=not self.is_decoder)
        self.dropout_in = dropout(c)
        self.dropout_out = dropout(c)
        if self.is_decoder:
            self.layers: list[Any] = [DecoderLayer(c) for _ in range(c.n_decoder_layers)]
            self.decoder_norm = RMSNorm(c.layer_norm_epsilon)
        else:
            self.layers = [EncoderLayer(c) for _ in range(c.n_encoder_layers)]
            self.encoder_norm = RMSNorm(c.layer_norm_epsilon)
        if self.is_decoder and not c.tied:
            axes, stddev = ("embed", "vocab"), c.d_model**-0.5
            self.logits_dense = Dense(c.vocab_size, axes, stddev, out_dtype=jnp.float32)

    def __call__(self, x: jax.Array, args: tuple, deterministic: bool) -> jax.Array:
        """[B, L, D] -> [B, L, D], normalised; ``args`` is what each layer gets before the bias."""
        bias = self.relpos_bias(x.shape[1], x.shape[1])
        x = self.dropout_in(x, deterministic=deterministic)
        x = self._run(x, (*args, bias), deterministic)
        norm = self.decoder_norm if self.is_decoder else self.encoder_norm
        return self.dropout_out(norm(x), deterministic=deterministic)

    def _run(self, x, args, deterministic):
        if self.is_initializing():
            for layer in self.layers:
                x = layer(x, *args, deterministic)
            return x
        trees = [layer.variables["params"] for layer in self.layers]
        drops = self.config.dropout and not deterministic
        key = self.make_rng("dropout") if drops else None
        layer = type(self.layers[0])(self.config, parent=None)
        return run_layers(layer, trees, x, args, key, self.remat, self.scan_layers)

    def start(self, encoded: jax.Array, max_length: int) -> tuple[tuple[dict, ...], jax.Array]:
        """Keys and values of each decoder layer, and the bias by distance."""
        layers = []
        for layer in self.layers:
            key, value = layer.encoder_decoder_attention.keys_values(encoded)
            empty = jnp.zeros((*key.shape[:2], max_length, key.shape[3]), key.dtype)
            layers.append(
                {"cross_key": key, "cross_value": value, "self_key": empty, "self_value": empty}
            )
        return tuple(layers), self.relpos_bias.by_distance(max_length)

    def step(self, x: jax.Array, cache: dict, positions: jax.Array) -> tuple[jax.Array, dict]:
        """One position a row of the decoder: x [B, 1, D] -> [B, 1, D] and the new cache."""
        distance = positions[:, None] - jnp.arange(cache["bias"].shape[0])  # [B, L]
        bias = jnp.take(cache["bias"], jnp.maximum(distance, 0), axis=0)  # [B, L, H]
        bias = bias.swapaxes(1, 2)[:, :, None, :]
        self_mask = (distance >= 0)[:, None, None, :]
        cross_mask = cache["cross_mask"][:, None, None, :]
        layers = []
        for layer, stored in zip(self.layers, cache["layers"], strict=True):
            x, stored = layer.step(x, stored, positions, self_mask, cross_mask, bias)
            layers.append(stored)
        return self.decoder_norm(x), {**cache, "layers": tuple(layers)}


def run_layers(
    layer: nn.Module,
    trees: Sequence[Any],
    x: jax.Array,
    args: tuple,
    key: jax.Array | None,
    remat: str = "none",
    scanned: bool = False,
) -> jax.Array:
    """Run equal layers over [B, L, D]; every way gives the same numbers, dropout included.

    ``layer`` is unbound and called as ``layer(x, *args, deterministic)``; ``trees`` are the layers'
    parameters, ``key`` draws dropout. For the backward pass ``remat="none"`` stores what it needs,
    ``"dots"`` the products with parameters, ``"full"`` the input of each layer. ``scanned``
    compiles one layer for all, with a second copy of parameters and gradients in memory.
    """
    keys = None if key is None else jax.random.split(key, len(trees))

    def one(x, params, key):
        rngs = None if key is None else {"dropout": key}
        return layer.apply({"params": params}, x, *args, key is None, rngs=rngs)

    if remat != "none":
        # XLA for CPUs drops the barriers that delay recomputation until the backward pass needs
        # it, so unrolled layers would save nothing; a loop does delay it.
        scanned = scanned or _platform() == "cpu"
        one = jax.checkpoint(one, policy=REMAT[remat], prevent_cse=not scanned)
    if not scanned:
        for number, params in enumerate(trees):
            x = one(x, params, None if keys is None else keys[number])
        return x
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    def step(x, each):
        return shard_rows(one(x, *each)), None

    return jax.lax.scan(step, shard_rows(x), (stacked, keys))[0]


def _platform() -> str:
    """Platform of the devices that are compiled for: the known mesh's, or the default one."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else jax.default_backend()
