"""Beam search over one segment, compiled as one loop, with the semantics of transformers 5.

The hypotheses, their scores and the moment a row stops are those of
``generate(num_beams=K, do_sample=False, length_penalty=..., early_stopping=...,
max_new_tokens=...)`` with the ids that may not be written given as ``suppress_tokens``
(``transformers/generation/utils.py``, ``_beam_search``). What differs is the work: a row's beams
share the cross keys and values of their question, which are neither copied nor moved.

Shapes: B rows, K beams, S source length, T the buffer for new tokens, V vocabulary rows.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from asesjax.core.errors import UserError
from asesjax.core.types import Params
from asesjax.decode.iterative import PAD, Chains, Limits
from asesjax.models import t5
from asesjax.models.t5_config import T5Config

# Score of what does not exist yet. Not -inf: where a vocabulary has too few ids for all beams,
# transformers fills up with it, and so do we.
NOTHING = -1e9


@dataclasses.dataclass(frozen=True)
class BeamSpec:
    """What is compiled into the search; a change compiles it again.

    Attributes:
      n_beams: K. With 1 the search is greedy, whatever ``early_stopping`` says.
      vocab_limit: ids from here on are never chosen, and padding neither.
      buffer: T, new tokens there is room for, the end mark included.
      length_penalty: a hypothesis of n tokens, its end mark included, scores its log probability
        divided by ``n ** length_penalty``: above 0 favours long ones, below 0 short ones.
      early_stopping: when a row with K finished hypotheses stops: True at once, False when its best
        open beam, as long as it is now, scores below all of them, "never" when it would even after
        the most favourable number of further tokens.
      eos_id: ends a hypothesis.

    Raises:
      UserError: a value out of range.
    """

    n_beams: int
    vocab_limit: int
    buffer: int
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    eos_id: int = 1

    def __post_init__(self) -> None:
        if self.n_beams < 1:
            raise UserError(f"decode.beams must be at least 1, got {self.n_beams}")
        if not np.isfinite(self.length_penalty):
            raise UserError(f"decode.length_penalty must be finite, got {self.length_penalty}")
        if type(self.early_stopping) is not bool and self.early_stopping != "never":
            raise UserError(
                f'early_stopping must be False, True or "never", got {self.early_stopping!r}'
            )


class Hypotheses(NamedTuple):
    """The K best hypotheses of every row, the best first.

    Attributes:
      ids: [B, K, T] int32, 0 after the end; the end mark is not kept.
      length: [B, K] int32.
      score: [B, K] float32, log probability over ``n ** length_penalty``, n counting the end mark.
      log_probability: [B, K] float32, natural, of all V rows' softmax, end mark included.
      done: [B, K] bool, ended by the end mark; otherwise the bound cut it.
      broken: [B] bool, the logits were not finite: all hypotheses of the row are empty.
      steps: [B] int32, decoder steps until the row stopped.
    """

    ids: jax.Array
    length: jax.Array
    score: jax.Array
    log_probability: jax.Array
    done: jax.Array
    broken: jax.Array
    steps: jax.Array


class _Best(NamedTuple):
    """The best finished hypotheses of a row so far, the best first."""

    ids: jax.Array  # [B, K, T], the end mark included
    score: jax.Array  # [B, K]
    length: jax.Array  # [B, K], the end mark included
    finished: jax.Array  # [B, K] bool; False: there are fewer


class _Search(NamedTuple):
    step: jax.Array  # scalar
    caches: tuple  # of the layers: self keys and values [B, K, H, T, head]
    last: jax.Array  # [B, K] ids fed next
    ids: jax.Array  # [B, K, T] of the open beams
    score: jax.Array  # [B, K], their log probabilities
    best: _Best
    over: jax.Array  # [B] bool
    broken: jax.Array  # [B] bool
    steps: jax.Array  # [B]


def beam_search(
    config: T5Config,
    params: Params,
    source_tokens: jax.Array,
    max_new_tokens: int,
    spec: BeamSpec,
) -> Hypotheses:
    """Search the best targets of a batch of sources.

    A row's result does not depend on the other rows. Rows of padding alone stop at once, with empty
    hypotheses.

    Args:
      config: shape of the model.
      params: from ``t5.init`` or a checkpoint.
      source_tokens: [B, S] int32, end of sequence in it, 0 after the end.
      max_new_tokens: longest target, its end mark included; traced, at most T.
      spec: what is compiled in.

    Returns:
      ``Hypotheses``, on the device; those at [:, 0] are the answers.

    Raises:
      UserError: ``max_new_tokens`` below 1 or beyond the buffer.
    """
    if not 1 <= max_new_tokens <= spec.buffer:
        raise UserError(f"max_new_tokens must be from 1 to {spec.buffer}, got {max_new_tokens}")
    return _search(config, params, source_tokens, jnp.asarray(max_new_tokens, jnp.int32), spec)


def generate(
    config: T5Config,
    params_by_phase: tuple[Params, ...],
    question_tokens: jax.Array,
    limits: Limits,
    spec: BeamSpec,
) -> Chains:
    """Write chains of a single segment by beam search: ``iterative.generate`` with another spec.

    Args:
      config: shape of the model.
      params_by_phase: one set of parameters.
      question_tokens: [B, Q] int32, without end of sequence, 0 after the end.
      limits: of which ``max_chain_tokens`` bounds the chain, here its end mark included.
      spec: what is compiled in.

    Returns:
      ``Chains`` of the best hypotheses, on the device.

    Raises:
      UserError: limits below 1 or beyond the buffer.
    """
    bound = limits.max_chain_tokens
    if not 1 <= bound <= spec.buffer:
        raise UserError(f"decode.max_chain_tokens must be from 1 to {spec.buffer}, got {bound}")
    (params,) = params_by_phase
    return _chains(config, params, question_tokens, jnp.asarray(bound, jnp.int32), spec)


def n_compilations() -> int:
    """Programs compiled by this module in this process, for tests and timing."""
    return _search._cache_size() + _chains._cache_size()


@functools.partial(jax.jit, static_argnames=("config", "spec"))
def _chains(config, params, questions, bound, spec) -> Chains:
    end = jnp.sum(questions != PAD, axis=1, keepdims=True)
    place = jnp.arange(questions.shape[1] + 1)
    source = jnp.where(
        (place == end) & (end > 0), spec.eos_id, jnp.pad(questions, ((0, 0), (0, 1)))
    )
    found = _search(config, params, source, bound, spec)
    length, done = found.length[:, 0], found.done[:, 0] & ~found.broken
    empty = end[:, 0] == 0
    return Chains(
        ids=found.ids[:, 0],
        length=length,
        segment_ends=length[:, None],
        n_segments=(length > 0).astype(jnp.int32),
        done=done | empty,
        truncated=~done & ~found.broken & ~empty,
        repeated=jnp.zeros_like(done),
        broken=found.broken,
        generated_tokens=found.steps,
        log_probability=found.log_probability[:, 0],
    )


@functools.partial(jax.jit, static_argnames=("config", "spec"))
def _search(config, params, source, bound, spec) -> Hypotheses:
    b, k, room = source.shape[0], spec.n_beams, spec.buffer
    never = spec.early_stopping == "never" and k > 1
    at_once = spec.early_stopping is True or k == 1
    # Divisors of lengths 0 .. T, as Python computes them and not as the device would.
    lengths = np.arange(1, room + 1, dtype=np.float64)
    divisor = jnp.asarray([1.0, *(lengths**spec.length_penalty)], jnp.float32)
    ids = jnp.arange(config.vocab_size)
    allowed = (ids < spec.vocab_limit) & (ids != PAD)

    cache = t5.start_cache(config, params, t5.encode(config, params, source), source, room)
    own = ("self_key", "self_value")
    # Axis 1 of what every beam has for itself; the rest is the row's.
    axes = {name: None for name in cache}
    axes["layers"] = tuple({key: 1 if key in own else None for key in la} for la in cache["layers"])
    step_beams = jax.vmap(
        functools.partial(t5.decode_step, config, params), (axes, 1, None), (1, axes)
    )

    def with_own(caches):
        layers = tuple({**la, **new} for la, new in zip(cache["layers"], caches, strict=True))
        return {**cache, "layers": layers}

    def advance(s: _Search) -> _Search:
        logits, stepped = step_beams(with_own(s.caches), s.last, jnp.full(b, s.step))
        log_p = jax.nn.log_softmax(logits, axis=-1)
        log_p = jnp.where(allowed, log_p, jnp.where(jnp.isnan(log_p), jnp.nan, -jnp.inf))
        log_p = (log_p + s.score[:, :, None]).reshape(b, -1)
        # At most one of a beam's continuations ends it, so of 2K at least K go on.
        score, flat = jax.lax.top_k(log_p, 2 * k)
        parent, token = flat // config.vocab_size, (flat % config.vocab_size).astype(jnp.int32)
        written = _pick(s.ids, parent)
        written = jnp.where(jnp.arange(room) == s.step, token[:, :, None], written)
        n = s.step + 1
        ends = (token == spec.eos_id) | (n >= bound)
        # NaN counts as the highest score, so it would be among these.
        broken = s.broken | (~s.over & jnp.isnan(score).any(axis=1))

        running = score + jnp.where(ends, NOTHING, 0.0)
        running, going_on = jax.lax.top_k(running, k)
        parent = _pick(parent, going_on)
        caches = tuple(
            {key: _pick(layer[key], parent) for key in own} for layer in stepped["layers"]
        )

        # Only the K best may finish; the others were fetched to go on in their place.
        finishes = ends & (jnp.arange(2 * k) < k)
        new = _Best(
            ids=written,
            score=score / divisor[n] + jnp.where(finishes, 0.0, NOTHING),
            length=jnp.full((b, 2 * k), n),
            finished=finishes,
        )
        both = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), s.best, new)
        _, kept = jax.lax.top_k(both.score, k)
        best = jax.tree.map(lambda x: _pick(x, kept), both)
        rows = lambda x: s.over.reshape(-1, *[1] * (x.ndim - 1))  # noqa: E731
        best = jax.tree.map(lambda old, new: jnp.where(rows(new), old, new), s.best, best)

        longest = bound if never and spec.length_penalty > 0 else n
        worst = jnp.where(best.finished.all(axis=1), best.score.min(axis=1), NOTHING)
        over = s.over | broken | ~(running[:, 0] / divisor[longest] > worst)
        if at_once:
            over |= best.finished.all(axis=1)
        return _Search(
            step=n,
            caches=caches,
            last=_pick(token, going_on),
            ids=_pick(written, going_on),
            score=running,
            best=best,
            over=over,
            broken=broken,
            steps=s.steps + ~s.over,
        )

    zeros, nowhere = jnp.zeros((b, k), jnp.int32), jnp.zeros((b, k, room), jnp.int32)
    start = _Search(
        step=jnp.int32(0),
        caches=tuple(
            {key: jnp.repeat(la[key][:, None], k, axis=1) for key in own} for la in cache["layers"]
        ),
        last=zeros,
        ids=nowhere,
        # All beams start as one: the others must not write the same a second time.
        score=jnp.broadcast_to(jnp.where(jnp.arange(k) == 0, 0.0, NOTHING), (b, k)),
        best=_Best(nowhere, jnp.full((b, k), NOTHING), zeros, jnp.zeros((b, k), bool)),
        over=(source == PAD).all(axis=1),
        broken=jnp.zeros(b, bool),
        steps=jnp.zeros(b, jnp.int32),
    )
    s = jax.lax.while_loop(lambda s: (s.step < bound) & ~s.over.all(), advance, start)

    best = s.best
    there = best.finished & ~s.broken[:, None]
    length = jnp.where(there, best.length, 0)
    last = jnp.take_along_axis(best.ids, jnp.maximum(length - 1, 0)[:, :, None], axis=2)[:, :, 0]
    done = there & (last == spec.eos_id)
    text = length - done
    score = jnp.where(there, best.score, 0.0)
    return Hypotheses(
        ids=jnp.where(jnp.arange(room) < text[:, :, None], best.ids, PAD),
        length=text,
        score=score,
        log_probability=score * divisor[length],
        done=done,
        broken=s.broken,
        steps=s.steps,
    )


def _pick(x: jax.Array, beams: jax.Array) -> jax.Array:
    """Take beams [B, N] of x [B, M, ...]: [B, N, ...]."""
    return jnp.take_along_axis(x, beams.reshape(*beams.shape, *[1] * (x.ndim - 2)), axis=1)
