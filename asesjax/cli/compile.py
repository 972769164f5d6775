"""Compile a run's training step and decoding loop for a TPU slice, with no TPU.

The programs are those that the run would compile on the slice, by the same compiler (libtpu, from
pip install 'asesjax[tpu]'). No array is made and no data read, so any size works on any computer.
Nothing runs, so times are estimates from data sheets.

    asesjax compile --config configs/tpu.py:t5-base --topology v5e:4x4
    asesjax compile --config FILE.py --topology v5e:2x4 --config.train.remat=full --only train
    asesjax compile --config FILE.py --topology v5e:4x4 --search
"""

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from asesjax.aot.topology import GIB, Chip
from asesjax.core.errors import UserError
from asesjax.core.signals import check_stop

if TYPE_CHECKING:
    from asesjax.aot.measure import Measured

DOES_NOT_FIT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARG]", help="config file")
    parser.add_argument(
        "--topology", required=True, metavar="GENERATION:SHAPE",
        help="v4, v5e, v5p or v6e and its chips, such as v5e:4x4 (mesh.slices of them); cpu:N: "
        "N virtual CPU devices, which give no numbers for memory or time",
    )  # fmt: skip
    parser.add_argument("--only", choices=("train", "decode"), help="one of the two programs")
    parser.add_argument("--search", action="store_true", help="compare meshes, change nothing else")
    parser.add_argument("--vocab-rows", type=int, default=32128, metavar="N", help="rows of the "
                        "embedding, the vocabulary rounded up to 128 (default: T5's)")  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="also write a JSON line for each compile")
    parser.epilog = (
        "--config.section.field=value changes one field of the configuration.\n\n"
        f"Exit status {DOES_NOT_FIT}: a program does not fit; a change that would is printed."
    )


def main(args: argparse.Namespace) -> int:
    """Compile, print the result, and return the exit status."""
    from asesjax.aot import topology

    topology.prepare(args.topology)  # before anything loads jax's backends
    from asesjax.aot import choices
    from asesjax.aot.measure import as_row, measure
    from asesjax.aot.programs import decode_program, train_program
    from asesjax.config import finish, load_config

    if args.vocab_rows < 1:
        raise UserError(f"--vocab-rows must be at least 1, got {args.vocab_rows}")
    config = load_config(args.config, args.overrides)
    on = topology.get_slice(args.topology, config.mesh.slices)
    chip, n_devices = on.chip, len(on.devices)
    makers = {"train": train_program, "decode": decode_program}
    ways = {"train": choices.train_changes, "decode": choices.decode_changes}
    names = [args.only] if args.only else list(makers)
    try:
        if args.json:
            Path(args.json).parent.mkdir(parents=True, exist_ok=True)
        json_file = open(args.json, "x") if args.json else contextlib.nullcontext()
    except FileExistsError:
        raise UserError(
            f"--json {args.json} exists already; move it, or give another name"
        ) from None

    with json_file as file:

        def compile_one(name: str, change: choices.Change) -> "Measured":
            measured = measure(makers[name](finish(config, change), on, args.vocab_rows), chip)
            if file:
                where = {"config": config.name, "topology": on.name, "change": change}
                print(json.dumps(where | as_row(measured, chip)), file=file, flush=True)
            return measured

        memory = f", {chip.hbm / GIB:.2f} GiB each for programs" if chip.hbm else ""
        kind = on.devices[0].device_kind
        print(f"{config.name} on {on.name}: {n_devices} x {kind}{memory}", flush=True)
        if args.search:
            return _search(names, choices.meshes(n_devices), compile_one)
        status = 0
        for name in names:
            measured = compile_one(name, {})
            print(_summary(measured, chip), flush=True)
            if measured.fits:
                continue
            status, advice = DOES_NOT_FIT, "none of these; take a larger slice or other chips"
            for change in ways[name](config, n_devices):
                try:
                    tried = compile_one(name, change)
                except UserError:  # a change that the run would refuse
                    continue
                options = " ".join(f"--config.{field}={value}" for field, value in change.items())
                print(f"  tried           {options}: {_gib(tried.needed, chip.hbm)}", flush=True)
                if tried.fits:
                    advice = options
                    break
            print(f"  smallest change {advice}", flush=True)
    return status


def _summary(measured: "Measured", chip: Chip) -> str:
    """Describe a compiled program, one line for each kind of measurement."""
    p, t = measured.program, measured.traffic
    mesh = " x ".join(f"{name} {size}" for name, size in p.mesh.shape.items())
    lines = [f"{p.name}: {p.what}; mesh {mesh}"]

    def say(name: str, text: str) -> None:
        lines.append(f"  {name:15} {text}")

    step = "a step" if p.name == "train" else "a token of every slot"
    fits = f"{'yes' if measured.fits else 'NO'}: {_gib(measured.needed, chip.hbm)} a chip at once"
    say("fits", fits if chip.hbm else "not known: a CPU has no memory of its own")
    if measured.refusal:
        say("", measured.refusal)
    if p.held:
        say("", f"{p.held / GIB:.2f} GiB of it are parameters that the run keeps besides")
    say("compiled in", f"{measured.seconds:.0f} s")
    if measured.memory is not None:
        m = {part: f"{size / GIB:.2f}" for part, size in measured.memory.items()}
        say("memory, GiB",
            f"arguments {m['arguments']}, outputs {m['outputs']} ({m['aliased']} in their place), "
            f"temporaries {m['temporaries']} (not all at once), program {m['code']}; at most "
            f"{m['peak']} at once")  # fmt: skip
    counted = measured.counted_flops
    more = f"; the compiler counts {_si(counted)}, each loop once" if counted else ""
    say("FLOPs a chip", f"{_si(p.flops)} of the model in {step}{more}")
    if t is not None:
        kinds = [f"{t.count[k]:.0f} {k} ({_si(t.size[k])}B)" for k in t.count]
        say("collectives", f"{', '.join(kinds) or 'none'}; {_si(t.sent)}B sent by a chip in {step}")
        say("memory moved", f"{_si(t.moved)}B to and from a chip's memory in {step}")
    if measured.estimate:
        bound, seconds = _bound(measured)
        each = ", ".join(f"{k} {_seconds(v)}" for k, v in measured.estimate.items())
        rate = p.tokens / seconds
        most = f"{_si(rate)} positions/s"
        if p.name != "train":
            most = f"{_si(rate)} tokens/s, {_si(rate / 100)} questions/s of 100 tokens,"
        say("ESTIMATE", f"{step} takes at least {_seconds(seconds)} ({each}); at most {most} by "
            f"data sheets; bound by {bound}")  # fmt: skip
    return "\n".join(lines)


def _search(names: list[str], changes: Iterator, compile_one: Callable) -> int:
    """Compile every change, print a Markdown table, and return whether each program fits once."""
    columns = ("program", "mesh.preset", "data x fsdp x tensor", "fits", "GiB a chip",
               "sent a chip", "estimate", "bound by", "compiled in")  # fmt: skip
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns), flush=True)
    fitted = set()
    for change in changes:
        check_stop()
        for name in names:
            cells = [name, change["mesh.preset"]]
            try:
                m = compile_one(name, change)
            except UserError as error:
                cells += ["", f"cannot run: {error}", *["-"] * 5]
            else:
                fitted |= {name} if m.fits else set()
                bound, seconds = _bound(m) if m.estimate else ("-", None)
                cells += [
                    " x ".join(str(size) for size in m.program.mesh.shape.values()),
                    "yes" if m.fits else "NO",
                    "-" if m.needed is None else f"{m.needed / GIB:.2f}",
                    f"{_si(m.traffic.sent)}B" if m.traffic else "-",
                    "-" if seconds is None else _seconds(seconds),
                    bound,
                    f"{m.seconds:.0f} s",
                ]
            print("| " + " | ".join(cells) + " |", flush=True)
    return 0 if fitted == set(names) else DOES_NOT_FIT


def _bound(measured: "Measured") -> tuple[str, float]:
    return max(measured.estimate.items(), key=lambda item: item[1])


def _gib(needed: int | None, hbm: int | None) -> str:
    size = "more than there is" if needed is None else f"{needed / GIB:.2f} GiB"
    return size + (f" of {hbm / GIB:.2f}" if hbm else "")


def _si(value: float) -> str:
    """Write a number with the prefix of its size: 2.5e12 is "2.5 T"."""
    for limit, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {prefix}"
    return f"{value:.3g} "


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.3g} ms"
