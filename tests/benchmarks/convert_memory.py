"""Time and peak memory of converting an 800 MB checkpoint both ways.

    python tests/benchmarks/convert_memory.py [--preset t5-v1_1-base] [--layers 9]

Writes a random v1.1 model of about 200 M float32 numbers (no torch needed) into a temporary folder,
converts it in and out, each in a process of its own, and prints one JSON line: seconds, peak
resident memory (``getrusage``), the size of the parameters and of the largest tensor, and what a
process that only imports the package takes. Needs 3 GB of disk.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MB = 1e6


def peak_mb() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB


def make(folder: Path, name: str, layers: int) -> None:
    """Write the checkpoint, with the shape of a preset and so many layers a stack."""
    import dataclasses

    import jax
    import numpy as np

    from asesjax.models import t5
    from asesjax.models.hf_io import save_hf
    from asesjax.models.presets import preset

    config = dataclasses.replace(preset(name), n_encoder_layers=layers, n_decoder_layers=layers)
    shapes = jax.eval_shape(lambda key: t5.init(config, key), jax.random.key(0))
    rng = np.random.default_rng(0)
    draw = lambda leaf: rng.standard_normal(leaf.shape, np.float32)  # noqa: E731
    params = jax.tree.map(draw, shapes)
    folder.mkdir()
    save_hf(folder, config, params)
    sizes = [leaf.nbytes for leaf in jax.tree.leaves(params)]
    print(json.dumps({"target_mb": sum(sizes) / MB, "largest_tensor_mb": max(sizes) / MB}))


def step(name: str, *arguments: str) -> dict:
    """Run one step of this script in a process of its own, and return what it prints last."""
    command = [sys.executable, __file__, name, *arguments]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out.splitlines()[-1])


def timed(arguments: list[str]) -> None:
    """Run ``asesjax convert`` and print its time and peak memory."""
    import jax
    import orbax.checkpoint  # noqa: F401

    import asesjax.experiment  # noqa: F401
    from asesjax.cli.main import main

    jax.devices()
    before, start = peak_mb(), time.perf_counter()
    if arguments and main(["convert", *arguments]):
        sys.exit(1)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb(), "imports_mb": before}))


def load(folder: str) -> None:
    """Read the weights without writing a checkpoint, and print time and peak memory."""
    import jax

    from asesjax.models.hf_io import load_params

    jax.devices()
    before, start = peak_mb(), time.perf_counter()
    jax.block_until_ready(load_params(folder)[1])
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb(), "imports_mb": before}))


def run() -> None:
    """Make the checkpoint, convert it both ways, print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="t5-v1_1-base")
    parser.add_argument("--layers", default="9", help="of each stack")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        hf, checkpoint, back = (f"{folder}/{name}" for name in ("hf", "checkpoint", "back"))
        result = step("make", hf, args.preset, args.layers)
        result["load"] = step("load", hf)
        result["from_hf"] = step("convert", "--from-hf", hf, "--out", checkpoint)
        result["to_hf"] = step("convert", "--to-hf", back, "--checkpoint", checkpoint)
        same = subprocess.run(["cmp", f"{hf}/model.safetensors", f"{back}/model.safetensors"])
        result["bit_equal"] = same.returncode == 0
    for name in ("load", "from_hf", "to_hf"):
        part = result[name]
        part["above_imports_and_target_mb"] = (
            part["peak_mb"] - part["imports_mb"] - result["target_mb"]
        )
    rounded = lambda number: round(number, 1)  # noqa: E731
    print(json.dumps(json.loads(json.dumps(result), parse_float=lambda x: rounded(float(x)))))


if __name__ == "__main__":
    step_of, arguments = sys.argv[1:2], sys.argv[2:]
    if step_of == ["make"]:
        make(Path(arguments[0]), arguments[1], int(arguments[2]))
    elif step_of == ["load"]:
        load(arguments[0])
    elif step_of == ["convert"]:
        timed(arguments)
    else:
        run()
