"""Iterative generation (AS-ES, section "iterative generation"), compiled as one program.

    context = question
    repeat: write a segment from the context; append its ids to the context

USM writes every segment with one set of parameters, DSM with two in turn, the extractive one first.
A method that writes its whole chain at once is the case of a single segment. Where the authors
decode one question at a time in Python and tokenise the text anew for every segment, here a batch
of questions stays on the device until all are done, and ids are appended as they are (ours).

This is the plain loop: all rows write a segment, and the next round begins when the last of them
has. ``continuous`` gives the same chains with slots that never wait. Shapes as in ``spec``.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from asesjax.core.types import Params
from asesjax.decode import beam
from asesjax.decode.segment import (
    Progress,
    Segment,
    advance,
    begin,
    context_tokens,
    judge,
    start_progress,
)
from asesjax.decode.spec import (
    MODEL_ITSELF,
    Chains,
    DecodeSpec,
    Limits,
    Sampling,
    Work,
    make_work,
)
from asesjax.models import t5
from asesjax.models.t5_config import T5Config


class Counts(NamedTuple):
    """What the device did, int32 scalars.

    Attributes:
      slot_steps: decoder steps, those of idle slots counted.
      useful_steps: of which some question needed.
      encoded_rows: contexts encoded, those of idle slots counted.
      useful_rows: of which some question needed.
      encoded_positions: positions of those contexts, padding counted.
    """

    slot_steps: jax.Array
    useful_steps: jax.Array
    encoded_rows: jax.Array
    useful_rows: jax.Array
    encoded_positions: jax.Array

    def plus(self, **more: jax.Array | int) -> "Counts":
        """Add to some of them."""
        return self._replace(**{name: getattr(self, name) + n for name, n in more.items()})


def no_counts() -> Counts:
    """All zero."""
    return Counts(*[jnp.int32(0)] * len(Counts._fields))


def generate(
    config: T5Config,
    params_by_phase: tuple[Params, ...],
    questions: jax.Array,
    limits: Limits,
    spec: DecodeSpec,
    sampling: Sampling = MODEL_ITSELF,
    keys: jax.Array | None = None,
    forced: jax.Array | None = None,
    hint: jax.Array | None = None,
    stage: jax.Array | None = None,
) -> tuple[Chains, Counts]:
    """Generate the chains of a batch of questions.

    A segment ends at ``eos_id``, at ``sentinel_id``, when it runs in circles, or when a bound cuts
    it; cut segments are kept and marked ``truncated``. What ends a chain: see ``segment.judge``.
    A row's result does not depend on the other rows.

    Args:
      config: shape of the model, that of every phase.
      params_by_phase: one set of parameters, or two that write segments in turn.
      questions: [B, Q] int32, without end of sequence, 0 after the end; rows of padding are done
        at once.
      limits: bounds, traced; numbers, or one a row.
      spec: what is compiled in.
      sampling: how ids are drawn where ``spec.sample``.
      keys: [B, 2] uint32, from ``spec.row_keys``.
      forced: [B, F] int32, ids each chain begins with, or [B, P, F], each of its first segments.
      hint: [B, N] int32, see ``spec.Frame``.
      stage: [B] int32, of the first segment; 0 when None.

    Returns:
      ``Chains`` and ``Counts``, on the device.

    Raises:
      UserError: limits below 1 or beyond the spec's buffers.
    """
    work = make_work(questions, limits, spec, keys, forced, hint, stage)
    return generate_work(config, tuple(params_by_phase), work, sampling, spec)


def n_compilations() -> int:
    """Programs compiled by ``generate`` in this process, for tests."""
    return generate_work._cache_size()


@functools.partial(jax.jit, static_argnames=("config", "spec"))
def generate_work(
    config: T5Config,
    params_by_phase: tuple[Params, ...],
    work: Work,
    sampling: Sampling,
    spec: DecodeSpec,
) -> tuple[Chains, Counts]:
    """``generate`` of what ``spec.make_work`` has checked and put together."""
    b, s = len(work.question), spec.context_room(work.question.shape[1], work.hint.shape[1])

    def phase(params):
        def one(carry: tuple[Progress, Counts]) -> tuple[Progress, Counts]:
            progress, counts = carry
            segment, steps = _write_segment(config, params, work, progress, sampling, spec)
            counts = counts.plus(
                slot_steps=steps * b,
                useful_steps=segment.step.sum(),
                encoded_rows=b,
                useful_rows=(~progress.ended).sum(),
                encoded_positions=b * s,
            )
            return judge(progress, segment, work, spec), counts

        return one

    phases = [phase(params) for params in params_by_phase]

    def one_round(carry):
        number, *rest = carry
        return number + 1, *jax.lax.switch(number % len(phases), phases, tuple(rest))

    _, progress, counts = jax.lax.while_loop(
        lambda carry: ~carry[1].ended.all(),
        one_round,
        (jnp.int32(0), start_progress(work, spec), no_counts()),
    )
    return progress.chains, counts


def _write_segment(
    config, params, work: Work, progress: Progress, sampling, spec
) -> tuple[Segment, jax.Array]:
    """Write one segment for every row that has not ended, and count the steps."""
    context = context_tokens(work, progress, spec)
    if spec.beams > 1:
        segment = beam.write_segment(config, params, context, begin(work, progress, spec), spec)
        return segment, segment.step.max()
    encoded = t5.encode(config, params, context)
    cache = t5.start_cache(config, params, encoded, context, spec.segment_buffer)

    def write(carry):
        steps, cache, segment = carry
        logits, cache = t5.decode_step(config, params, cache, segment.last, segment.step)
        return steps + 1, cache, advance(segment, logits, sampling, spec)

    first = (jnp.int32(0), cache, begin(work, progress, spec))
    steps, _, segment = jax.lax.while_loop(lambda carry: ~carry[2].over.all(), write, first)
    return segment, steps
