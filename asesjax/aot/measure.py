"""Compiling a program and reading off it: memory, operations, traffic, an estimated time."""

import dataclasses
import re
import time
from typing import Any

import jax

from asesjax.aot.hlo import Traffic, read
from asesjax.aot.programs import Program
from asesjax.aot.topology import GIB, Chip
from asesjax.core.errors import UserError
from asesjax.train.meter import peak_flops

_UNITS = {"K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of a chip that a program takes.

    Attributes:
      arguments: what it is given: parameters, optimizer state, batch; or parameters and table.
      outputs: what it returns.
      aliased: the part of the outputs that takes the arguments' place.
      temporaries: everything in between; not all of it at the same time.
      code: the program.
      peak: the most at once; the compiler refuses where this is more than the chip has.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int
    peak: int


@dataclasses.dataclass(frozen=True)
class Measured:
    """What compiling a program told.

    Attributes:
      program: it.
      seconds: that tracing and compiling took.
      memory: None where the compiler refused.
      needed: bytes on a chip at once, what the run holds besides counted; None where the compiler
        refused without a number.
      fits: whether that is no more than the chip has.
      counted_flops: floating point operations of a chip, by the compiler, that takes each loop
        for one turn; None where it is silent.
      traffic: what a step moves, see ``hlo``.
      estimate: seconds of a step at the least, see ``estimate``; empty where nothing is known.
      refusal: the compiler's words.
    """

    program: Program
    seconds: float
    memory: Memory | None
    needed: int | None
    fits: bool
    counted_flops: float | None = None
    traffic: Traffic | None = None
    estimate: dict[str, float] = dataclasses.field(default_factory=dict)
    refusal: str = ""


def measure(program: Program, chip: Chip) -> Measured:
    """Compile a program; one that does not fit is an answer too.

    Args:
      program: from ``programs``.
      chip: what it is to fit on.

    Raises:
      UserError: the compiler failed, and not for memory.
    """
    start = time.perf_counter()
    least = program.state + program.held
    if chip.hbm is not None and least > chip.hbm:
        words = "parameters and optimizer state alone are more than the chip has; not compiled"
        return Measured(program, 0.0, None, least, False, refusal=words)
    try:
        compiled = program.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise UserError(
                f"the compiler failed on {program.name} ({program.what}), for another reason than "
                f"memory: {str(error).splitlines()[0]}"
            ) from error
        words = str(error).removeprefix("RESOURCE_EXHAUSTED: ").splitlines()[0]
        needed = needed_of(str(error))
        needed = None if needed is None else needed + program.held
        seconds = time.perf_counter() - start
        return Measured(program, seconds, None, needed, False, refusal=words)
    seconds = time.perf_counter() - start
    found = compiled.memory_analysis()
    memory = Memory(
        arguments=found.argument_size_in_bytes,
        outputs=found.output_size_in_bytes,
        aliased=found.alias_size_in_bytes,
        temporaries=found.temp_size_in_bytes,
        code=found.generated_code_size_in_bytes,
        peak=found.peak_memory_in_bytes,
    )
    cost = compiled.cost_analysis() or {}
    traffic = read(compiled.as_text(), "decode_step" if program.name == "decode" else "")
    flops = cost.get("flops")
    needed = memory.peak + program.held
    return Measured(
        program, seconds, memory, needed, chip.hbm is None or needed <= chip.hbm, flops,
        traffic, estimate(program, chip, flops, traffic),
    )  # fmt: skip


def needed_of(message: str) -> int | None:
    """Read the bytes that a program would take in the compiler's refusal.

    Example:
      >>> needed_of("the total memory required for HLO temporaries (1.50K) exceeds available")
      1536
      >>> needed_of("Ran out of memory in memory space hbm. Used 29.10G of 15.75G hbm.") // 2**20
      29798
    """
    found = re.search(r"\(([\d.]+)([KMGT])\) exceeds|Used ([\d.]+)([KMGT]) of", message)
    if not found:
        return None
    number, unit = found[1] or found[3], found[2] or found[4]
    return int(float(number) * _UNITS[unit])


def estimate(
    program: Program, chip: Chip, counted_flops: float | None, traffic: Traffic
) -> dict[str, float]:
    """Say how long a step takes at the least, were the chip at its best all the time.

    Args:
      program: its own count of operations.
      chip: its rates.
      counted_flops: by the compiler; more than ours where no loop hides any.
      traffic: of a step.

    Returns:
      Seconds of ``compute``, ``memory`` and ``links``, the longest of which is the estimate; empty
      where the chip's rates are not known. Links between slices are taken for those within.
    """
    peak = peak_flops(program.mesh.devices.flat[0].device_kind)
    if peak is None or not chip.hbm_rate:
        return {}
    flops = program.flops * program.recomputed
    if program.name == "train":
        flops = max(flops, counted_flops or 0.0)
    return {
        "compute": flops / peak,
        "memory": traffic.moved / chip.hbm_rate,
        "links": traffic.sent / chip.link_rate,
    }


def as_row(measured: Measured, chip: Chip) -> dict[str, Any]:
    """Return everything as JSON values: bytes, seconds and operations of one chip."""
    program = measured.program
    row: dict[str, Any] = {
        "program": program.name,
        "what": program.what,
        "mesh": dict(program.mesh.shape),
        "fits": measured.fits,
        "compile_seconds": round(measured.seconds, 1),
        "hbm": chip.hbm,
        "needed": measured.needed,
        "held": program.held,
        "parameters": program.weights,
        "memory": measured.memory and dataclasses.asdict(measured.memory),
        "model_flops": program.flops,
        "counted_flops": measured.counted_flops,
        "collectives": None,
        "estimated_seconds": measured.estimate,
        "tokens": program.tokens,
        "refusal": measured.refusal,
    }
    if measured.traffic is not None:
        t = measured.traffic
        row["collectives"] = {k: {"count": t.count[k], "bytes": t.size[k]} for k in t.count}
        row |= {"bytes_sent": t.sent, "bytes_moved": t.moved}
    return row
