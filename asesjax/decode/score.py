"""Negative log-likelihood and entropy, in nats, of known targets under teacher forcing."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from asesjax.core.types import Example, Params
from asesjax.decode.passes import map_batches
from asesjax.models import t5
from asesjax.models.t5_config import T5Config


@functools.partial(jax.jit, static_argnames=("config", "chunk"))
def token_scores(
    config: T5Config, params: Params, batch: dict[str, jax.Array], chunk: int = 16
) -> tuple[jax.Array, jax.Array]:
    """Score every target y of a batch: ``-log p(y)`` and ``-sum_v p(v) log p(v)`` over all V rows
    of the vocabulary, float32 [B, T] each, 0 at padding. Weights are ignored. Logits exist for
    ``chunk`` positions at a time.
    """
    hidden = t5.forward(config, params, batch)
    targets = batch["decoder_target_tokens"]
    b, length = targets.shape
    pad = -length % chunk

    def cut(x):  # [B, T, ...] -> [T / chunk, B, chunk, ...]
        x = jnp.pad(x, ((0, 0), (0, pad)) + ((0, 0),) * (x.ndim - 2))
        return x.reshape(b, -1, chunk, *x.shape[2:]).swapaxes(0, 1)

    def scores(piece):
        hidden, targets = piece
        log_p = jax.nn.log_softmax(t5.logits(config, params, hidden), axis=-1)
        nll = -jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
        return nll, -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)

    def join(x):  # [T / chunk, B, chunk] -> [B, T]
        x = x.swapaxes(0, 1).reshape(b, -1)[:, :length]
        return jnp.where(targets != 0, x, 0.0)

    nll, entropy = jax.lax.map(scores, (cut(hidden), cut(targets)))
    return join(nll), join(entropy)


def score_examples(
    config: T5Config,
    params: Params,
    examples: Sequence[Example],
    source_buckets: Sequence[int],
    target_buckets: Sequence[int],
    batch_size: int = 64,
    mesh: Mesh | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return nll and entropy of the targets of each example, float32 [T] each, in order. Batches
    are shared as ``map_batches`` does. Raises UserError for an example longer than the largest
    bucket.
    """
    function = functools.partial(token_scores, config, params)
    rows = map_batches(function, examples, source_buckets, target_buckets, batch_size, mesh)
    lengths = [len(example.targets) for example in examples]
    return [(nll[:n], entropy[:n]) for (nll, entropy), n in zip(rows, lengths, strict=True)]
