"""Where every parameter of a T5 v1.1 lies under each preset, against tables that were read.

After a wanted change: ``ASESJAX_WRITE_GOLDENS=1 pytest tests/sharding/test_describe.py``, then read
the difference.
"""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

from asesjax.models import t5
from asesjax.models.t5_config import T5Config
from asesjax.sharding.describe import describe
from asesjax.sharding.mesh import make_mesh
from asesjax.sharding.place import param_shardings
from asesjax.sharding.rules import PRESETS, rules

MODEL = T5Config(
    384, d_model=64, d_kv=16, d_ff=128, n_heads=4, n_encoder_layers=1, n_decoder_layers=2,
    mlp="gated-gelu", tied=False,
)  # fmt: skip
MESHES = {"dp": (8, 1, 1), "fsdp": (1, 8, 1), "tp": (2, 1, 4), "fsdp_tp": (1, 4, 2)}


@pytest.mark.parametrize("preset", PRESETS)
def test_golden(preset):
    mesh = make_mesh(*MESHES[preset])
    shapes = jax.eval_shape(lambda: t5.init(MODEL, jax.random.key(0)))
    axes = t5.logical_axes(MODEL)
    on = param_shardings(mesh, rules(preset), axes, shapes)
    got = describe(axes, shapes, on)
    path = Path(__file__).with_name("goldens") / f"{preset}.txt"
    if os.environ.get("ASESJAX_WRITE_GOLDENS") == "1":
        path.write_text(got)
    assert got == path.read_text()
    # And the bytes are those that a device holds.
    params = jax.device_put(t5.init(MODEL, jax.random.key(0)), on)
    first = jax.devices()[0]
    held = sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(params)
        for shard in leaf.addressable_shards
        if shard.device == first
    )
    assert got.splitlines()[-1].split()[-1] == str(held)
    assert f"{sum(np.prod(x.shape) for x in jax.tree.leaves(shapes)) * 4} bytes" in got
