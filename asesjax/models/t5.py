"""The T5 encoder-decoder (Raffel et al. 2020) as pure functions of a config and parameters.

``_T5`` holds the parameters under T5X's names; everything outside this folder calls the functions
behind it with parameters from ``init`` or a checkpoint. For the letters of shapes see
``core/types.py``; the id 0 is padding.
"""

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from asesjax.core.types import Params
from asesjax.models.blocks import Stack
from asesjax.models.layers import Embed, axis_names
from asesjax.models.t5_config import T5Config

Cache = dict[str, Any]


class _T5(nn.Module):
    """Token embedding, encoder and decoder, with methods for the functions of the same names below;
    for the other fields see ``blocks.run_layers``.
    """

    config: T5Config
    remat: str = "none"
    scan_layers: bool = False

    def setup(self) -> None:
        self.token_embedder = Embed(self.config)
        self.encoder = Stack(self.config, False, self.remat, self.scan_layers)
        self.decoder = Stack(self.config, True, self.remat, self.scan_layers)

    def encode(self, tokens, segment_ids=None, deterministic=True, embeddings=None):
        if segment_ids is None:
            mask = (tokens != 0)[:, None, None, :]
        else:
            mask = _same_segment(segment_ids, segment_ids)
        if embeddings is None:
            embeddings = self.token_embedder(tokens)
        return self.encoder(embeddings, (mask,), deterministic)

    def forward(self, batch, deterministic):
        source, sources = batch["encoder_input_tokens"], batch.get("encoder_segment_ids")
        encoded = self.encode(source, sources, deterministic, batch.get("encoder_embeddings"))
        tokens, targets = batch["decoder_input_tokens"], batch.get("decoder_segment_ids")
        length = tokens.shape[1]
        # Padding follows the real tokens, so the causal mask alone hides it from them.
        self_mask = jnp.tril(jnp.ones((length, length), bool))[None, None]
        cross_mask = (source != 0)[:, None, None, :]
        if targets is not None:
            self_mask = self_mask & _same_segment(targets, targets)
            cross_mask = _same_segment(targets, sources)
        x = self.token_embedder(tokens)
        return self.decoder(x, (encoded, self_mask, cross_mask), deterministic)

    def logits(self, hidden):
        if self.config.tied:
            return self.token_embedder.attend(hidden * self.config.d_model**-0.5)
        return self.decoder.logits_dense(hidden)

    def start_cache(self, encoded, encoder_tokens, max_length):
        layers, bias = self.decoder.start(encoded, max_length)
        return {"layers": layers, "bias": bias, "cross_mask": encoder_tokens != 0}

    def decode_step(self, cache, ids, positions):
        x, cache = self.decoder.step(self.token_embedder(ids[:, None]), cache, positions)
        return self.logits(x[:, 0]), cache


def _same_segment(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """Mask [B, 1, Q, L] of segment ids [B, Q] and [B, L]; 0 is padding and never seen."""
    same = queries[:, :, None] == keys[:, None, :]
    return (same & (keys != 0)[:, None, :])[:, None]


def _boxed_init(config: T5Config, key: jax.Array) -> Params:
    one = jnp.ones((1, 1), jnp.int32)
    batch = {"encoder_input_tokens": one, "decoder_input_tokens": one}
    everything = lambda model: model.logits(model.forward(batch, True))  # noqa: E731
    return _T5(config).init(key, method=everything)["params"]


def _apply(config: T5Config, params: Params, method, *args):
    return _T5(config).apply({"params": params}, *args, method=method)


@functools.partial(jax.jit, static_argnums=0)
def init(config: T5Config, key: jax.Array) -> Params:
    """Draw fresh parameters: a nested dict of float32 arrays under T5X's names."""
    return nn.unbox(_boxed_init(config, key))


@functools.lru_cache
def logical_axes(config: T5Config) -> Params:
    """Return the tree of ``init`` with a tuple of axis names in the place of every array. A tuple
    is a pytree too: map over this tree with ``is_leaf=lambda x: isinstance(x, tuple)``.
    """
    return axis_names(functools.partial(_boxed_init, config))


def encode(config: T5Config, params: Params, tokens: jax.Array) -> jax.Array:
    """Encode int32 [B, S] as [B, S, D] in the config's dtype; padding gives meaningless numbers."""
    return _apply(config, params, _T5.encode, tokens)


def logits(config: T5Config, params: Params, hidden: jax.Array) -> jax.Array:
    """Scores of every id: hidden [..., D] -> float32 [..., V]."""
    return _apply(config, params, _T5.logits, hidden)


def forward(
    config: T5Config,
    params: Params,
    batch: dict,
    dropout_key: jax.Array | None = None,
    remat: str = "none",
    scan_layers: bool = False,
) -> jax.Array:
    """Encode and decode a training batch (teacher forcing) to [B, T, D], which ``logits`` takes.

    With ``encoder_embeddings`` [B, S, D] in the batch the encoder reads these, and its tokens only
    mark padding. Without ``dropout_key`` there is no dropout; ``remat`` and ``scan_layers`` change
    no number (see ``blocks.run_layers``).
    """
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    apply = functools.partial(_T5(config, remat, scan_layers).apply, method=_T5.forward, rngs=rngs)
    return cast(jax.Array, apply({"params": params}, batch, dropout_key is None))


def start_cache(
    config: T5Config, params: Params, encoded: jax.Array, encoder_tokens: jax.Array, max_length: int
) -> Cache:
    """Make the state that ``decode_step`` carries, with room for L = ``max_length`` positions, from
    ``encoded`` [B, S, D] and its tokens [B, S]: ``layers``, a tuple of {cross_key, cross_value
    [B, H, S, K], self_key, self_value [B, H, L, K]}; ``bias`` [L, H] float32 by distance;
    ``cross_mask`` [B, S] bool.
    """
    return _apply(config, params, _T5.start_cache, encoded, encoder_tokens, max_length)


def decode_step(
    config: T5Config, params: Params, cache: Cache, ids: jax.Array, positions: jax.Array
) -> tuple[jax.Array, Cache]:
    """Feed ``ids`` [B] at ``positions`` [B]; return the next ids' logits, float32 [B, V], and the
    cache. The id 0 starts a sequence. What stood at a position is replaced and later ones are never
    read, so a row that returns to position 0 starts a new sequence.
    """
    return _apply(config, params, _T5.decode_step, cache, ids, positions)
