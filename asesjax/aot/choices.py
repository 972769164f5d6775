"""Changes of a configuration to compile instead: until it fits, or to compare.

Each is a few overrides, ``{"train.remat": "full"}``.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from asesjax.config import Config, finish
from asesjax.core.errors import UserError

Change = Mapping[str, str]
_REMAT = ("none", "dots", "full")  # from keeping all to keeping least


def changed(config: Config, change: Change) -> Config:
    """Return the configuration with a few fields changed.

    Raises:
      UserError: a field that is none, or a value it cannot have.
    """
    return finish(config, dict(change))


def train_changes(config: Config, n_devices: int) -> Iterator[Change]:
    """Yield what makes a step smaller, the cheapest change first.

    Microbatches change nothing but rounding and cost little; keeping less costs up to a third more
    operations; another mesh costs traffic. So: more microbatches, less kept, both, another mesh,
    another mesh and both.

    Args:
      config: sections ``train`` and ``mesh`` are read.
      n_devices: of the slice, or slices.

    Example:
      >>> from asesjax.config import base_config
      >>> config = base_config()
      >>> config.train.batch_size = 8
      >>> [dict(c) for c in train_changes(config, 4)][:3]
      [{'train.microbatches': '2'}, {'train.remat': 'dots'}, {'train.remat': 'full'}]
    """
    train = config.train
    less = [{"train.remat": r} for r in _REMAT[_REMAT.index(train.remat) + 1 :]]
    least = less[-1:] or [{}]
    more = list(_microbatches(train, _row_shards(_sizes(config.mesh), n_devices)))
    yield from more
    yield from less
    if less:
        yield from ({**least[0], **m} for m in more)
    for mesh in meshes(n_devices):
        if not _same(config.mesh, mesh):
            split = list(_microbatches(train, _row_shards(_of(mesh), n_devices)))
            yield mesh
            if less:
                yield {**mesh, **least[0]}
            yield from ({**mesh, **least[0], **m} for m in split[-1:])


def decode_changes(config: Config, n_devices: int) -> Iterator[Change]:
    """Yield what makes decoding smaller: fewer slots, then another mesh, then both.

    Args:
      config: sections ``decode`` and ``mesh`` are read.
      n_devices: of the slice, or slices.

    Example:
      >>> from asesjax.config import base_config
      >>> next(decode_changes(base_config(), 4))
      {'decode.batch_size': '50'}
    """
    slots = config.decode.batch_size
    fewer = [{"decode.batch_size": str(slots // n)} for n in (2, 4, 8) if slots // n]
    yield from fewer
    others = [mesh for mesh in meshes(n_devices) if not _same(config.mesh, mesh)]
    for mesh in others:
        yield mesh
    for mesh in others:
        yield from ({**mesh, **few} for few in fewer[-1:])


def meshes(n_devices: int) -> Iterator[Change]:
    """Yield the meshes worth comparing (``--search``), from the least traffic to the least memory.

    Example:
      >>> [mesh["mesh.preset"] for mesh in meshes(16)]
      ['dp', 'fsdp', 'tp', 'fsdp_tp', 'fsdp_tp']
    """

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


def first_that_fits(
    changes: Iterator[Change], fits: Callable[[Change], bool]
) -> Change | None:
    """Return the first change that fits; those that the run would refuse are passed over.

    Args:
      changes: in the order to try.
      fits: compiles with a change and tells.
    """
    for change in changes:
        try:
            if fits(change):
                return change
        except UserError:
            continue
    return None


def as_options(change: Change) -> str:
    """Write a change as it is given on a command line.

    Example:
      >>> as_options({"train.remat": "full"})
      '--config.train.remat=full'
    """
    return " ".join(f"--config.{name}={value}" for name, value in change.items())


def _microbatches(train: Any, row_shards: int) -> Iterator[Change]:
    n = 2 * train.microbatches
    while train.batch_size % (n * row_shards) == 0:
        yield {"train.microbatches": str(n)}
        n *= 2


def _row_shards(sizes: Mapping[str, int], n_devices: int) -> int:
    """Devices that share the rows of a batch."""
    if sizes["tensor"] == -1:
        return sizes["data"] * sizes["fsdp"]
    return n_devices // sizes["tensor"]


def _sizes(mesh: Any) -> dict[str, int]:
    return {name: getattr(mesh, name) for name in ("data", "fsdp", "tensor")}


def _of(mesh: Change) -> dict[str, int]:
    return {name: int(mesh[f"mesh.{name}"]) for name in ("data", "fsdp", "tensor")}


def _same(mine: Any, mesh: Change) -> bool:
    return mine.preset == mesh["mesh.preset"] and _sizes(mine) == _of(mesh)
