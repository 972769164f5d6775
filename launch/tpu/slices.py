"""Slices of Cloud TPUs: the one table of what a topology is called, boots and consists of.

  python3 launch/tpu/slices.py                                 every slice
  python3 launch/tpu/slices.py v5e:4x4                         one slice
  python3 launch/tpu/slices.py v5e:4x4 accelerator_type        one word of it, for scripts

Topologies are written as for ``asesjax compile --topology``. Names and runtime versions are those
of Google's pages "TPU software versions", "TPU v4", "v5e", "v5p" and "v6e" (read in 2026).
"""

import dataclasses
import math
import sys


class Mistake(Exception):
    """Something the user can mend, told in one sentence; scripts end with status 2."""


@dataclasses.dataclass(frozen=True)
class Generation:
    """What the slices of one kind of chip have in common.

    Attributes:
      prefix: of the accelerator type; the number after it counts ``cores`` for each chip.
      cores: that a chip counts for in that number.
      runtime: image of the machines.
      one_host: largest slice, in chips, that is one machine.
      host: chips of each machine of larger slices.
      topologies: that an accelerator type of this size gives.
    """

    prefix: str
    cores: int
    runtime: str
    one_host: int
    host: int
    topologies: tuple[str, ...]


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_DEEP = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16",
         "8x16x16")  # fmt: skip

GENERATIONS = {
    "v4": Generation("v4", 2, "tpu-ubuntu2204-base", 4, 4, _DEEP),
    "v5e": Generation("v5litepod", 1, "v2-alpha-tpuv5-lite", 8, 4, _FLAT),
    "v5p": Generation("v5p", 2, "v2-alpha-tpuv5", 4, 4, (*_DEEP, "16x16x16", "16x16x24")),
    "v6e": Generation("v6e", 1, "v2-alpha-tpuv6e", 8, 4, _FLAT),
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """One slice.

    Attributes:
      topology: such as "v5e:4x4".
      accelerator_type: its name for gcloud and xpk.
      runtime: image of its machines.
      chips: it has, which is what is billed.
      hosts: machines, each with a process of the run.
    """

    topology: str
    accelerator_type: str
    runtime: str
    chips: int
    hosts: int


def find(topology: str) -> Slice:
    """Return the slice of a topology.

    Raises:
      Mistake: there is none.

    Example:
      >>> find("v5e:4x4")
      Slice(topology='v5e:4x4', accelerator_type='v5litepod-16', runtime='v2-alpha-tpuv5-lite',
            chips=16, hosts=4)
      >>> find("v5p:2x2x2").accelerator_type
      'v5p-16'
    """
    name, _, shape = topology.partition(":")
    generation = GENERATIONS.get(name)
    if generation is None or shape not in generation.topologies:
        known = generation.topologies if generation else ()
        raise Mistake(
            f"there is no slice {topology!r}; expected one of "
            + (", ".join(f"{name}:{s}" for s in known) or f"{', '.join(GENERATIONS)} with a "
               "topology, such as v5e:4x4 (python3 launch/tpu/slices.py lists them)")
        )  # fmt: skip
    chips = math.prod(map(int, shape.split("x")))
    return Slice(
        topology,
        f"{generation.prefix}-{chips * generation.cores}",
        generation.runtime,
        chips,
        1 if chips <= generation.one_host else chips // generation.host,
    )


def main(argv: list[str]) -> int:
    """Print the table, a slice of it, or one field."""
    fields = [field.name for field in dataclasses.fields(Slice)]
    try:
        if len(argv) > 2 or len(argv) == 2 and argv[1] not in fields:
            raise Mistake(f"expected [TOPOLOGY [FIELD]] with FIELD one of {', '.join(fields)}")
        if len(argv) == 2:
            print(getattr(find(argv[0]), argv[1]))
            return 0
        names = argv or [f"{name}:{s}" for name, g in GENERATIONS.items() for s in g.topologies]
        rows = [fields] + [[str(getattr(find(name), f)) for f in fields] for name in names]
    except Mistake as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(word.ljust(n) for word, n in zip(row, widths, strict=True)).rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
