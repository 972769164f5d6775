"""Overrides of a configuration to try until it fits a slice, or to compare."""

from collections.abc import Iterator, Mapping
from typing import Any

from asesjax.config import Config

Change = dict[str, str]  # overrides, such as {"train.remat": "full"}
_AXES = ("data", "fsdp", "tensor")
_REMAT = ("none", "dots", "full")  # from most memory to least


def train_changes(config: Config, n_devices: int) -> Iterator[Change]:
    """Yield changes that make a training step smaller, the cheapest first.

    Microbatches change nothing but rounding and cost little; rematerialisation costs up to a third
    more operations; another mesh costs traffic. So: microbatches, rematerialisation, both, another
    mesh, another mesh with both.
    """
    train = config.train
    less = [{"train.remat": r} for r in _REMAT[_REMAT.index(train.remat) + 1 :]]
    least = less[-1] if less else {}
    sizes = {name: getattr(config.mesh, name) for name in _AXES}
    more = list(_microbatches(train, sizes, n_devices))
    yield from more
    yield from less
    if less:
        yield from (least | m for m in more)
    for mesh in _other_meshes(config, n_devices):
        yield mesh
        if less:
            yield mesh | least
        sizes = {name: int(mesh[f"mesh.{name}"]) for name in _AXES}
        split = list(_microbatches(train, sizes, n_devices))
        yield from (mesh | least | m for m in split[-1:])


def decode_changes(config: Config, n_devices: int) -> Iterator[Change]:
    """Yield changes that make decoding smaller: fewer slots, then another mesh, then both."""
    slots = config.decode.batch_size
    fewer = [{"decode.batch_size": str(slots // n)} for n in (2, 4, 8) if slots // n]
    others = _other_meshes(config, n_devices)
    yield from fewer
    yield from others
    yield from (mesh | few for mesh in others for few in fewer[-1:])


def meshes(n_devices: int) -> Iterator[Change]:
    """Yield the meshes that ``--search`` compares, from the least traffic to the least memory."""

    def mesh(preset: str, data: int = 1, fsdp: int = 1, tensor: int = 1) -> Change:
        sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
        return {"mesh.preset": preset} | {f"mesh.{k}": str(v) for k, v in sizes.items()}

    yield mesh("dp", data=-1)
    if n_devices > 16:
        yield mesh("fsdp", data=-1, fsdp=16)
    yield mesh("fsdp", fsdp=-1)
    yield mesh("tp", data=-1, tensor=4)
    for tensor in (2, 4):
        yield mesh("fsdp_tp", fsdp=-1, tensor=tensor)


def as_options(change: Change) -> str:
    """Write a change as options of the command line, ``--config.train.remat=full``."""
    return " ".join(f"--config.{name}={value}" for name, value in change.items())


def _microbatches(train: Any, sizes: Mapping[str, int], n_devices: int) -> Iterator[Change]:
    if sizes["tensor"] == -1:
        row_shards = sizes["data"] * sizes["fsdp"]
    else:
        row_shards = n_devices // sizes["tensor"]
    n = 2 * train.microbatches
    while train.batch_size % (n * row_shards) == 0:
        yield {"train.microbatches": str(n)}
        n *= 2


def _other_meshes(config: Config, n_devices: int) -> list[Change]:
    """Return the meshes of ``meshes`` that the configuration does not have already."""
    own = {f"mesh.{name}": str(getattr(config.mesh, name)) for name in ("preset", *_AXES)}
    return [mesh for mesh in meshes(n_devices) if mesh != own]
