"""A tiny role to train, for the tests of this folder, and as a script that can be killed.

``python tiny.py WORKDIR OUT.npz [field=value ...]`` trains it and writes the final parameters; with
``processes=N process=I port=P [fsdp=F]`` as one of N processes; with ``stop=S`` see ``stop_after``.
"""

import contextlib
import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from asesjax.config import base_config, finish
from asesjax.core.errors import Preempted
from asesjax.core.signals import noticed
from asesjax.core.types import Example
from asesjax.models.t5_config import T5Config

MODEL = T5Config(
    vocab_size=24, d_model=16, d_kv=8, d_ff=32, n_heads=2, n_encoder_layers=1, n_decoder_layers=1,
    dropout=0.1,
)  # fmt: skip
DRY = dataclasses.replace(MODEL, dropout=0.0)
# What the clock decides, and so may differ between two runs of the same thing.
TIMES = (
    "seconds", "tokens_per_second", "step_seconds", "flops_per_second", "flops_utilisation",
    "device_memory_bytes",
)  # fmt: skip


def config(**fields):
    """The train section for tiny runs: 8 rows, two shapes, a line every 3 steps."""
    fields = {
        "batch_size": 8, "tokens": 0, "steps": 24, "log_every_steps": 3, "save_every_steps": 5,
        "evaluate_every_share": 0.5, "source_buckets": (8, 16), "target_buckets": (8,),
        "optimizer": "adamw", "learning_rate": 1e-2, "schedule": "cosine", "warmup_share": 0.06,
        "final_share": 0.05, "weight_decay": 0.01, "beta1": 0.9, "beta2": 0.99, "clip_norm": 1.0,
        "normalize": "weights",
    } | fields  # fmt: skip
    c = base_config()
    for name, value in fields.items():
        c.train[name] = value
    return finish(c, {}).train


def examples(n=50, seed=0):
    """Reversed sequences with float weights; a third of the sources need the longer bucket."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        length = rng.integers(3, 7) if i % 3 else rng.integers(10, 15)
        ids = rng.integers(3, 24, length)
        targets = np.append(ids[::-1][:6], 1).astype(np.int32)
        weights = rng.choice([0.0, 0.5, 1.0, 2.0], len(targets)).astype(np.float32)
        weights[0] = 1.0
        out.append(Example(f"e{i}", np.append(ids, 1).astype(np.int32), targets, weights))
    return out


def leaves(tree):
    """Parameter names and numpy arrays."""
    return {jax.tree_util.keystr(p): np.asarray(x) for p, x in jax.tree.leaves_with_path(tree)}


def lines(workdir):
    """The lines of metrics.jsonl without what the clock decides."""
    from asesjax.core.metric_log import read_metrics

    rows = read_metrics(Path(workdir) / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def run(workdir, train_config=None, model=MODEL, n_steps=24, seed=3, items=None, **options):
    """Train the tiny role on one device, unless a mesh is given."""
    from asesjax.sharding.mesh import make_mesh
    from asesjax.training.loop import train

    options.setdefault("mesh", make_mesh(devices=jax.devices()[:1]))
    return train(
        train_config or config(), model, items or examples(), examples(20, seed=9), workdir,
        seed, n_steps=n_steps, **options,
    )  # fmt: skip


def stop_after(patch, step):
    """Have training stop after a step as if it was killed there: nothing is saved."""
    from asesjax.training.watch import StepTimes

    real = StepTimes.waits

    def waits(self, following, now, *what):
        if following == step + 1:
            raise Preempted(f"stopped after step {step}")
        real(self, following, now, *what)

    patch.setattr(StepTimes, "waits", waits)


@contextlib.contextmanager
def stopped(step):
    """Check that a block of training stops as ``stop_after`` says."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, step)
        with pytest.raises(Preempted, match=f"stopped after step {step}"):
            yield


def whole(tree):
    """Copies of arrays that may lie on the devices of several processes."""
    from asesjax.sharding.place import replicated

    mesh = jax.tree.leaves(tree)[0].sharding.mesh
    return jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)


if __name__ == "__main__":
    workdir, out = sys.argv[1:3]
    given = {name: int(value) for name, value in (pair.split("=") for pair in sys.argv[3:])}
    n_steps, options = given.pop("n_steps", 24), {}
    if "processes" in given:
        from asesjax.core.processes import check_same, start

        start(f"localhost:{given.pop('port')}", given.pop("processes"), given.pop("process"))
        check_same({})
        from asesjax.sharding.mesh import make_mesh
        from asesjax.sharding.place import rules

        options = {"mesh": make_mesh(fsdp=given.pop("fsdp", 1)), "rules": rules("fsdp")}
    import asesjax.training.loop  # noqa: F401  (before the line that tests wait for)

    if "stop" in given:
        stop_after(pytest.MonkeyPatch(), given.pop("stop"))
    print("ready", flush=True)
    with noticed():
        result = run(Path(workdir), config(**given), n_steps=n_steps, **options)
    params = whole(result.params)
    if jax.process_index() == 0:
        np.savez(out, **leaves(params))
