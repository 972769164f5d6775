"""Run the benchmarks of a device, each in a process and a time of its own; see ``gpu.sh``."""

import argparse
import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
SECONDS = 530  # of all parts together
OURS = ("jax", "flax", "optax")
THEIRS = (*OURS, "torch", "transformers", "safetensors")  # ours make the weights


@dataclasses.dataclass(frozen=True)
class Part:
    """A benchmark: a command of Python's, and what it may take."""

    name: str
    command: list[str]
    seconds: float  # after which it is stopped
    packages: tuple[str, ...] = OURS

    @property
    def environment(self) -> dict[str, str]:
        """Where torch has the device, jax keeps off it."""
        if "torch" in self.packages:
            return {"JAX_PLATFORMS": "cpu"}
        return {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9"}


def all_parts(tiny: bool) -> list[Part]:
    """The parts, most important first: the last are left out where time is up."""
    train = ["train_vs_hf.py", "--dtype", "bfloat16", "--curve-steps", "0", "--profile"]
    decode = ["decode_vs_hf.py", "--dtype", "bfloat16", "--profile", "--buckets", "256"]
    if tiny:
        sizes, repeats = {"tiny": (4, [])}, "1"
        train += ["--records", "8", "--steps", "1", "--rounds", "2", "--packed-length", "256",
                  "--compile", "eager"]  # fmt: skip
        decode += ["--size", "tiny", "--batch", "2", "--questions", "2",
                   "--authors-questions", "1", "--context-lengths", "128"]  # fmt: skip
    else:
        sizes, repeats = {"base": (256, []), "large": (128, ["--scan-layers"])}, "3"
        train += ["--steps", "10", "--rounds", "5", "--compile"]
        decode += ["--size", "base", "--batch", "256", "--questions", "1024",
                   "--authors-questions", "2", "--context-lengths", "64", "96", "128", "192",
                   "256"]  # fmt: skip
    parts = [Part("device", ["device.py"], 60)]
    bucketed = []
    for size, (batch, more) in sizes.items():
        own = [*train, "--size", size, "--batch", str(batch), *more, "--contestants"]
        parts += [
            Part(f"train-{size}-packed", [*own, "packed"], 120),
            Part(f"train-{size}-torch", [*own, "torch"], 160, THEIRS),
        ]
        bucketed.append(Part(f"train-{size}-bucketed", [*own, "bucketed"], 110))
    decoding = [
        Part("decode-ours", [*decode, "--repeats", repeats, "--contestants", "continuous"], 150),
        Part("decode-torch", [*decode, "--repeats", "1", "--contestants", "authors", "batched"],
             120, THEIRS),
    ]  # fmt: skip
    return [*parts[:3], *decoding, *parts[3:], *bucketed]


def run(part: Part, left: float, take: Callable[[dict], None], log: Path) -> None:
    """Run a part with ``left`` seconds for it and give ``take`` its lines, the last of which has
    its seconds and, if it failed, an ``error``.
    """
    start, done = time.monotonic(), {"part": part.name}
    missing = [name for name in part.packages if importlib.util.find_spec(name) is None]
    if missing:
        done["error"] = (
            f"{sys.executable} lacks {', '.join(missing)}, which this part needs; install them or "
            "put a folder that holds them on PYTHONPATH"
        )
    elif left < min(20, part.seconds):
        done["error"] = f"no time was left for it; run it with --only {part.name}"
    else:
        found = _run(part, min(left, part.seconds), take, log)
        done |= {"error": found} if found else {}
    take(done | {"seconds": round(time.monotonic() - start, 1)})


def _run(part: Part, seconds: float, take: Callable[[dict], None], log: Path) -> str:
    """Return what went wrong, ``""`` where nothing did."""
    command = [sys.executable, *part.command]
    if part.command[0].endswith(".py"):
        command[1] = str(HERE / part.command[0])
    with open(log, "a+", encoding="utf-8") as errors:
        print(f"== {part.name}: {' '.join(command)}", file=errors, flush=True)
        begun = errors.tell()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True,
            env=os.environ | part.environment,
        )  # fmt: skip

        def read():
            with process.stdout as out:
                for line in out:
                    try:
                        take({"part": part.name} | json.loads(line))
                    except (ValueError, TypeError):  # what libraries print
                        errors.write(line)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"stopped after {seconds:.0f} s"
        finally:
            _kill(process)
            reader.join()
        if not status:
            return ""
        errors.flush()
        errors.seek(begun)
        return f"exit status {status}: {errors.read()[-1500:].strip()}"


def _kill(process: subprocess.Popen) -> None:
    """End a part and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def targets(lines: list[dict]) -> list[dict]:
    """What was to be reached, and what was measured of it (None where it was not)."""

    def value(part, contestant, field):
        found = [line[field] for line in lines if line["part"] == part and field in line
                 and line.get("contestant") == contestant]  # fmt: skip
        return found[-1] if found else None

    def ratio(one, other):
        return one / other if one and other else None

    rows = []
    for size in dict.fromkeys(line["part"].split("-")[1] for line in lines
                              if line["part"].startswith("train-")):  # fmt: skip
        names = ("packed", "bucketed", "torch")
        rate = {name: value(f"train-{size}-{name}", name, "examples_per_second") for name in names}
        losses = {name: value(f"train-{size}-{name}", name, "first_losses") for name in names}
        rows += [
            (f"training, {size}, packed: share of the peak", 0.5,
             value(f"train-{size}-packed", "packed", "mfu")),
            (f"training, {size}, packed: times transformers with torch.compile", 2,
             ratio(rate["packed"], rate["torch"])),
            (f"training, {size}, bucketed: times transformers with torch.compile", None,
             ratio(rate["bucketed"], rate["torch"])),
        ]  # fmt: skip
        pairs = zip(losses["bucketed"] or (), losses["torch"] or (), strict=False)
        apart = max((abs(ours / theirs - 1) for ours, theirs in pairs), default=None)
        rows.append((f"training, {size}: first losses apart from transformers'", None, apart))
    ours = value("decode-ours", "continuous", "questions_per_second")
    for name, least in (("authors", 100), ("batched", 10)):
        theirs = value("decode-torch", name, "questions_per_second")
        rows.append((f"decoding: times {name}", least, ratio(ours, theirs)))
    bandwidth = value("decode-ours", "floor of a step", "bandwidth_gb_s")
    least_bytes = value("decode-ours", "continuous", "least_gb_s")
    rows += [
        ("decoding: share of the bandwidth in a step", 0.5,
         value("decode-ours", "floor of a step", "share_of_bandwidth")),
        ("decoding: share of the bandwidth, encoding and waiting included", None,
         ratio(least_bytes, bandwidth)),
    ]  # fmt: skip
    return [
        {"part": "targets", "what": what, "target": least, "measured": got and round(got, 4),
         "met": None if least is None or got is None else got >= least}
        for what, least, got in rows
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for results.jsonl and log.txt")
    parser.add_argument("--tiny", action="store_true", help="a small model, on any device")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts alone")
    args = parser.parse_args()
    deadline = time.monotonic() + SECONDS
    parts = all_parts(args.tiny)
    if args.only:
        names = [part.name for part in parts]
        if unknown := set(args.only) - set(names):
            parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {names}")
        parts = [part for part in parts if part.name in args.only]
    # What one call has compiled, the next one on the same machine loads.
    kept = Path(tempfile.gettempdir()) / "asesjax-benchmarks"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(kept))
    os.environ["HF_HUB_OFFLINE"] = "1"
    args.out.mkdir(parents=True, exist_ok=True)
    lines: list[dict] = []
    with open(args.out / "results.jsonl", "a", encoding="utf-8") as file:

        def take(line):
            lines.append(line)
            for place in (file, sys.stdout):
                print(json.dumps(line), file=place, flush=True)

        for part in parts:
            run(part, deadline - time.monotonic(), take, args.out / "log.txt")
            if part.name == "device" and lines[0].get("backend") == "cpu" and not args.tiny:
                error = "jax sees no GPU; --tiny is for a CPU, --only for parts of torch alone"
                take({"part": "device", "error": error})
                return 1
        for row in targets(lines):
            take(row)
    return int(any("error" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
