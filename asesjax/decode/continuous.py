"""The decode engine (ours): slots that do not wait for each other. Same chains as ``iterative``.

A table of N questions lies on the device, and pools of slots, one for each role, hold those that
are being written. The pool with the most to do writes. When some of its slots have finished their
segments, these are joined to their chains, and the questions that wait for that role are encoded,
``encode_rows`` at a time, and take the free slots. Contexts are padded to the shortest of a few
lengths that holds them, and caches read only so far. All of it is one compiled program: the host
takes ended chains out of the table and puts new questions in.

Shapes: N table entries, B slots of a pool, E rows encoded at once, S source length; others as in
``spec``.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from asesjax.core.types import Params
from asesjax.decode.segment import (
    RowState,
    SegmentState,
    advance,
    begin,
    context_tokens,
    judge,
    own_cache,
    start_rows,
    tell,
    waiting_for,
    with_own,
)
from asesjax.decode.spec import NO_COUNTS, PAD, Counts, DecodeInput, DecodeSpec
from asesjax.models import t5
from asesjax.models.layers import replicate, shard_rows
from asesjax.models.t5_config import T5Config

_CROSS = ("cross_key", "cross_value")


@dataclasses.dataclass(frozen=True)
class Slots:
    """Sizes of the program; a change compiles it again."""

    n_slots: int  # B, questions a pool writes at once
    n_entries: int  # N, several times B, so that slots need not wait for the host
    encode_rows: int  # E, contexts encoded at once
    row: DecodeInput  # shapes and dtypes of a question, ``jax.ShapeDtypeStruct`` leaves
    # Rising, lengths that contexts are padded to and caches are read to; the longest, S, is added.
    context_lengths: tuple[int, ...] = ()

    def lengths(self, spec: DecodeSpec) -> tuple[int, ...]:
        """The lengths of contexts, the longest possible last."""
        longest = spec.context_room(*self.row.question.shape, *self.row.extra_input.shape)
        return (*(length for length in self.context_lengths if length < longest), longest)


class _Pool(NamedTuple):
    entry: jax.Array  # [B] whose segment a slot writes; N where it is free
    context_length: jax.Array  # [B]
    segment: SegmentState  # [B, ...]
    cache: t5.Cache  # [B, ...]


class State(NamedTuple):
    """All that the program carries from call to call."""

    inputs: DecodeInput  # the table's questions, [N, ...]
    rows: RowState  # and how far they are
    in_slot: jax.Array  # [N] bool, being written
    pools: dict[str, _Pool]  # by role
    counts: Counts  # of the last call of ``run``


@functools.partial(jax.jit, static_argnames=("config", "spec", "slots"))
def start(config: T5Config, params: dict[str, Params], spec: DecodeSpec, slots: Slots) -> State:
    """Return an empty table and free slots."""
    n, b = slots.n_entries, slots.n_slots
    inputs = jax.tree.map(lambda x: jnp.zeros((n, *x.shape), x.dtype), slots.row)
    nothing = jax.tree.map(lambda x: x[:b], inputs)
    source = jnp.zeros((b, slots.lengths(spec)[-1]), jnp.int32)

    def pool(role):
        encoded = jnp.zeros((*source.shape, config.d_model), config.activation_dtype)
        return _Pool(
            entry=jnp.full(b, n),
            context_length=jnp.zeros(b, jnp.int32),
            segment=begin(nothing, start_rows(nothing, spec), spec),
            cache=t5.start_cache(config, params[role], encoded, source, spec.segment_buffer),
        )

    pools = {role: pool(role) for role in spec.roles}
    return _placed(State(inputs, start_rows(inputs, spec), jnp.zeros(n, bool), pools, NO_COUNTS))


@functools.partial(jax.jit, static_argnames=("spec",), donate_argnums=0)
def put(state: State, entries: jax.Array, inputs: DecodeInput, spec: DecodeSpec) -> State:
    """Write the rows of ``inputs`` [N, ...] into the table of ``state``, which is donated.
    ``entries`` int32 [N] says where each goes, N or more for rows to leave out; what is there must
    have ended.
    """

    def write(table, rows):
        return jax.tree.map(lambda x, new: x.at[entries].set(new, mode="drop"), table, rows)

    fresh = write(state.rows, start_rows(inputs, spec))
    return _placed(state._replace(inputs=write(state.inputs, inputs), rows=fresh))


@functools.partial(jax.jit, static_argnames=("config", "spec", "slots"), donate_argnames=("state",))
def run(
    config: T5Config,
    params: dict[str, Params],
    state: State,
    drain: jax.Array,
    spec: DecodeSpec,
    slots: Slots,
) -> State:
    """Write until slots lack questions, or with ``drain`` until every question has ended. At least
    one ends, unless none was left. ``state`` is donated.
    """
    first = spec.roles[0]

    def busy(state: State):
        live = ~state.rows.ended
        # A slot has nothing to take while the host could put a question where one has ended.
        free = (state.pools[first].entry == slots.n_entries).sum()
        starved = (free > _ready(state, first, spec).sum()) & (~live).any()
        return live.any() & (drain | ~starved)

    def one(state: State):
        todo = jnp.stack([
            jnp.minimum((pool.entry < slots.n_entries).sum() + _ready(state, role, spec).sum(),
                        slots.n_slots)
            for role in spec.roles for pool in (state.pools[role],)
        ])  # fmt: skip
        chosen = jnp.argmax(todo)
        # One after the other, idle out of turn: a conditional would copy the other pools' caches.
        for number, role in enumerate(spec.roles):
            state = _write(config, params[role], spec, slots, role, chosen == number, state)
        return state

    return _placed(jax.lax.while_loop(busy, one, state._replace(counts=NO_COUNTS)))


def _write(config, params, spec, slots, role, active, state: State) -> State:
    """Fill the free slots of a pool, write until enough of them have finished, take those out."""
    lengths = slots.lengths(spec)

    def waiting(state: State):
        free = (state.pools[role].entry == slots.n_entries).sum()
        return jnp.minimum(free, _ready(state, role, spec).sum()), slots.n_slots - free

    def can_fill(state: State):
        # A full group to encode, or near the end more that wait than write.
        n_waiting, n_writing = waiting(state)
        return active & ((n_waiting >= slots.encode_rows) | (n_waiting > n_writing))

    fill = functools.partial(_fill, config, params, spec, slots, role)
    state = jax.lax.while_loop(can_fill, fill, state)

    pool = state.pools[role]
    n_waiting, _ = waiting(state)
    longest = jnp.where(active & ~pool.segment.over, pool.context_length, 0).max()

    def writing(length: int):
        def write(own, segment):
            near = _of_length(pool.cache, length)

            def one(carry):
                steps, own, segment = carry
                tell(role, segment, spec)
                logits, cache = t5.decode_step(
                    config, params, with_own(near, own), segment.last, segment.step
                )
                return steps + 1, own_cache(cache), advance(segment, logits, spec)

            def goes_on(carry):
                over = carry[2].over
                now = n_waiting + (over & (pool.entry < slots.n_entries)).sum()
                left = (~over).sum()
                return active & (left > 0) & (now < slots.encode_rows) & (now <= left)

            return jax.lax.while_loop(goes_on, one, (jnp.int32(0), own, segment))

        return write

    branch = jnp.searchsorted(jnp.asarray(lengths), longest)
    branches = [writing(length) for length in lengths]
    steps, own, segment = jax.lax.switch(branch, branches, own_cache(pool.cache), pool.segment)
    counts = state.counts.plus(
        slot_steps=steps * slots.n_slots, useful_steps=(segment.step - pool.segment.step).sum()
    )
    pool = pool._replace(segment=segment, cache=with_own(pool.cache, own))
    state = state._replace(pools={**state.pools, role: pool}, counts=counts)
    return _take_out(spec, slots, role, active, state)


def _fill(config, params, spec, slots, role, state: State) -> State:
    """Encode the next few questions that wait for a role and give them free slots."""
    pool = state.pools[role]
    n, e = slots.n_entries, slots.encode_rows
    free = jnp.nonzero(pool.entry == n, size=e, fill_value=slots.n_slots)[0]  # [E]
    # The first in the table go first.
    entry = jnp.nonzero(_ready(state, role, spec), size=e, fill_value=n)[0]
    both = (free < slots.n_slots) & (entry < n)
    free, entry = jnp.where(both, free, slots.n_slots), jnp.where(both, entry, n)

    inputs, rows = _take(state.inputs, entry), _take(state.rows, entry)
    context = context_tokens(inputs, rows, spec)
    context = shard_rows(jnp.where(both[:, None], context, PAD))
    length = (context != PAD).sum(axis=1)
    lengths = slots.lengths(spec)

    def encoding(size: int):
        def encode(context):
            near = context[:, :size]
            encoded = t5.encode(config, params, near)
            cache = t5.start_cache(config, params, encoded, near, spec.segment_buffer)
            return _of_length(cache, lengths[-1])

        return encode

    branch = jnp.searchsorted(jnp.asarray(lengths), length.max())
    cache = jax.lax.switch(branch, [encoding(size) for size in lengths], context)

    def put_in(old, new):
        return jax.tree.map(lambda x, own: x.at[free].set(own, mode="drop"), old, new)

    per_row = {name: put_in(pool.cache[name], cache[name]) for name in ("layers", "cross_mask")}
    pool = _Pool(
        entry=put_in(pool.entry, entry),
        context_length=put_in(pool.context_length, length),
        segment=put_in(pool.segment, begin(inputs, rows, spec)),
        cache={**pool.cache, **per_row},
    )
    counts = state.counts.plus(
        encoded_rows=e, useful_rows=both.sum(), encoded_positions=e * jnp.asarray(lengths)[branch]
    )
    return state._replace(
        in_slot=state.in_slot.at[entry].set(True, mode="drop"),
        pools={**state.pools, role: pool},
        counts=counts,
    )


def _take_out(spec, slots, role, active, state: State) -> State:
    """Join the finished segments of a pool to their chains and free their slots."""
    pool = state.pools[role]
    n = slots.n_entries
    finished = active & pool.segment.over & (pool.entry < n)
    entry = jnp.where(finished, pool.entry, n)
    judged = judge(_take(state.rows, entry), pool.segment, _take(state.inputs, entry), spec)
    pool = pool._replace(entry=jnp.where(finished, n, pool.entry))

    def write(table, rows):
        return table.at[entry].set(rows, mode="drop")

    return state._replace(
        rows=jax.tree.map(write, state.rows, judged),
        in_slot=state.in_slot.at[entry].set(False, mode="drop"),
        pools={**state.pools, role: pool},
    )


def _placed(state: State) -> State:
    """The table whole on every device of the mesh, the slots spread over them, heads too."""
    pools = {
        role: pool._replace(
            segment=jax.tree.map(shard_rows, pool.segment),
            cache={
                "layers": jax.tree.map(lambda x: shard_rows(x, "tensor"), pool.cache["layers"]),
                "cross_mask": shard_rows(pool.cache["cross_mask"]),
                "bias": replicate(pool.cache["bias"]),
            },
        )
        for role, pool in state.pools.items()
    }
    return jax.tree.map(replicate, state._replace(pools={}))._replace(pools=pools)


def _ready(state: State, role: str, spec: DecodeSpec) -> jax.Array:
    """[N] bool: questions that wait for a slot of a role."""
    return waiting_for(state.rows, role, spec) & ~state.in_slot


def _of_length(cache: t5.Cache, length: int) -> t5.Cache:
    """The contexts' keys and values [B, H, S, K], and the mask [B, S], cut or filled up with zeros,
    unseen, to a length.
    """

    def one(x, axis):
        ends = [(0, length - n if i == axis else 0, 0) for i, n in enumerate(x.shape)]
        return jax.lax.pad(x, jnp.zeros((), x.dtype), ends)

    layers = tuple(layer | {key: one(layer[key], 2) for key in _CROSS} for layer in cache["layers"])
    return {**cache, "layers": layers, "cross_mask": one(cache["cross_mask"], 1)}


def _take(tree, entries: jax.Array):
    """Rows of every array; an entry beyond the end gives the last, to be ignored."""
    return jax.tree.map(lambda x: jnp.take(x, entries, axis=0, mode="clip"), tree)
