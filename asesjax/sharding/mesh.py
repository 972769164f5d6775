"""The device mesh: always the three axes data, fsdp and tensor, some of them of size 1."""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from asesjax.core.errors import UserError
from asesjax.core.options import NOTHING, option, section

AXES = ("data", "fsdp", "tensor")


@section("mesh")
class MeshOptions:
    """How devices are arranged and what is split over them; results do not depend on it."""

    preset: str = option("dp", "what is split: the batch alone, or parameters as well",
                         choices=("dp", "fsdp", "tp", "fsdp_tp"), changes=NOTHING)  # fmt: skip
    data: int = option(-1, "size of the data axis; one of the three may be -1: the other devices",
                       changes=NOTHING)  # fmt: skip
    fsdp: int = option(1, "size of the fsdp axis", changes=NOTHING)
    tensor: int = option(1, "size of the tensor axis", changes=NOTHING)
    slices: int = option(1, "TPU slices that the data axis goes over", least=1, changes=NOTHING)
    passes: str = option("auto", "of several processes, who scores and decodes: process: each a "
                         "part of the questions, on its own devices; all: all devices together, "
                         "over which the parameters are split; auto: all where half of a device's "
                         "memory could not hold its parameters otherwise",
                         choices=("auto", "process", "all"), changes=NOTHING)  # fmt: skip


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    devices: Sequence[jax.Device] | None = None,
    slices: int = 1,
) -> Mesh:
    """Arrange devices (None for all of every process) as a Mesh of data x fsdp x tensor.

    Data groups process different rows and hold all parameters, fsdp devices also split the
    parameters, tensor devices split the matrices of one row's computation. One size may be -1, all
    devices that are left. ``slices`` are groups of devices with slow connections between them; each
    holds a part of the data axis, so that only gradients cross. CPUs are divided evenly into
    slices. Raises UserError for sizes or slices that do not fit the devices.
    """
    count = len(jax.devices() if devices is None else devices)
    sizes = [data, fsdp, tensor]
    given = ", ".join(f"mesh.{name}={size}" for name, size in zip(AXES, sizes, strict=True))
    if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
        raise UserError(f"{given}: sizes must be 1 or more, and at most one of them -1 (the rest)")
    if -1 in sizes:
        others = -math.prod(sizes)
        if count % others:
            raise UserError(
                f"{given}: the given sizes multiply to {others}, which does not divide the "
                f"{count} devices"
            )
        sizes[sizes.index(-1)] = count // others
    if math.prod(sizes) != count:
        raise UserError(
            f"{given}: the sizes multiply to {math.prod(sizes)} but there are {count} devices; "
            "set one of them to -1"
        )
    if slices < 1 or sizes[0] % slices:
        raise UserError(
            f"mesh.slices={slices} must divide mesh.data, which is {sizes[0]} ({given}): the data "
            "axis is the one that goes over the slices"
        )
    types = (AxisType.Auto,) * 3
    if slices == 1 and devices is None:
        # Lets jax place the axes along the machine's real connections.
        return jax.make_mesh(tuple(sizes), AXES, axis_types=types)
    return Mesh(_over_slices(sizes, slices, devices), AXES, axis_types=types)


def _over_slices(sizes: list[int], slices: int, devices: Sequence[jax.Device] | None) -> np.ndarray:
    devices = jax.devices() if devices is None else list(devices)
    known = {getattr(device, "slice_index", None) for device in devices}
    if slices == 1 or None in known:
        return np.asarray(devices).reshape(sizes)
    if len(known) != slices:
        raise UserError(f"mesh.slices={slices}, but the devices are of {len(known)} slices")
    within = [sizes[0] // slices, *sizes[1:]]
    return mesh_utils.create_hybrid_device_mesh(within, [slices, 1, 1], devices)
