"""The same chains as ``iterative``, with slots that do not wait for each other (ours).

Questions end their segments and chains at different times. Here a table of N questions lies on the
device, and pools of slots, one pool for each phase, hold those that are being written. When some
slots of a pool have finished their segments, the loop stops writing for a moment: the segments are
joined to their chains, and the waiting questions of that phase, new ones or ones that go on, are
encoded a few at a time and take the free slots. All of it is one compiled program: the host only
takes ended chains out of the table and puts new questions in, while the caches stay on the device.

- The pool with the most to do writes. With two phases a question changes pools with every segment,
  and both pools stay full, since each has slots of its own.
- Only questions that take a slot are encoded, ``encode_rows`` at a time, each such group padded to
  the shortest of a few lengths that holds it; likewise a pool reads its caches only up to the
  shortest of them that holds all its contexts.

Shapes: N table entries, B slots of a pool, E rows encoded at once, S source length; others as in
``spec``.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from asesjax.core.errors import UserError
from asesjax.core.types import Params
from asesjax.decode import caches
from asesjax.decode.iterative import Counts, no_counts
from asesjax.decode.segment import (
    Progress,
    Segment,
    advance,
    begin,
    context_tokens,
    judge,
    start_progress,
)
from asesjax.decode.spec import PAD, DecodeSpec, Limits, Sampling, Work
from asesjax.models import t5
from asesjax.models.layers import rows_apart, whole
from asesjax.models.t5_config import T5Config


@dataclasses.dataclass(frozen=True)
class Slots:
    """Sizes of the program; a change compiles it again.

    Attributes:
      n_slots: B, questions a pool writes at once.
      n_entries: N, questions in the table; several times B, so that slots need not wait for the
        host.
      encode_rows: E, contexts encoded at once.
      question_length: Q.
      forced_shape: (P, F) of ``Work.forced``.
      hint_length: N.
      n_bounds: second axis of ``Work.limits.max_segment_tokens``.
      context_lengths: rising, lengths that contexts are padded to and caches are read to; S, the
        longest context there can be, is added.

    Raises:
      UserError: a size below 1, more contexts at once than slots, or few entries.
    """

    n_slots: int
    n_entries: int
    encode_rows: int
    question_length: int
    forced_shape: tuple[int, int] = (0, 0)
    hint_length: int = 0
    n_bounds: int = 1
    context_lengths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if min(self.n_slots, self.encode_rows, self.question_length) < 1:
            raise UserError(f"sizes must be at least 1, got {self}")
        if self.encode_rows > self.n_slots:
            raise UserError(
                f"decode.encode_rows {self.encode_rows} is more than the {self.n_slots} slots"
            )
        if self.n_entries < 2 * self.n_slots:
            raise UserError(f"{self.n_entries} entries for {self.n_slots} slots; make it twice")


class _Pool(NamedTuple):
    """The slots of one phase."""

    entry: jax.Array  # [B] whose segment a slot writes; N where it is free
    context_length: jax.Array  # [B]
    segment: Segment  # [B, ...]
    cache: t5.Cache  # [B, ...]


class State(NamedTuple):
    """All that the program carries from call to call.

    Attributes:
      work: the table's questions, [N, ...].
      progress: and how far they are.
      in_slot: [N] bool, being written.
      pools: a pool of slots for each phase.
      counts: what the device did in the last call of ``run``.
    """

    work: Work
    progress: Progress
    in_slot: jax.Array
    pools: tuple[_Pool, ...]
    counts: Counts


def n_compilations() -> int:
    """Programs compiled by ``run`` in this process, for tests."""
    return run._cache_size()


@functools.partial(jax.jit, static_argnames=("config", "spec", "slots"))
def start(
    config: T5Config,
    params_by_phase: tuple[Params, ...],
    spec: DecodeSpec,
    slots: Slots,
) -> State:
    """Return an empty table and free slots.

    Args:
      config: shape of the model.
      params_by_phase: one set of parameters for each phase.
      spec: what is compiled in.
      slots: sizes.
    """
    n, b = slots.n_entries, slots.n_slots
    work = _no_work(n, slots)
    nothing = _no_work(b, slots)
    source = jnp.zeros((b, _lengths(slots, spec)[-1]), jnp.int32)

    def pool(params):
        shape = (*source.shape, config.d_model)
        encoded = jnp.zeros(shape, config.activation_dtype)
        return _Pool(
            entry=jnp.full(b, n),
            context_length=jnp.zeros(b, jnp.int32),
            segment=begin(nothing, start_progress(nothing, spec), spec),
            cache=t5.start_cache(config, params, encoded, source, spec.segment_buffer),
        )

    pools = tuple(pool(params) for params in params_by_phase)
    return _placed(State(work, start_progress(work, spec), jnp.zeros(n, bool), pools, no_counts()))


@functools.partial(jax.jit, static_argnames=("spec",), donate_argnums=0)
def put(state: State, entries: jax.Array, work: Work, spec: DecodeSpec) -> State:
    """Write questions into the table.

    Args:
      state: is donated.
      entries: [N] int32, where each row of ``work`` goes; N or more for rows to leave out. What is
        there must have ended.
      work: [N, ...].
      spec: what is compiled in.
    """
    fresh = start_progress(work, spec)

    def write(table, rows):
        return jax.tree.map(lambda x, new: x.at[entries].set(new, mode="drop"), table, rows)

    return _placed(
        state._replace(work=write(state.work, work), progress=write(state.progress, fresh))
    )


@functools.partial(
    jax.jit, static_argnames=("config", "spec", "slots"), donate_argnames=("state",)
)
def run(
    config: T5Config,
    params_by_phase: tuple[Params, ...],
    state: State,
    sampling: Sampling,
    drain: jax.Array,
    spec: DecodeSpec,
    slots: Slots,
) -> State:
    """Write until slots lack questions, or with ``drain`` until every question has ended.

    Args:
      config: shape of the model.
      params_by_phase: one set of parameters for each phase.
      state: is donated.
      sampling: how ids are drawn where ``spec.sample``.
      drain: bool scalar, traced.
      spec: what is compiled in.
      slots: sizes.

    Returns:
      The state. At least one question has ended since, unless none was left.
    """
    n_phases = len(params_by_phase)
    turn = functools.partial(_turn, config, sampling, spec, slots, n_phases)

    def busy(state: State):
        live = ~state.progress.ended
        # A slot has nothing to take while the host could put a question where one has ended.
        free = (state.pools[0].entry == slots.n_entries).sum()
        starved = (free > _ready(state, 0, n_phases).sum()) & (~live).any()
        return live.any() & (drain | ~starved)

    def one(state: State):
        todo = jnp.stack([
            jnp.minimum((pool.entry < slots.n_entries).sum() + _ready(state, p, n_phases).sum(),
                        slots.n_slots)
            for p, pool in enumerate(state.pools)
        ])  # fmt: skip
        chosen = jnp.argmax(todo)
        # One after the other, each doing nothing when it is not its turn: a conditional would
        # copy the other pools' caches.
        for p, params in enumerate(params_by_phase):
            state = turn(params, p, chosen == p, state)
        return state

    return _placed(jax.lax.while_loop(busy, one, state._replace(counts=no_counts())))


def _turn(config, sampling, spec, slots, n_phases, params, phase, active, state: State) -> State:
    """Fill the free slots of a pool, write until enough of them have finished, take those out."""
    lengths = jnp.asarray(_lengths(slots, spec))

    def waiting(state: State):
        free = (state.pools[phase].entry == slots.n_entries).sum()
        return jnp.minimum(free, _ready(state, phase, n_phases).sum()), slots.n_slots - free

    def can_fill(state: State):
        # A full group to encode, or near the end more that wait than write.
        n_waiting, n_writing = waiting(state)
        return active & ((n_waiting >= slots.encode_rows) | (n_waiting > n_writing))

    fill = functools.partial(_fill, config, spec, slots, n_phases, params, phase)
    state = jax.lax.while_loop(can_fill, fill, state)

    pool = state.pools[phase]
    n_waiting, _ = waiting(state)
    own, shared = caches.split(pool.cache)
    longest = jnp.where(active & ~pool.segment.over, pool.context_length, 0).max()

    def writing(length: int):
        def write(own, segment):
            near = caches.up_to(shared, length)

            def one(carry):
                steps, own, segment = carry
                logits, cache = t5.decode_step(
                    config, params, caches.joined(own, near), segment.last, segment.step
                )
                return steps + 1, caches.split(cache)[0], advance(segment, logits, sampling, spec)

            def goes_on(carry):
                over = carry[2].over
                now = n_waiting + (over & (pool.entry < slots.n_entries)).sum()
                left = (~over).sum()
                return active & (left > 0) & (now < slots.encode_rows) & (now <= left)

            return jax.lax.while_loop(goes_on, one, (jnp.int32(0), own, segment))

        return write

    branch = jnp.searchsorted(lengths, longest)
    steps, own, segment = jax.lax.switch(
        branch, [writing(length) for length in _lengths(slots, spec)], own, pool.segment
    )
    counts = state.counts.plus(
        slot_steps=steps * slots.n_slots,
        useful_steps=(segment.step - pool.segment.step).sum(),
    )
    pool = pool._replace(segment=segment, cache=caches.joined(own, shared))
    state = state._replace(pools=_with(state.pools, phase, pool), counts=counts)
    return _take_out(spec, slots, phase, active, state)


def _fill(config, spec, slots, n_phases, params, phase, state: State) -> State:
    """Encode the next few waiting questions of a phase and give them free slots."""
    pool = state.pools[phase]
    n, e = slots.n_entries, slots.encode_rows
    is_free = pool.entry == n
    ready = _ready(state, phase, n_phases)
    free = jnp.nonzero(is_free, size=e, fill_value=slots.n_slots)[0]  # [E]
    entry = jnp.nonzero(ready, size=e, fill_value=n)[0]  # the first in the table go first
    both = (free < slots.n_slots) & (entry < n)
    free, entry = jnp.where(both, free, slots.n_slots), jnp.where(both, entry, n)

    work = _rows(state.work, entry)
    progress = _rows(state.progress, entry)
    progress = progress._replace(ended=progress.ended | ~both)
    context = context_tokens(work, progress, spec)
    context = rows_apart(jnp.where(both[:, None], context, PAD))
    length = (context != PAD).sum(axis=1)
    lengths = _lengths(slots, spec)

    def encoding(size: int):
        def encode(context):
            near = context[:, :size]
            encoded = t5.encode(config, params, near)
            cache = t5.start_cache(config, params, encoded, near, spec.segment_buffer)
            return caches.padded(cache, lengths[-1])

        return encode

    branch = jnp.searchsorted(jnp.asarray(lengths), length.max())
    cache = jax.lax.switch(branch, [encoding(size) for size in lengths], context)

    def put_in(old, new):
        return old.at[free].set(new, mode="drop")

    rows = jax.tree.map(put_in, caches.per_row(pool.cache), caches.per_row(cache))
    pool = _Pool(
        entry=put_in(pool.entry, entry),
        context_length=put_in(pool.context_length, length),
        segment=jax.tree.map(put_in, pool.segment, begin(work, progress, spec)),
        cache={**pool.cache, **rows},
    )
    counts = state.counts.plus(
        encoded_rows=e,
        useful_rows=both.sum(),
        encoded_positions=e * jnp.asarray(lengths)[branch],
    )
    return state._replace(
        in_slot=state.in_slot.at[entry].set(True, mode="drop"),
        pools=_with(state.pools, phase, pool),
        counts=counts,
    )


def _take_out(spec, slots, phase, active, state: State) -> State:
    """Join the finished segments of a pool to their chains and free their slots."""
    pool = state.pools[phase]
    n = slots.n_entries
    finished = active & pool.segment.over & (pool.entry < n)
    entry = jnp.where(finished, pool.entry, n)
    progress = _rows(state.progress, entry)
    progress = progress._replace(ended=progress.ended | ~finished)
    judged = judge(progress, pool.segment, _rows(state.work, entry), spec)

    def write(table, rows):
        return table.at[entry].set(rows, mode="drop")

    return state._replace(
        progress=jax.tree.map(write, state.progress, judged),
        in_slot=state.in_slot.at[entry].set(False, mode="drop"),
        pools=_with(
            state.pools, phase, pool._replace(entry=jnp.where(finished, n, pool.entry))
        ),
    )


def _placed(state: State) -> State:
    """The table whole on every device of the mesh, the slots spread over them."""
    pools = tuple(
        pool._replace(
            segment=jax.tree.map(rows_apart, pool.segment),
            cache=caches.spread(pool.cache),
        )
        for pool in state.pools
    )
    return jax.tree.map(whole, state._replace(pools=()))._replace(pools=pools)


def _ready(state: State, phase: int, n_phases: int) -> jax.Array:
    """[N] bool: questions that wait for a slot of a phase."""
    progress = state.progress
    return ~progress.ended & ~state.in_slot & (progress.rounds % n_phases == phase)


def _lengths(slots: Slots, spec: DecodeSpec) -> tuple[int, ...]:
    """The lengths of contexts, the longest possible last."""
    longest = spec.context_room(slots.question_length, slots.hint_length)
    return (*(length for length in slots.context_lengths if length < longest), longest)


def _no_work(rows: int, slots: Slots) -> Work:
    one = jnp.ones(rows, jnp.int32)
    return Work(
        question=jnp.zeros((rows, slots.question_length), jnp.int32),
        limits=Limits(one, jnp.ones((rows, slots.n_bounds), jnp.int32), one),
        key=jnp.zeros((rows, 2), jnp.uint32),
        forced=jnp.zeros((rows, *slots.forced_shape), jnp.int32),
        hint=jnp.zeros((rows, slots.hint_length), jnp.int32),
        stage=jnp.zeros(rows, jnp.int32),
    )


def _rows(tree, entries: jax.Array):
    """Rows of every array; an entry beyond the end gives the last, to be ignored."""
    return jax.tree.map(lambda x: jnp.take(x, entries, axis=0, mode="clip"), tree)


def _with(pools: tuple, phase: int, pool) -> tuple:
    return (*pools[:phase], pool, *pools[phase + 1 :])
