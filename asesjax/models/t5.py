"""The T5 encoder-decoder (Raffel et al. 2020) as pure functions of a config and parameters.

The Linen modules below hold the parameters under T5X's names; everything outside this folder calls
the functions at the end of the file. B batch, S source length, T target length, D width,
V vocabulary rows, H heads, K head size, L decoder positions.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from asesjax.core.types import Params
from asesjax.models.attention import Attention, RelativePositionBias, overwrite
from asesjax.models.layers import MLP, Dense, Embed, RMSNorm, dropout
from asesjax.models.stack import run_layers
from asesjax.models.t5_config import T5Config

Cache = dict[str, Any]


class EncoderLayer(nn.Module):
    """Self-attention and MLP, each normalised before and added to the stream after."""

    config: T5Config

    def setup(self) -> None:
        """Declare the blocks."""
        c = self.config
        self.pre_attention_layer_norm = RMSNorm(c.layer_norm_epsilon)
        self.attention = Attention(c)
        self.pre_mlp_layer_norm = RMSNorm(c.layer_norm_epsilon)
        self.mlp = MLP(c)
        self.dropout = dropout(c)

    def __call__(self, x, mask, bias, deterministic):
        """[B, S, D] -> [B, S, D]."""
        y = self.pre_attention_layer_norm(x)
        y = self.attention(y, y, mask, bias, deterministic)
        x = x + self.dropout(y, deterministic=deterministic)
        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic)
        return x + self.dropout(y, deterministic=deterministic)


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
        """[B, T, D] -> [B, T, D]."""
        y = self.pre_self_attention_layer_norm(x)
        y = self.self_attention(y, y, self_mask, bias, deterministic)
        x = x + self.dropout(y, deterministic=deterministic)
        y = self.pre_cross_attention_layer_norm(x)
        y = self.encoder_decoder_attention(y, encoded, cross_mask, None, deterministic)
        x = x + self.dropout(y, deterministic=deterministic)
        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic)
        return x + self.dropout(y, deterministic=deterministic)

    def step(self, x, cache, positions, self_mask, cross_mask, bias):
        """One position a row: x [B, 1, D] -> [B, 1, D] and the new self keys and values."""
        y = self.pre_self_attention_layer_norm(x)
        new_key, new_value = self.self_attention.keys_values(y)
        keys = overwrite(cache["self_key"], new_key, positions)
        values = overwrite(cache["self_value"], new_value, positions)
        x = x + self.self_attention.step(y, keys, values, self_mask, bias)
        y = self.pre_cross_attention_layer_norm(x)
        attend = self.encoder_decoder_attention.step
        x = x + attend(y, cache["cross_key"], cache["cross_value"], cross_mask)
        x = x + self.mlp(self.pre_mlp_layer_norm(x), True)
        return x, {**cache, "self_key": keys, "self_value": values}


class Encoder(nn.Module):
    """The encoder stack; its layers share one table of relative position biases."""

    config: T5Config
    remat: str = "none"
    scan_layers: bool = False

    def setup(self) -> None:
        """Declare the stack."""
        c = self.config
        self.relpos_bias = RelativePositionBias(c, bidirectional=True)
        self.layers = [EncoderLayer(c) for _ in range(c.n_encoder_layers)]
        self.encoder_norm = RMSNorm(c.layer_norm_epsilon)
        self.dropout_in = dropout(c)
        self.dropout_out = dropout(c)

    def __call__(self, x, mask, deterministic):
        """[B, S, D] -> [B, S, D]."""
        bias = self.relpos_bias(x.shape[1], x.shape[1])
        x = self.dropout_in(x, deterministic=deterministic)
        x = _through_layers(self, EncoderLayer, x, (mask, bias), deterministic)
        return self.dropout_out(self.encoder_norm(x), deterministic=deterministic)


class Decoder(nn.Module):
    """The decoder stack, and the output kernel where it is not tied to the embedding."""

    config: T5Config
    remat: str = "none"
    scan_layers: bool = False

    def setup(self) -> None:
        """Declare the stack."""
        c = self.config
        self.relpos_bias = RelativePositionBias(c, bidirectional=False)
        self.layers = [DecoderLayer(c) for _ in range(c.n_decoder_layers)]
        self.decoder_norm = RMSNorm(c.layer_norm_epsilon)
        self.dropout_in = dropout(c)
        self.dropout_out = dropout(c)
        if not c.tied:
            axes, stddev = ("embed", "vocab"), c.d_model**-0.5
            self.logits_dense = Dense(c.vocab_size, axes, stddev, out_dtype=jnp.float32)

    def __call__(self, x, encoded, self_mask, cross_mask, deterministic):
        """[B, T, D] -> [B, T, D]."""
        bias = self.relpos_bias(x.shape[1], x.shape[1])
        x = self.dropout_in(x, deterministic=deterministic)
        args = encoded, self_mask, cross_mask, bias
        x = _through_layers(self, DecoderLayer, x, args, deterministic)
        return self.dropout_out(self.decoder_norm(x), deterministic=deterministic)

    def start(self, encoded, max_length):
        """Per layer keys and values, and the bias by distance."""
        layers = []
        for layer in self.layers:
            key, value = layer.encoder_decoder_attention.keys_values(encoded)
            empty = jnp.zeros((*key.shape[:2], max_length, key.shape[3]), key.dtype)
            layers.append(
                {"cross_key": key, "cross_value": value, "self_key": empty, "self_value": empty}
            )
        return tuple(layers), self.relpos_bias.by_distance(max_length)

    def step(self, x, cache, positions):
        """One position a row: x [B, 1, D] -> [B, 1, D] and the new cache."""
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


class T5(nn.Module):
    """Token embedding, encoder and decoder; how the layers are run, see ``stack.run_layers``."""

    config: T5Config
    remat: str = "none"
    scan_layers: bool = False

    def setup(self) -> None:
        """Declare the three parts."""
        self.token_embedder = Embed(self.config)
        self.encoder = Encoder(self.config, self.remat, self.scan_layers)
        self.decoder = Decoder(self.config, self.remat, self.scan_layers)

    def encode(self, tokens, segment_ids, deterministic, embeddings=None):
        """See the functions ``encode`` and ``forward``."""
        if segment_ids is None:
            mask = (tokens != 0)[:, None, None, :]
        else:
            mask = _same_segment(segment_ids, segment_ids)
        if embeddings is None:
            embeddings = self.token_embedder(tokens)
        return self.encoder(embeddings, mask, deterministic)

    def decode_train(
        self, encoded, encoder_tokens, tokens, encoder_segments, decoder_segments, deterministic
    ):
        """See the function ``decode_train``."""
        length = tokens.shape[1]
        # Padding follows the real tokens, so the causal mask alone hides it from them.
        self_mask = jnp.tril(jnp.ones((length, length), bool))[None, None]
        cross_mask = (encoder_tokens != 0)[:, None, None, :]
        if decoder_segments is not None:
            self_mask = self_mask & _same_segment(decoder_segments, decoder_segments)
            cross_mask = _same_segment(decoder_segments, encoder_segments)
        x = self.token_embedder(tokens)
        return self.decoder(x, encoded, self_mask, cross_mask, deterministic)

    def logits(self, hidden):
        """See the function ``logits``."""
        if self.config.tied:
            return self.token_embedder.attend(hidden * self.config.d_model**-0.5)
        return self.decoder.logits_dense(hidden)

    def forward(self, batch, deterministic):
        """See the function ``forward``."""
        source, segments = batch["encoder_input_tokens"], batch.get("encoder_segment_ids")
        return self.decode_train(
            self.encode(source, segments, deterministic, batch.get("encoder_embeddings")),
            source,
            batch["decoder_input_tokens"],
            segments,
            batch.get("decoder_segment_ids"),
            deterministic,
        )

    def start_cache(self, encoded, encoder_tokens, max_length):
        """See the function ``start_cache``."""
        layers, bias = self.decoder.start(encoded, max_length)
        return {"layers": layers, "bias": bias, "cross_mask": encoder_tokens != 0}

    def decode_step(self, cache, ids, positions):
        """See the function ``decode_step``."""
        x, cache = self.decoder.step(self.token_embedder(ids[:, None]), cache, positions)
        return self.logits(x[:, 0]), cache

    def everything(self, batch):
        """Touch every parameter, for initialisation."""
        return self.logits(self.forward(batch, True))


def _through_layers(stack, kind, x, args, deterministic) -> jax.Array:
    """Run the layers of a stack, each of the module class ``kind``."""
    if stack.is_initializing():
        for layer in stack.layers:
            x = layer(x, *args, deterministic)
        return x
    trees = [layer.variables["params"] for layer in stack.layers]
    drops = stack.config.dropout and not deterministic
    key = stack.make_rng("dropout") if drops else None
    layer = kind(stack.config, parent=None)
    return run_layers(layer, trees, x, args, key, stack.remat, stack.scan_layers)


def _same_segment(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """Mask [B, 1, Q, L] of segment ids [B, Q] and [B, L]; 0 is padding and never seen."""
    same = queries[:, :, None] == keys[:, None, :]
    return (same & (keys != 0)[:, None, :])[:, None]


def _boxed_init(config: T5Config, key: jax.Array) -> Params:
    one = jnp.ones((1, 1), jnp.int32)
    batch = {"encoder_input_tokens": one, "decoder_input_tokens": one}
    return T5(config).init(key, batch, method=T5.everything)["params"]


def _apply(config: T5Config, params: Params, method, *args, dropout_key=None, **layers_run):
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    model = T5(config, **layers_run)
    return model.apply({"params": params}, *args, method=method, rngs=rngs)


@functools.partial(jax.jit, static_argnums=0)
def init(config: T5Config, key: jax.Array) -> Params:
    """Draw fresh parameters.

    Args:
      config: shape of the model.
      key: a jax PRNG key; the same key gives the same parameters.

    Returns:
      Nested dict of float32 arrays under T5X's names.
    """
    return nn.unbox(_boxed_init(config, key))


@functools.lru_cache
def logical_axes(config: T5Config) -> Params:
    """Names of the axes of every parameter.

    Returns:
      The tree of ``init`` with a tuple of names in the place of every array. Names: embed, mlp,
      heads, joined_kv, vocab, relpos_buckets. Tuples are pytrees themselves: map over this tree
      with ``is_leaf=lambda x: isinstance(x, tuple)``.
    """
    boxed = jax.eval_shape(functools.partial(_boxed_init, config), jax.random.key(0))
    is_box = lambda x: isinstance(x, nn.LogicallyPartitioned)  # noqa: E731
    return jax.tree.map(lambda box: box.names, boxed, is_leaf=is_box)


def encode(
    config: T5Config,
    params: Params,
    tokens: jax.Array,
    segment_ids: jax.Array | None = None,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Encode sources.

    Args:
      config: shape of the model.
      params: from ``init``.
      tokens: [B, S] int32; 0 is padding and never seen.
      segment_ids: [B, S] int32 where several examples share a row; 0 is padding.
      dropout_key: draws dropout; None for none.

    Returns:
      [B, S, D] in the config's dtype. Positions of padding hold numbers without meaning.
    """
    args = (tokens, segment_ids, dropout_key is None)
    return _apply(config, params, T5.encode, *args, dropout_key=dropout_key)


def decode_train(
    config: T5Config,
    params: Params,
    encoded: jax.Array,
    encoder_tokens: jax.Array,
    decoder_input_tokens: jax.Array,
    encoder_segment_ids: jax.Array | None = None,
    decoder_segment_ids: jax.Array | None = None,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Run the decoder over known targets (teacher forcing).

    Args:
      config: shape of the model.
      params: from ``init``.
      encoded: [B, S, D] from ``encode``.
      encoder_tokens: [B, S] int32, as given to ``encode``.
      decoder_input_tokens: [B, T] int32, the targets shifted right, padding at the end.
      encoder_segment_ids: [B, S] int32; given together with ``decoder_segment_ids`` or not at all.
      decoder_segment_ids: [B, T] int32.
      dropout_key: draws dropout; None for none.

    Returns:
      [B, T, D], normalised: what ``logits`` takes.
    """
    args = (encoded, encoder_tokens, decoder_input_tokens, encoder_segment_ids, decoder_segment_ids)
    args += (dropout_key is None,)
    return _apply(config, params, T5.decode_train, *args, dropout_key=dropout_key)


def logits(config: T5Config, params: Params, hidden: jax.Array) -> jax.Array:
    """Scores of every id: hidden [..., D] -> float32 [..., V]."""
    return _apply(config, params, T5.logits, hidden)


def forward(
    config: T5Config,
    params: Params,
    batch: dict,
    dropout_key: jax.Array | None = None,
    remat: str = "none",
    scan_layers: bool = False,
) -> jax.Array:
    """Encode and decode a training batch.

    Args:
      config: shape of the model.
      params: from ``init``.
      batch: the keys of ``core.types.Batch``; with segment ids where examples share rows. With
        ``encoder_embeddings`` [B, S, D] the encoder reads these in the place of the embeddings of
        ``encoder_input_tokens``, which then only tell what is padding.
      dropout_key: draws dropout; None for none.
      remat: what backward keeps of a layer: ``"none"`` (all), ``"dots"`` or ``"full"``, see
        ``stack.run_layers``. It changes memory and time, no number.
      scan_layers: compile one layer of each stack, whatever their number.

    Returns:
      [B, T, D] for ``logits``.
    """
    args = (batch, dropout_key is None)
    how = {"remat": remat, "scan_layers": scan_layers}
    return _apply(config, params, T5.forward, *args, dropout_key=dropout_key, **how)


def start_cache(
    config: T5Config,
    params: Params,
    encoded: jax.Array,
    encoder_tokens: jax.Array,
    max_length: int,
) -> Cache:
    """Make the state that ``decode_step`` carries.

    Args:
      config: shape of the model.
      params: from ``init``.
      encoded: [B, S, D] from ``encode``.
      encoder_tokens: [B, S] int32, as given to ``encode``.
      max_length: L, the positions there is room for.

    Returns:
      A dict: ``layers``, a tuple of {cross_key, cross_value [B, H, S, K], self_key, self_value
      [B, H, L, K]}; ``bias`` [L, H] float32 by distance; ``cross_mask`` [B, S] bool.
    """
    return _apply(config, params, T5.start_cache, encoded, encoder_tokens, max_length)


def decode_step(
    config: T5Config, params: Params, cache: Cache, ids: jax.Array, positions: jax.Array
) -> tuple[jax.Array, Cache]:
    """Feed one id a row and score the next.

    The keys and values written at ``positions`` replace what is there, and positions after it are
    never looked at, so going back to position 0 starts afresh.

    Args:
      config: shape of the model.
      params: from ``init``.
      cache: from ``start_cache`` or an earlier step.
      ids: [B] int32; 0 starts a sequence.
      positions: [B] int32, the place of ``ids``, below the cache's max_length.

    Returns:
      float32 logits [B, V] of the id at ``positions + 1``, and the new cache.
    """
    return _apply(config, params, T5.decode_step, cache, ids, positions)
