"""Overrides of a configuration to try until it fits a slice, or to compare."""

from collections.abc import Iterator

from asesjax.config import Config

Change = dict[str, str]  # overrides, such as {"train.remat": "full"}
_AXES = ("data", "fsdp", "tensor")
_MESHES = (("dp", -1, 1, 1), ("fsdp", -1, 16, 1), ("fsdp", 1, -1, 1), ("tp", -1, 1, 4),
           ("fsdp_tp", 1, -1, 2), ("fsdp_tp", 1, -1, 4))  # fmt: skip
_REMAT = ("none", "dots", "full")  # from most memory to least


def train_changes(config: Config, n_devices: int) -> Iterator[Change]:
    """Yield changes that make a training step smaller, the cheapest first.

    Microbatches change nothing but rounding and cost little, rematerialisation costs up to a third
    more operations, a mesh costs traffic. So: the first, the second, both, a mesh, it with both.
    """
    less = [{"train.remat": r} for r in _REMAT[_REMAT.index(config.train.remat) + 1 :]]
    least = less[-1] if less else {}
    more = list(_microbatches(config, n_devices, {}))
    yield from more
    yield from less
    if less:
        yield from (least | m for m in more)
    for mesh in _other_meshes(config, n_devices):
        yield mesh
        if less:
            yield mesh | least
        yield from (mesh | least | m for m in [*_microbatches(config, n_devices, mesh)][-1:])


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
    for preset, *sizes in _MESHES:
        if n_devices > 16 or 16 not in sizes:
            mesh = {f"mesh.{axis}": str(n) for axis, n in zip(_AXES, sizes, strict=True)}
            yield {"mesh.preset": preset} | mesh


def _microbatches(config: Config, n_devices: int, mesh: Change) -> Iterator[Change]:
    sizes = (mesh.get(f"mesh.{name}", getattr(config.mesh, name)) for name in _AXES)
    data, fsdp, tensor = map(int, sizes)
    row_shards = data * fsdp if tensor == -1 else n_devices // tensor
    n = 2 * config.train.parts
    while config.train.batch_size % (n * row_shards) == 0:
        yield {"train.microbatches": str(n)}
        n *= 2


def _other_meshes(config: Config, n_devices: int) -> list[Change]:
    """Return the meshes of ``meshes`` that the configuration does not have already."""
    own = {f"mesh.{name}": str(getattr(config.mesh, name)) for name in ("preset", *_AXES)}
    return [mesh for mesh in meshes(n_devices) if mesh != own]
