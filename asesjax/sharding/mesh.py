"""The device mesh: always the three axes data, fsdp and tensor, some of them of size 1."""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from asesjax.core.errors import UserError

AXES = ("data", "fsdp", "tensor")


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Arrange devices as data x fsdp x tensor.

    Args:
      data: copies that see different rows of a batch and hold the same parameters.
      fsdp: devices that see different rows and share out the parameters.
      tensor: devices that share out the matrices of one row's computation.
      devices: all of them are used; None for every device of every process.

    One of the three sizes may be -1: the devices that the others leave.

    Returns:
      A Mesh with axes ``data, fsdp, tensor``, sharded automatically by the compiler.

    Raises:
      UserError: sizes that do not multiply to the number of devices.

    Example:
      >>> dict(make_mesh(devices=jax.devices()[:1]).shape)
      {'data': 1, 'fsdp': 1, 'tensor': 1}
    """
    count = len(jax.devices() if devices is None else devices)
    sizes = [data, fsdp, tensor]
    told = ", ".join(f"mesh.{name}={size}" for name, size in zip(AXES, sizes, strict=True))
    if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
        raise UserError(f"{told}: sizes must be 1 or more, and at most one of them -1 (the rest)")
    if -1 in sizes:
        others = -math.prod(sizes)
        if count % others:
            raise UserError(
                f"{told}: the given sizes multiply to {others}, which does not divide the "
                f"{count} devices"
            )
        sizes[sizes.index(-1)] = count // others
    if math.prod(sizes) != count:
        raise UserError(
            f"{told}: the sizes multiply to {math.prod(sizes)} but there are {count} devices; "
            "set one of them to -1"
        )
    if devices is None:
        # Lets jax place the axes along the machine's real connections.
        return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * 3)
    return Mesh(np.asarray(devices).reshape(sizes), AXES, axis_types=(AxisType.Auto,) * 3)
