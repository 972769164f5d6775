"""The programs of a run, lowered for devices that are only described: no array is ever made. They
are the functions of ``training.loop`` and ``decode.predict``, with shapes in the place of arrays.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from asesjax.aot.topology import Slice, one_host
from asesjax.config import Config
from asesjax.core.errors import UserError
from asesjax.data.vocab import load_vocabulary
from asesjax.decode import continuous, iterative
from asesjax.decode.options import CHOSEN
from asesjax.decode.predict import make_slots
from asesjax.decode.spec import make_input
from asesjax.evals.runner import decode_spec, make_decoder
from asesjax.jobs.memory import batch_shapes, size_on_device
from asesjax.methods.method import make_method
from asesjax.models.layers import quantize
from asesjax.models.presets import configured
from asesjax.models.t5_config import token_flops
from asesjax.run import Run, all_devices, decoding_shapes, own_mesh, placed_shapes
from asesjax.sharding.mesh import AXES, make_mesh
from asesjax.sharding.place import batch_sharding, divisible, on_mesh, replicated
from asesjax.training.optim import make_optimizer
from asesjax.training.state import state_target
from asesjax.training.step import check_batch_size, make_train_step

_STEPS = 1000  # of the schedule: a constant in the program


@dataclasses.dataclass(frozen=True)
class Program:
    """One program of a run, ready to be compiled; bytes are those on one device."""

    name: str  # "train" or "decode"
    what: str  # its shapes, in words
    mesh: Mesh
    lower: Callable[[], jax.stages.Lowered]
    flops: float  # of the model on one device in an optimizer step, or for a token of every slot
    tokens: int  # of one step, all devices together: padded positions, or slots
    weights: int  # of the parameters
    state: int  # of what lives from step to step, parameters included
    held: int = 0  # of what else the run keeps on a device meanwhile
    recomputed: float = 1.0  # operations that are really done, for each that the model takes


def train_program(config: Config, on: Slice, vocab_rows: int) -> Program:
    """Describe the step of the largest batch; UserError for what these devices cannot train."""
    train, model = config.train, configured(config.model, vocab_rows)
    mesh = slice_mesh(config, on)
    rows_on, whole = batch_sharding(mesh), replicated(mesh)
    optimizer = make_optimizer(train, _STEPS)
    check_batch_size(train, rows_on)
    params = placed_shapes(Run(config, Path()), model, mesh)
    places = jax.tree.map(lambda leaf: leaf.sharding, params)
    target = state_target(optimizer, params, places, mesh)
    b, packed = train.batch_size, train.packed_length
    if not packed:
        _check_given(config, "train", ("source_buckets", "target_buckets"))
    source, decoder = packed or max(train.source_buckets), packed or max(train.target_buckets)

    batch = batch_shapes(b, source, decoder, bool(packed), rows_on)
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=whole)

    def lower() -> jax.stages.Lowered:
        step = make_train_step(model, train, optimizer, target, rows_on)
        return step.lower(target, batch, key)

    of_source, of_target = token_flops(model, source, decoder)
    weights = size_on_device(params)
    parts = f" in {train.parts} microbatches" if train.parts > 1 else ""
    flops = 3 * b * (source * of_source + decoder * of_target) / mesh.size
    return Program(
        "train", f"batch {b} x ({source} + {decoder}){parts}", mesh, lower, flops,
        tokens=b * (source + decoder), weights=weights, state=size_on_device(target),
        # The parameters that every role starts from stay the run's own (train_method).
        held=weights if config.model.init_from else 0,
        recomputed=4 / 3 if train.remat == "full" else 1.0,
    )  # fmt: skip


def decode_program(config: Config, on: Slice, vocab_rows: int) -> Program:
    """Describe the loop that writes chains, for a full batch of the longest questions and the
    method with most roles. In a slice of several machines each decodes its part of the questions on
    its own devices, or all decode together (``run.own_mesh``). Raises UserError for what cannot be
    decoded on these devices.
    """
    _check_given(config, "decode", CHOSEN)
    model = configured(config.model, vocab_rows)
    run, mesh, own = Run(config, Path()), slice_mesh(config, on), one_host(on)
    alone = own_mesh(run, own.devices)
    split = alone.shape["fsdp"] * alone.shape["tensor"]
    machines = len(on.devices) // len(own.devices)
    if machines > 1 and all_devices(config, split, on.chip.hbm or 0):
        machines = 1  # as one
    elif machines > 1:
        mesh = alone
    vocab = load_vocabulary("byte")
    methods = [make_method(name, config) for name in config.methods]
    plans = [(method, *decode_spec(method, vocab)) for method in reversed(methods)]
    method, spec, limits = max(plans, key=lambda plan: len(plan[1].roles))
    # The ids are other ones than the run's, the shapes the same.
    spec = dataclasses.replace(spec, vocab_limit=vocab_rows)
    params, held = decoding_shapes(run, model, mesh), 0
    if config.decode.int8:
        held = len(method.roles) * size_on_device(params)  # who asks keeps what is rounded
        params = _outputs(quantize, mesh, params)
    weights = len(spec.roles) * size_on_device(params)
    held += len(method.roles) * size_on_device(params) - weights
    decoder = make_decoder(config, parts=machines)
    rows = divisible(decoder.batch_size, mesh)
    no_ids = functools.partial(np.zeros, dtype=np.int32)
    n_prefix = len(vocab.encode(config.decode.prefix))
    n_extra = config.decode.max_chain_tokens * any(t.prompt.extra_input for t in spec.turns)
    inputs = make_input(
        no_ids((rows, max(decoder.buckets))), limits, spec,
        forced=no_ids((rows, 1, n_prefix)) if n_prefix else None,
        extra_input=no_ids((rows, n_extra)),
    )  # fmt: skip
    by_role = {role: params for role in spec.roles}
    longest = spec.context_room(inputs.question.shape[1], inputs.extra_input.shape[1])

    def lower() -> jax.stages.Lowered:
        if spec.beams > 1:
            described = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_sharding(mesh)),
                inputs,
            )
            return on_mesh(mesh, iterative.generate.lower)(model, by_role, described, spec)
        slots = make_slots(inputs, decoder, mesh)
        state = _outputs(continuous.start, mesh, model, by_role, spec=spec, slots=slots)
        drain = jax.ShapeDtypeStruct((), jnp.bool_, sharding=replicated(mesh))
        lower = on_mesh(mesh, continuous.run.lower)
        return lower(model, by_role, state, drain, spec=spec, slots=slots)

    beams = f"{spec.beams} beams, " if spec.beams > 1 else ""
    place = f", on the {mesh.size} chips of each of {machines} machines" if machines > 1 else ""
    what = f"contexts up to {longest}, segments up to {spec.segment_buffer}{place}"
    flops = rows * token_flops(model, longest, spec.segment_buffer)[1] / mesh.size
    return Program(
        "decode", f"{method.name}, {beams}{rows} slots, {what}", mesh, lower, flops,
        tokens=rows * machines, weights=weights, state=weights, held=held,
    )  # fmt: skip


def _check_given(config: Config, part: str, names: Sequence[str]) -> None:
    """Refuse lengths that a run would choose from its data, which is not read here."""
    absent = [name for name in names if not getattr(getattr(config, part), name)]
    if absent:
        raise UserError(
            f"{', '.join(f'{part}.{name}' for name in absent)}: not set, and a run chooses from "
            f"its data; here give the longest, such as --config.{part}.{absent[0]}=512 (a run "
            "with --check prints what it chooses)"
        )


def slice_mesh(config: Config, on: Slice) -> Mesh:
    """Arrange all devices as the run would (``run.run_mesh``). Raises UserError for sizes that do
    not fit the devices, or that the slice's connections do not offer.
    """
    sizes = config.mesh
    devices = list(on.devices)
    mesh = make_mesh(sizes.data, sizes.fsdp, sizes.tensor, devices, sizes.slices)
    if sizes.slices > 1:
        return mesh
    shape = tuple(mesh.shape.values())
    try:  # in jax's order along the connections, which the run gets where it takes all devices
        return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
    except NotImplementedError as error:
        raise UserError(
            f"{on.name} cannot be arranged as data {shape[0]} x fsdp {shape[1]} x tensor "
            f"{shape[2]}: each axis must be a product of sides of the slice; change mesh.data, "
            "mesh.fsdp or mesh.tensor"
        ) from error


def _outputs(jitted: Any, mesh: Mesh, *args: Any, **static: Any) -> Any:
    """Describe what a jitted function returns and where the compiler puts it."""
    traced = on_mesh(mesh, jitted.trace)(*args, **static)
    places = traced.lower().compile().output_shardings
    # Weak types too: a program for other ones would be another.
    return jax.tree.map(
        lambda out, place: jax.ShapeDtypeStruct(
            out.shape, out.dtype, sharding=place, weak_type=out.weak_type
        ),
        traced.out_info, places,
    )  # fmt: skip
