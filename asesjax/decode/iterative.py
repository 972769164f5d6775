"""Iterative generation (AS-ES, section "iterative generation") as the plain loop, compiled.

    context = question
    repeat: write a segment from the context; append its ids to the context

The rows that wait for the same role write a segment, and the next round begins when the last of
them has. ``continuous`` gives the same chains faster; beam search uses this loop. The authors
tokenise the text anew for every segment; here ids are appended as they are (ours).
"""

import functools

import jax
import jax.numpy as jnp

from asesjax.core.types import Params
from asesjax.decode import beam
from asesjax.decode.segment import (
    SegmentState,
    advance,
    begin,
    context_tokens,
    judge,
    start_rows,
    tell,
    waiting_for,
    where_rows,
)
from asesjax.decode.spec import NO_COUNTS, Counts, DecodeInput, DecodeOutput, DecodeSpec
from asesjax.models import t5
from asesjax.models.t5_config import T5Config


@functools.partial(jax.jit, static_argnames=("config", "spec"))
def generate(
    config: T5Config, params: dict[str, Params], inputs: DecodeInput, spec: DecodeSpec
) -> tuple[DecodeOutput, Counts]:
    """Generate the chains of a batch of questions; a row does not depend on the others."""
    b, length = inputs.question.shape
    s = spec.context_room(length, inputs.extra_input.shape[1])

    def writing(role: str):
        def write(carry):
            rows, counts = carry
            mine = waiting_for(rows, role, spec)
            segment = begin(inputs, rows, spec)._replace(over=~mine)
            context = context_tokens(inputs, rows, spec)
            segment, steps = write_segment(config, params, role, context, segment, spec)
            counts = counts.plus(
                slot_steps=steps * b,
                useful_steps=segment.step.sum(),
                encoded_rows=b,
                useful_rows=mine.sum(),
                encoded_positions=b * s,
            )
            return where_rows(mine, judge(rows, segment, inputs, spec), rows), counts

        return write

    branches = [writing(role) for role in spec.roles]

    def one_round(carry):
        waiting = [waiting_for(carry[0], role, spec).sum() for role in spec.roles]
        return jax.lax.switch(jnp.argmax(jnp.stack(waiting)), branches, carry)

    rows, counts = jax.lax.while_loop(
        lambda carry: ~carry[0].ended.all(), one_round, (start_rows(inputs, spec), NO_COUNTS)
    )
    return rows.output, counts


def write_segment(
    config: T5Config,
    params: dict[str, Params],
    role: str,
    context: jax.Array,
    segment: SegmentState,
    spec: DecodeSpec,
) -> tuple[SegmentState, jax.Array]:
    """Have a role write a segment from ``context`` [B, S] for every row that is not over, and
    count the steps.
    """
    params = params[role]
    if spec.beams > 1:
        segment = beam.write_segment(config, params, context, segment, spec)
        return segment, segment.step.max()
    encoded = t5.encode(config, params, context)
    cache = t5.start_cache(config, params, encoded, context, spec.segment_buffer)

    def write(carry):
        steps, cache, segment = carry
        tell(role, segment, spec)
        logits, cache = t5.decode_step(config, params, cache, segment.last, segment.step)
        return steps + 1, cache, advance(segment, logits, spec)

    goes_on = lambda carry: ~carry[2].over.all()  # noqa: E731
    steps, _, segment = jax.lax.while_loop(goes_on, write, (jnp.int32(0), cache, segment))
    return segment, steps
