"""Slices of Cloud TPUs: the one table of their names, images, chips and machines.

  python3 launch/tpu/slices.py                                 every slice
  python3 launch/tpu/slices.py v5e:4x4                         one slice
  python3 launch/tpu/slices.py v5e:4x4 accelerator_type        one field of it, for scripts

Topologies are written as for ``asesjax compile --topology``. Names and runtime versions are those
of Google's pages "TPU software versions", "TPU v4", "v5e", "v5p" and "v6e" (read in 2026).
"""

import math
import sys
from typing import NamedTuple


class UserError(Exception):
    """A mistake that the user can fix, explained in one sentence; scripts exit with status 2."""


class Generation(NamedTuple):
    """What all slices of one kind of chip have in common."""

    prefix: str  # of the accelerator type
    cores: int  # counted for each chip in the number after the prefix
    runtime: str  # image of the machines
    one_machine: int  # chips of the largest slice that is a single machine
    topologies: tuple[str, ...]


_CHIPS_PER_MACHINE = 4  # of slices with several machines
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_DEEP = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16",
         "8x16x16")  # fmt: skip
GENERATIONS = {
    "v4": Generation("v4", 2, "tpu-ubuntu2204-base", 4, _DEEP),
    "v5e": Generation("v5litepod", 1, "v2-alpha-tpuv5-lite", 8, _FLAT),
    "v5p": Generation("v5p", 2, "v2-alpha-tpuv5", 4, (*_DEEP, "16x16x16", "16x16x24")),
    "v6e": Generation("v6e", 1, "v2-alpha-tpuv6e", 8, _FLAT),
}


class SliceKind(NamedTuple):
    """One kind of slice."""

    topology: str  # such as "v5e:4x4"
    accelerator_type: str  # its name for gcloud and xpk
    runtime: str  # image of its machines
    chips: int  # what is billed
    hosts: int  # machines, each with one process of the run

    def __str__(self) -> str:
        size = f"{self.chips} chips on {self.hosts} machines"
        return f"{self.topology} ({self.accelerator_type}, {size})"


def find(topology: str) -> SliceKind:
    """Return the slice of a topology.

    Raises:
      UserError: no slice has this topology.

    Example:
      >>> find("v5e:4x4")
      SliceKind(topology='v5e:4x4', accelerator_type='v5litepod-16',
                runtime='v2-alpha-tpuv5-lite', chips=16, hosts=4)
      >>> find("v5p:2x2x2").accelerator_type
      'v5p-16'
    """
    name, _, shape = topology.partition(":")
    generation = GENERATIONS.get(name)
    if generation is None or shape not in generation.topologies:
        known = generation.topologies if generation else ()
        raise UserError(
            f"there is no slice {topology!r}; expected one of "
            + (", ".join(f"{name}:{s}" for s in known) or f"{', '.join(GENERATIONS)} with a "
               "topology, such as v5e:4x4 (python3 launch/tpu/slices.py lists them)")
        )  # fmt: skip
    chips = math.prod(map(int, shape.split("x")))
    hosts = 1 if chips <= generation.one_machine else chips // _CHIPS_PER_MACHINE
    accelerator_type = f"{generation.prefix}-{chips * generation.cores}"
    return SliceKind(topology, accelerator_type, generation.runtime, chips, hosts)


def main(argv: list[str]) -> int:
    """Print the table, one row of it, or one field."""
    fields = list(SliceKind._fields)
    try:
        if len(argv) > 2 or len(argv) == 2 and argv[1] not in fields:
            raise UserError(f"expected [TOPOLOGY [FIELD]] with FIELD one of {', '.join(fields)}")
        if len(argv) == 2:
            print(getattr(find(argv[0]), argv[1]))
            return 0
        names = argv or [f"{name}:{s}" for name, g in GENERATIONS.items() for s in g.topologies]
        rows = [fields] + [list(map(str, tuple(find(name)))) for name in names]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(word.ljust(n) for word, n in zip(row, widths, strict=True)).rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
