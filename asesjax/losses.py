"""Weighted cross-entropy as float32 sums, to be added over microbatches and devices, then divided.

A mean of means depends on how the batch was cut; so only the training step divides, at the end.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# Logits that a device holds at once: 32 MiB of float32. A quarter of that makes this part 10 %
# slower (CPU, 8 x 128 targets, 32128 rows); more gains nothing.
_LOGITS_AT_ONCE = 2**23


class LossSums(NamedTuple):
    """Float32 scalars that add up over microbatches and devices."""

    loss_sum: jax.Array  # what training minimises: weighted, with label smoothing and z-loss
    nll_sum: jax.Array  # weighted negative log-likelihood alone, in nats
    weight_sum: jax.Array  # sum of the weights
    # sum of the weights of tokens whose target has the highest logit (ties count)
    correct_sum: jax.Array


def weighted_cross_entropy(
    logits: jax.Array, targets: jax.Array, weights: jax.Array, z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> LossSums:  # fmt: skip
    """Sum the weighted cross-entropy of integer targets.

    A token's loss is ``log Z - (1 - s) x_target - s mean(x) + z (log Z)^2`` with ``s`` the label
    smoothing (the target distribution mixed with the uniform one over all V) and ``z`` the z-loss
    of T5X. No one-hot array of shape [B, T, V] is built. ``logits`` are float32 [B, T, V],
    ``targets`` int32 [B, T] and ``weights`` float32 [B, T]; 0 drops a token from every sum and the
    gradient, where logits may have any finite value.

    >>> sums = weighted_cross_entropy(
    ...     jnp.zeros((1, 2, 4)), jnp.array([[3, 0]]), jnp.array([[2.0, 0.0]]))
    >>> round(float(sums.nll_sum), 4), float(sums.weight_sum)  # 2 log 4
    (2.7726, 2.0)
    """
    logits, weights = logits.astype(jnp.float32), weights.astype(jnp.float32)
    used = weights > 0
    log_z = jax.nn.logsumexp(logits, axis=-1)  # [B, T]
    target_logit = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    loss = nll = log_z - target_logit
    if label_smoothing:
        loss = loss + label_smoothing * (target_logit - jnp.mean(logits, axis=-1))
    if z_loss:
        # Chosen before squaring: the gradient of an overflow would be 0 * inf.
        loss = loss + z_loss * jnp.square(jnp.where(used, log_z, 0.0))
    # The maximum instead of an argmax: XLA shares it with logsumexp.
    correct = (target_logit >= jnp.max(logits, axis=-1)).astype(jnp.float32)

    def total(values):
        return jnp.sum(jnp.where(used, values * weights, 0.0))

    return LossSums(total(loss), total(nll), jnp.sum(weights), total(correct))


def hidden_cross_entropy(
    logits_fn: Callable[[jax.Array], jax.Array], hidden: jax.Array, targets: jax.Array,
    weights: jax.Array, z_loss: float = 0.0, label_smoothing: float = 0.0,
    n_chunks: int | None = None,
) -> LossSums:  # fmt: skip
    """Sum the weighted cross-entropy from decoder outputs [B, T, D], some positions at a time.

    ``logits_fn`` maps [..., D] to float32 [..., V]. Logits [B, T, V] never exist whole: each chunk
    computes its own gradient at once, so nothing is computed twice either. Only ``loss_sum`` has a
    gradient, with respect to the parameters, ``hidden`` and ``weights``, added in float32. Chunks
    cut T, so rows stay on their devices; None makes as many as keep 32 MiB of logits on a device.
    """
    rows, length = targets.shape
    if n_chunks is None:
        n_chunks = _count_chunks(rows, length, jax.eval_shape(logits_fn, hidden).shape[-1])
    chunk = -(-length // n_chunks)
    n_chunks = -(-length // chunk)
    if n_chunks == 1:
        sums = weighted_cross_entropy(logits_fn(hidden), targets, weights, z_loss, label_smoothing)
        return LossSums(sums.loss_sum, *map(jax.lax.stop_gradient, sums[1:]))

    def cut(x: jax.Array) -> jax.Array:
        """[B, T, ...] -> [N, B, C, ...], padded with zeros, whose weight is 0."""
        x = jnp.pad(x, [(0, 0), (0, n_chunks * chunk - length)] + [(0, 0)] * (x.ndim - 2))
        return jnp.swapaxes(x.reshape(rows, n_chunks, chunk, *x.shape[2:]), 0, 1)

    logits_of, captured = jax.closure_convert(logits_fn, hidden[:, :chunk])

    def sums_of(captured, hidden, targets, weights):
        logits = logits_of(hidden, *captured)
        return weighted_cross_entropy(logits, targets, weights, z_loss, label_smoothing)

    return _add_chunks(sums_of, captured, cut(hidden), cut(targets), cut(weights))


def _count_chunks(rows: int, length: int, vocab: int) -> int:
    mesh = jax.sharding.get_abstract_mesh()
    n_devices = 1 if mesh.empty else math.prod(mesh.axis_sizes)
    positions = _LOGITS_AT_ONCE * n_devices // (rows * vocab)
    return -(-length // min(max(positions, 1), length))


def _zero() -> LossSums:
    return LossSums(*[jnp.float32(0.0)] * 4)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _add_chunks(sums_of: Callable, captured: Any, *chunks: jax.Array) -> LossSums:
    """Add ``sums_of(captured, hidden, targets, weights)`` over the leading axis of the chunks."""

    def add(total, chunk):
        return jax.tree.map(jnp.add, total, sums_of(captured, *chunk)), None

    return jax.lax.scan(add, _zero(), chunks)[0]


def _add_chunks_forward(sums_of, captured, *chunks):
    def loss(captured, hidden, weights, targets):
        sums = sums_of(captured, hidden, targets, weights)
        return sums.loss_sum, sums

    def add(total, chunk):
        hidden, targets, weights = chunk
        grad = jax.grad(loss, (0, 1, 2), has_aux=True)
        gradients, sums = grad(captured, hidden, weights, targets)
        return jax.tree.map(jnp.add, total, (sums, gradients[0])), gradients[1:]

    wide = lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32))  # noqa: E731
    start = _zero(), jax.tree.map(wide, captured)
    (sums, of_captured), (of_hidden, of_weights) = jax.lax.scan(add, start, chunks)
    narrow = jax.tree.map(lambda g, x: g.astype(x.dtype), of_captured, captured)
    return sums, (narrow, of_hidden, of_weights)


def _add_chunks_backward(sums_of, gradients, cotangent):
    scaled = jax.tree.map(lambda g: g * cotangent.loss_sum.astype(g.dtype), gradients)
    captured, of_hidden, of_weights = scaled
    return captured, of_hidden, None, of_weights


_add_chunks.defvjp(_add_chunks_forward, _add_chunks_backward)


def count_examples(batch: dict[str, jax.Array]) -> jax.Array:
    """Count the examples of a ``Batch`` without padding rows, packed ones each; float32 scalar."""
    if "decoder_segment_ids" in batch:
        return jnp.sum(jnp.max(batch["decoder_segment_ids"], axis=-1)).astype(jnp.float32)
    return jnp.sum(batch["example_index"] >= 0).astype(jnp.float32)


def normalizer(sums: LossSums, n_examples: jax.Array, normalize: str) -> jax.Array:
    """Return what the summed loss is divided by; ``normalize`` is "weights" or "examples"."""
    return {"weights": sums.weight_sum, "examples": n_examples}[normalize]


def inverse(value: jax.Array) -> jax.Array:
    """Return 1 / value, and 0 where value is 0: a batch without weight has no gradient."""
    return jnp.where(value > 0, 1.0 / jnp.where(value > 0, value, 1.0), 0.0)
