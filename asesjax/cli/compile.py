"""Compile a run's training step and decoding loop for a TPU slice, with no TPU.

The programs are those that the run would compile on the slice, by the same compiler (libtpu, from
pip install 'asesjax[tpu]'). No array is made and no data read, so any size works on any computer.
Nothing runs either: times are estimates from data sheets.

    asesjax compile --config configs/tpu.py:t5-base --topology v5e:4x4
    asesjax compile --config FILE.py --topology v5e:2x4 --config.train.remat=full --only train
    asesjax compile --config FILE.py --topology v5e:4x4 --search
"""

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asesjax.aot.topology import GIB
from asesjax.core.errors import UserError

if TYPE_CHECKING:
    from asesjax.aot.measure import Measured
    from asesjax.aot.topology import Chip, Slice

DOES_NOT_FIT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARG]", help="config file")
    parser.add_argument(
        "--topology", required=True, metavar="GENERATION:SHAPE",
        help="v4, v5e, v5p or v6e and its chips, such as v5e:4x4 (mesh.slices of them); cpu:N: "
        "N virtual CPU devices, which tell nothing of memory or time",
    )
    parser.add_argument("--only", choices=("train", "decode"), help="one of the two programs")
    parser.add_argument(
        "--search", action="store_true", help="compare meshes, everything else as configured",
    )
    parser.add_argument(
        "--vocab-rows", type=int, default=32128, metavar="N",
        help="rows of the embedding, the vocabulary rounded up to 128 (default: T5's 32128)",
    )
    parser.add_argument("--json", metavar="FILE", help="also write a JSON line for each compile")
    parser.epilog = (
        "--config.section.field=value changes one field of the configuration.\n\n"
        f"Exit status {DOES_NOT_FIT}: compiled, and does not fit; a change that would is printed."
    )


def main(args: argparse.Namespace) -> int:
    """Compile, print, and tell by the exit status whether everything fits."""
    from asesjax.aot import topology

    topology.prepare(args.topology)  # before anything loads jax's backends
    from asesjax.aot import choices
    from asesjax.aot.measure import as_row, measure
    from asesjax.aot.programs import decode_program, train_program
    from asesjax.config import load_config

    if args.vocab_rows < 1:
        raise UserError(f"--vocab-rows must be at least 1, got {args.vocab_rows}")
    config = load_config(args.config, args.overrides)
    on = topology.get_slice(args.topology, config.mesh.slices)
    makers = {"train": train_program, "decode": decode_program}
    names = [args.only] if args.only else list(makers)

    with _json_lines(args.json) as write:

        def compile_one(name: str, change: choices.Change) -> "Measured":
            mine = choices.changed(config, change)
            measured = measure(makers[name](mine, on, args.vocab_rows), on.chip)
            where = {"config": config.name, "topology": on.name, "change": dict(change)}
            write(where | as_row(measured, on.chip))
            return measured

        n = len(on.devices)
        print(_headline(config, on), flush=True)
        if args.search:
            return _search(names, choices.meshes(n), compile_one)
        status = 0
        for name in names:
            measured = compile_one(name, {})
            print(_told(measured, on.chip), flush=True)
            if measured.fits:
                continue
            status = DOES_NOT_FIT
            ways = choices.train_changes if name == "train" else choices.decode_changes

            def fits(change: choices.Change, name: str = name) -> bool:
                tried = compile_one(name, change)
                size = _gib(tried.needed, on.chip.hbm)
                print(f"  tried           {choices.as_options(change)}: {size}", flush=True)
                return tried.fits

            found = choices.first_that_fits(ways(config, n), fits)
            wanted = "none of these; take a larger slice or other chips"
            wanted = wanted if found is None else choices.as_options(found)
            print(f"  smallest change {wanted}", flush=True)
    return status


def _headline(config: Any, on: "Slice") -> str:
    chip, kind = on.chip, on.devices[0].device_kind
    memory = f", {chip.hbm / 2**30:.2f} GiB each for programs" if chip.hbm else ""
    return f"{config.name} on {on.name}: {len(on.devices)} x {kind}{memory}"


def _told(measured: "Measured", chip: "Chip") -> str:
    """Write what a compile told, a line for each kind of thing."""
    p, lines = measured.program, []

    def say(name: str, text: str) -> None:
        lines.append(f"  {name:15} {text}")

    mesh = " x ".join(f"{name} {size}" for name, size in p.mesh.shape.items())
    step = "a step" if p.name == "train" else "a token of every slot"
    if chip.hbm:
        size = _gib(measured.needed, chip.hbm)
        say("fits", f"{'yes' if measured.fits else 'NO'}: {size} a chip at once")
    else:
        say("fits", "not known: a CPU has no memory of its own")
    if measured.refusal:
        say("", measured.refusal)
    if p.held:
        say("", f"{p.held / GIB:.2f} GiB of it are parameters that the run keeps besides")
    say("compiled in", f"{measured.seconds:.0f} s")
    if measured.memory is not None:
        m = {k: v / GIB for k, v in dataclasses.asdict(measured.memory).items()}
        say("memory, GiB",
            f"arguments {m['arguments']:.2f}, outputs {m['outputs']:.2f} ({m['aliased']:.2f} in "
            f"their place), temporaries {m['temporaries']:.2f} (not all at once), program "
            f"{m['code']:.2f}; at most {m['peak']:.2f} at once")  # fmt: skip
    counted = measured.counted_flops
    more = f"; the compiler counts {_si(counted)}, each loop for one turn" if counted else ""
    say("FLOPs a chip", f"{_si(p.flops)} of the model in {step}{more}")
    if measured.traffic is not None:
        t = measured.traffic
        kinds = [f"{t.count[k]:.0f} {k} ({_si(t.size[k])}B)" for k in t.count]
        say("collectives", f"{', '.join(kinds) or 'none'}; {_si(t.sent)}B sent by a chip in {step}")
        say("memory moved", f"{_si(t.moved)}B to and from a chip's memory in {step}")
    if measured.estimate:
        bound, seconds = _bound(measured)
        each = ", ".join(f"{k} {_seconds(v)}" for k, v in measured.estimate.items())
        what = "positions" if p.name == "train" else "tokens"
        say("ESTIMATE", f"{step} takes at least {_seconds(seconds)} ({each}); at most "
            f"{_si(p.tokens / seconds)} {what}/s by data sheets; bound by {bound}")  # fmt: skip
    return "\n".join([f"{p.name}: {p.what}; mesh {mesh}", *lines])


def _search(names: list[str], changes: Iterator, compile_one: Callable) -> int:
    """Compile every change, print a table of markdown, and tell whether something fits."""
    columns = ("program", "mesh.preset", "data x fsdp x tensor", "fits", "GiB a chip",
               "sent a chip", "estimate", "bound by", "compiled in")  # fmt: skip
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns), flush=True)
    fitted = {name: False for name in names}
    for change in changes:
        for name in names:
            cells = [name, change["mesh.preset"], ""]
            try:
                m = compile_one(name, change)
            except UserError as error:
                print("| " + " | ".join([*cells, f"cannot run: {error}", *["-"] * 5]) + " |",
                      flush=True)  # fmt: skip
                continue
            fitted[name] |= m.fits
            cells[2] = " x ".join(str(size) for size in m.program.mesh.shape.values())
            cells += ["yes" if m.fits else "NO", "-" if m.needed is None else
                      f"{m.needed / GIB:.2f}"]  # fmt: skip
            cells.append(f"{_si(m.traffic.sent)}B" if m.traffic else "-")
            if m.estimate:
                bound, seconds = _bound(m)
                cells += [_seconds(seconds), bound]
            else:
                cells += ["-", "-"]
            print("| " + " | ".join([*cells, f"{m.seconds:.0f} s"]) + " |", flush=True)
    return 0 if all(fitted.values()) else DOES_NOT_FIT


def _bound(measured: "Measured") -> tuple[str, float]:
    return max(measured.estimate.items(), key=lambda item: item[1])


def _gib(needed: int | None, hbm: int | None) -> str:
    told = "more than there is" if needed is None else f"{needed / GIB:.2f} GiB"
    return told + (f" of {hbm / GIB:.2f}" if hbm else "")


def _si(value: float) -> str:
    """Write a number with the prefix of its size.

    Example:
      >>> _si(2.5e12), _si(999.0)
      ('2.5 T', '999 ')
    """
    for limit, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {prefix}"
    return f"{value:.3g} "


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.3g} ms"


@contextlib.contextmanager
def _json_lines(path: str | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield what writes a row; it does nothing without a path."""
    if not path:
        yield lambda row: None
        return
    if Path(path).exists():
        raise UserError(f"--json {path} exists already; move it, or give another name")
    with open(path, "x") as file:
        yield lambda row: print(json.dumps(row), file=file, flush=True)
