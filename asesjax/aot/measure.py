"""Compiling a program and measuring it: memory, operations, traffic, an estimated time."""

import dataclasses
import re
import time
from typing import Any

import jax

from asesjax.aot.hlo import Traffic, read
from asesjax.aot.programs import Program
from asesjax.aot.topology import GIB, Chip
from asesjax.core.errors import UserError
from asesjax.training.meter import peak_flops

_UNITS = {"K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}


# Parts of a program's memory: ``aliased`` outputs take the arguments' place, ``temporaries`` do not
# all live at once, and ``peak`` is all at once, of which the compiler refuses more than there is.
_PARTS = {
    "arguments": "argument_size", "outputs": "output_size", "aliased": "alias_size",
    "temporaries": "temp_size", "code": "generated_code_size", "peak": "peak_memory",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Measured:
    """What compiling a program found out; the compiler may refuse, and may leave out numbers."""

    program: Program
    seconds: float  # that tracing and compiling took
    memory: dict[str, int] | None  # bytes of a chip by part
    needed: int | None  # peak bytes on a chip, including what the run holds besides
    fits: bool
    # operations of a chip in a step as the compiler counts them, each loop once
    counted_flops: float | None = None
    traffic: Traffic | None = None  # of a step
    # least seconds of a step, see ``estimate``
    estimate: dict[str, float] = dataclasses.field(default_factory=dict)
    refusal: str = ""  # the compiler's message


def measure(program: Program, chip: Chip) -> Measured:
    """Compile a program; not fitting the chip is a result, other failures are a UserError."""
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
        needed, seconds = needed_in_refusal(str(error)), time.perf_counter() - start
        needed = needed and needed + program.held
        return Measured(program, seconds, None, needed, False, refusal=words)
    seconds = time.perf_counter() - start
    found = compiled.memory_analysis()
    memory = {name: getattr(found, f"{part}_in_bytes") for name, part in _PARTS.items()}
    traffic = read(compiled.as_text() or "", "decode_step" if program.name == "decode" else "")
    flops = (compiled.cost_analysis() or {}).get("flops")
    needed = memory["peak"] + program.held
    fits = chip.hbm is None or needed <= chip.hbm
    times = estimate(program, chip, flops, traffic)
    return Measured(program, seconds, memory, needed, fits, flops, traffic, times)


def needed_in_refusal(message: str) -> int | None:
    """Find the bytes that a program would take in the compiler's message.

    >>> needed_in_refusal("Ran out of memory in memory space hbm. Used 2.5K of 1.75K hbm.")
    2560
    """
    found = re.search(r"\(([\d.]+)([KMGT])\) exceeds|Used ([\d.]+)([KMGT]) of", message)
    if not found:
        return None
    number, unit = found[1] or found[3], found[2] or found[4]
    return int(float(number) * _UNITS[unit])


def estimate(
    program: Program, chip: Chip, counted_flops: float | None, traffic: Traffic
) -> dict[str, float]:
    """Return the least seconds of a step for ``compute``, ``memory`` and ``links``, each alone;
    empty where the chip's rates are not known. The longest is the estimate. Links between slices
    are taken to be as fast as those within one.
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
    """Return everything as JSON values, in bytes, seconds and operations of one chip."""
    program, t = measured.program, measured.traffic
    row: dict[str, Any] = {
        "program": program.name, "what": program.what, "mesh": dict(program.mesh.shape),
        "fits": measured.fits, "compile_seconds": round(measured.seconds, 1), "hbm": chip.hbm,
        "needed": measured.needed, "held": program.held, "parameters": program.weights,
        "memory": measured.memory, "model_flops": program.flops,
        "counted_flops": measured.counted_flops, "collectives": None,
        "estimated_seconds": measured.estimate, "tokens": program.tokens,
        "refusal": measured.refusal,
    }  # fmt: skip
    if t is not None:
        row["collectives"] = {k: {"count": t.count[k], "bytes": t.size[k]} for k in t.count}
        row |= {"bytes_sent": t.sent, "bytes_moved": t.moved}
    return row
