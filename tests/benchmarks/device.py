"""What the benchmarks say of a device: rates measured on it, a model's products, memory, kernels.

    python tests/benchmarks/device.py

prints a JSON line: the device, the rate of a copy and of a square matrix product, versions. Each
function that takes ``torch`` wants that module where torch does the work, or None for jax.
"""

import collections
import importlib.metadata
import importlib.util
import json
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from asesjax.models.t5_config import T5Config
from asesjax.training.meter import peak_flops


class Product(NamedTuple):
    """Products [batch; m, k] @ [batch; k, n] of one kind in a forward pass."""

    batch: int
    m: int
    k: int
    n: int
    count: float

    @property
    def flops(self) -> float:
        """Operations of all of them, a multiplication and an addition as two."""
        return 2.0 * self.batch * self.m * self.k * self.n * self.count

    @property
    def right(self) -> float:
        """Numbers of their right sides: weights, or keys and values."""
        return self.batch * self.k * self.n * self.count


def products(
    config: T5Config, rows: int, source: int, target: int, cached: int = 0
) -> dict[str, Product]:
    """Matrix products of a forward pass over ``rows`` of ``source`` and ``target`` positions. With
    ``cached`` positions in the cache they are those of a decode step, and ``target`` is 1.
    """
    c, joined = config, config.n_heads * config.d_kv
    encoder, decoder, heads = c.n_encoder_layers, c.n_decoder_layers, rows * c.n_heads
    mlp = 2 if c.mlp == "relu" else 3
    found = {
        "decoder projections": Product(1, rows * target, c.d_model, joined, 6 * decoder),
        "decoder mlp": Product(1, rows * target, c.d_model, c.d_ff, mlp * decoder),
        "self-attention": Product(heads, target, c.d_kv, cached or target, 2 * decoder),
        "cross-attention": Product(heads, target, c.d_kv, source, 2 * decoder),
        "logits": Product(1, rows * target, c.d_model, c.vocab_size, 1),
    }
    if not cached:
        of_source = 4 * encoder + 2 * decoder  # keys and values of the decoder are made of it
        found |= {
            "encoder projections": Product(1, rows * source, c.d_model, joined, of_source),
            "encoder mlp": Product(1, rows * source, c.d_model, c.d_ff, mlp * encoder),
            "encoder attention": Product(heads, source, c.d_kv, source, 2 * encoder),
        }
    return found


def best_seconds(function: Callable, *arguments, n: int = 10) -> float:
    """Least of n times that a function takes once it is compiled."""
    compiled = jax.jit(function).lower(*arguments).compile()
    jax.block_until_ready(compiled(*arguments))
    times = []
    for _ in range(n):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - start)
    return min(times)


def copy_rate() -> float:
    """Bytes a second, read and written, of a pass over a large array."""
    x = jnp.ones(2**26 if jax.default_backend() == "cpu" else 2**29, jnp.float32)
    return 2 * x.nbytes / best_seconds(lambda x: x + 1, x, n=5)


def product_seconds(product: Product, dtype: jnp.dtype) -> float:
    """Seconds of all products of one kind. They are timed in pairs, there and back, each pair from
    the result of the last, so that nothing is left out and starting a program costs nothing.
    """
    b, m, k, n, count = product
    repeats = 2 if jax.default_backend() == "cpu" else 16
    keys = jax.random.split(jax.random.key(0), 3)
    draw = lambda key, shape: jax.random.normal(key, shape, dtype)  # noqa: E731
    there = draw(keys[0], (b, k, n)) * jnp.asarray(k**-0.5, dtype)
    back = draw(keys[1], (b, n, k)) * jnp.asarray(n**-0.5, dtype)

    def run(x, there, back):
        return jax.lax.fori_loop(0, repeats, lambda _, x: (x @ there) @ back, x)

    return best_seconds(run, draw(keys[2], (b, m, k)), there, back, n=5) / (2 * repeats) * count


def product_times(found: dict[str, Product], dtype: jnp.dtype) -> dict[str, dict[str, float]]:
    """Milliseconds and TFLOP/s of each kind of product."""
    out = {}
    for name, product in found.items():
        seconds = product_seconds(product, dtype)
        out[name] = {"ms": 1e3 * seconds, "tflop_s": product.flops / seconds / 1e12}
    return out


def device_kind(torch=None) -> str:
    """The device's name, as its maker has it."""
    if torch is None:
        return jax.devices()[0].device_kind
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def share_of_peak(flops_per_second: float, torch=None) -> float | None:
    """Share of the peak in bfloat16 of the data sheet, None where it is not known."""
    peak = peak_flops(device_kind(torch))
    return peak and round(flops_per_second / peak, 4)


def peak_memory(torch=None) -> int:
    """Most bytes that were in use on the device at once; on a CPU those of the whole process."""
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    found = jax.devices()[0].memory_stats() if torch is None else None
    return (found or {}).get("peak_bytes_in_use") or (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )


def top_kernels(work: Callable[[], object], torch=None, most: int = 10) -> dict:
    """Profile ``work``, which returns when it is done: milliseconds of it, of the ``most`` kernels
    that take most, of the others, and in which the device did nothing. On a CPU, kernels are XLA's
    or torch's operations, several of which may run at once.
    """
    of = _torch_kernels if torch else _jax_kernels
    seconds, kernels = of(work, torch) if torch else of(work)
    order = sorted(kernels, key=lambda name: -kernels[name][0])
    ms = {name: kernels[name][0] for name in order}
    total = sum(ms.values())
    return {
        "profile_ms": round(1e3 * seconds, 3), "kernels_ms": round(total, 3),
        "idle_ms": round(max(0.0, 1e3 * seconds - total), 3),
        "other_kernels_ms": round(sum(ms[name] for name in order[most:]), 3),
        "top": [{"kernel": name[:100], "ms": round(ms[name], 3), "calls": kernels[name][1],
                 "share": round(ms[name] / total, 4)} for name in order[:most]],
    }  # fmt: skip


def _jax_kernels(work):
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            start = time.perf_counter()
            work()
            seconds = time.perf_counter() - start
        (file,) = Path(folder).rglob("*.xplane.pb")
        return seconds, kernels_of(jax.profiler.ProfileData.from_file(str(file)).planes)


def kernels_of(planes) -> dict[str, tuple[float, int]]:
    """Milliseconds and calls of each kernel in the planes of a profile."""
    planes, found = list(planes), collections.defaultdict(lambda: (0.0, 0))
    on_device = [plane for plane in planes if plane.name.startswith("/device:")]
    for plane in on_device or planes:
        every = list(plane.lines)
        # The other lines of a GPU group what its streams have done.
        streams = [line for line in every if line.name.startswith("Stream")]
        for event in (event for line in streams or every for event in line.events):
            # On a CPU, what else the host does, and loops, which hold other operations.
            if not on_device and (
                "hlo_op" not in dict(event.stats)
                or event.name.startswith(("while", "call", "cond"))
            ):
                continue
            ms, calls = found[event.name]
            found[event.name] = ms + event.duration_ns / 1e6, calls + 1
    return found


def _torch_kernels(work, torch):
    kinds = torch.profiler.ProfilerActivity
    cuda = torch.cuda.is_available()
    where = torch.autograd.DeviceType.CUDA if cuda else torch.autograd.DeviceType.CPU
    with torch.profiler.profile(activities=[kinds.CUDA if cuda else kinds.CPU]) as profile:
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start
    kernels = {}
    for event in profile.key_averages():
        us = event.self_device_time_total if cuda else event.self_cpu_time_total
        if us > 0 and event.device_type == where:
            kernels[event.key] = us / 1e3, event.count
    return seconds, kernels


def main() -> None:
    width = 256 if jax.default_backend() == "cpu" else 8192
    square = Product(1, width, width, width, 1)
    seconds = product_seconds(square, jnp.dtype("bfloat16"))
    there = [name for name in ("jax", "jaxlib", "flax", "optax", "torch", "transformers")
             if importlib.util.find_spec(name)]  # fmt: skip
    print(json.dumps({
        "device": device_kind(), "backend": jax.default_backend(), "copy_gb_s": copy_rate() / 1e9,
        "bfloat16_tflop_s": square.flops / seconds / 1e12, "square_product": width,
        "share_of_peak": share_of_peak(square.flops / seconds),
        "memory_bytes": (jax.devices()[0].memory_stats() or {}).get("bytes_limit"),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in there},
    }))  # fmt: skip


if __name__ == "__main__":
    main()
