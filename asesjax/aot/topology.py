"""Descriptions of the devices of a TPU slice, for compiling without one. They come from libtpu by
``jax.experimental.topologies``; nothing runs on them, but programs compile as on the slice.
"""

import dataclasses
import importlib.util
import os
import re
from collections.abc import Sequence
from typing import Any

from asesjax.core.errors import UserError

# libtpu reads these when it is loaded: no TPU and no metadata server.
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1",
    "TPU_LOG_DIR": "disabled", "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0",
}  # fmt: skip
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Memory and peak rates of a chip; its FLOP/s are in ``training.meter``."""

    # bytes that the compiler gives to a program (the chip has a little more); None if unknown
    hbm: int | None
    hbm_rate: float = 0.0  # bytes/s of its memory
    # bytes/s that it can send over all its links to other chips of its slice
    link_rate: float = 0.0
    examples: tuple[str, ...] = ()  # names of slices for messages
    single_host: tuple[str, ...] = ()  # slices that are one machine, beside those of 2 x 2 chips
    config_name: str = ""  # of ``get_topology_desc``, so that a device is a whole chip


# Rates from Google's pages on each generation (one direction of the links); memory as the compiler
# of libtpu 0.0.42 names it when a program does not fit.
CHIPS = {
    "v4": Chip(int(30.75 * GIB), 1.2e12, 300e9, ("2x2x1", "4x4x4"), config_name="megacore"),
    "v5e": Chip(int(15.75 * GIB), 819e9, 200e9, ("2x4", "4x4", "16x16"), ("1x1", "2x4")),
    "v5p": Chip(int(95.74 * GIB), 2765e9, 600e9, ("2x2x1", "4x4x4")),
    "v6e": Chip(int(31.25 * GIB), 1640e9, 448e9, ("2x4", "4x4", "16x16"), ("1x1", "2x4")),
}
CPU = Chip(None)  # virtual devices: everything but memory and time is known without libtpu


@dataclasses.dataclass(frozen=True)
class Slice:
    """Devices to compile for, such as ``"v5e:4x4"``; those of several slices follow each other."""

    name: str
    chip: Chip
    devices: tuple[Any, ...]


def prepare(topology: str) -> None:
    """Set what libtpu and jax read when they are loaded; UserError for a name of no slice."""
    generation, sizes = _parsed(topology)
    if generation == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
        flags = os.environ.get("XLA_FLAGS", "")
        if "host_platform_device_count" not in flags:
            flags += f" --xla_force_host_platform_device_count={sizes[0]}"
            os.environ["XLA_FLAGS"] = flags.strip()
    else:
        os.environ.update(_ENVIRONMENT)


def get_slice(topology: str, slices: int = 1) -> Slice:
    """Describe the devices of one slice, or of several equal ones, by its name: a generation of
    ``CHIPS`` and chips, ``v5e:2x4`` or ``v4:2x2x4``, or ``cpu:N``. Raises UserError for an unknown
    generation, a shape that it does not come in, no libtpu, or fewer CPU devices than N.
    """
    import jax
    from jax.experimental import topologies

    generation, sizes = _parsed(topology)
    if generation == "cpu":
        devices = jax.devices("cpu")
        if len(devices) < sizes[0]:
            raise UserError(
                f"--topology {topology}: this process has {len(devices)} CPU devices; set "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={sizes[0]}"
            )
        return Slice(topology, CPU, tuple(devices[: sizes[0]]))
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "compiling for a TPU needs the libtpu package: pip install 'asesjax[tpu]' (0.7 GB, "
            "Linux); --topology cpu:N needs nothing, and gives no numbers for memory"
        )
    chip = CHIPS[generation]
    options: dict[str, Any] = {"chip_config_name": chip.config_name} if chip.config_name else {}
    if topology.partition(":")[2] in chip.single_host:
        options["chips_per_host_bounds"] = (*sizes, 1)
    if slices > 1:
        options["num_slices"] = slices
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--topology {topology}: the TPU compiler knows no such slice: "
            f"{str(error).splitlines()[0]}. Expected a shape that {generation} comes in, such as "
            f"{' or '.join(f'{generation}:{shape}' for shape in chip.examples)}"
        ) from error
    return Slice(topology, chip, tuple(found.devices))


def one_host(on: Slice) -> Slice:
    """Return one machine of a slice: 2 x 2 chips, as the compiler takes no part of a slice."""
    if len({device.process_index for device in on.devices}) == 1:
        return on
    generation, sizes = _parsed(on.name)
    return get_slice(f"{generation}:{'2x2x1' if len(sizes) == 3 else '2x2'}")


def _parsed(topology: str) -> tuple[str, Sequence[int]]:
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", topology)
    sizes = [int(size) for size in found[2].split("x")] if found else []
    known = found and (found[1] in CHIPS or (found[1] == "cpu" and len(sizes) == 1))
    if not found or not known or 0 in sizes:
        raise UserError(
            f"--topology {topology!r} is no slice; expected GENERATION:SHAPE in chips, such as "
            f"{', '.join(f'{name}:{chip.examples[0]}' for name, chip in CHIPS.items())}, or cpu:N "
            "for N virtual CPU devices"
        )
    return found[1], sizes
