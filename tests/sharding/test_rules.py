"""Where every parameter of a T5 v1.1 lies under each preset, against tables that were read.

After a wanted change: ``ASESJAX_WRITE_GOLDENS=1 pytest tests/sharding/test_rules.py``, then read
the difference.
"""

import math
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from asesjax.models import t5
from asesjax.models.t5_config import T5Config
from asesjax.sharding.mesh import make_mesh
from asesjax.sharding.place import PRESETS, param_shardings, rules

MODEL = T5Config(
    384, d_model=64, d_kv=16, d_ff=128, n_heads=4, n_encoder_layers=1, n_decoder_layers=2,
    mlp="gated-gelu", tied=False,
)  # fmt: skip
MESHES = {"dp": (8, 1, 1), "fsdp": (1, 8, 1), "tp": (2, 1, 4), "fsdp_tp": (1, 4, 2)}


def describe(axes_tree, shapes, shardings):
    """A line a parameter: path, shape, logical axes, mesh axes, bytes on each device; totals."""
    leaves = jax.tree.leaves_with_path(shapes)
    names = jax.tree.leaves(axes_tree, is_leaf=lambda x: isinstance(x, tuple))
    places = jax.tree.leaves(shardings)
    rows, total, held = [("parameter", "shape", "logical axes", "mesh axes", "bytes/device")], 0, 0
    for (path, leaf), axes, place in zip(leaves, names, places, strict=True):
        here = math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        total, held = total + leaf.size * leaf.dtype.itemsize, held + here
        rows.append(
            (
                jax.tree_util.keystr(path, simple=True, separator="/"),
                " x ".join(map(str, leaf.shape)),
                " ".join(axes),
                " ".join(axis or "-" for axis in place.spec),
                str(here),
            )
        )
    rows.append(("total", f"{total} bytes", "", "", str(held)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) for cell, width in zip(row[:-1], widths[:-1], strict=True)
        ) + "  " + row[-1].rjust(widths[-1])
        for row in rows
    ]  # fmt: skip
    mesh = ", ".join(f"{name} {size}" for name, size in places[0].mesh.shape.items())
    return "\n".join([f"mesh: {mesh}", *lines]) + "\n"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_parameter_lies_where_the_golden_table_says(preset):
    mesh = make_mesh(*MESHES[preset])
    shapes = jax.eval_shape(lambda: t5.init(MODEL, jax.random.key(0)))
    axes = t5.logical_axes(MODEL)
    on = param_shardings(mesh, rules(preset), axes, shapes)
    got = describe(axes, shapes, on)
    path = Path(__file__).with_name("goldens") / f"{preset}.txt"
    if os.environ.get("ASESJAX_WRITE_GOLDENS") == "1":
        path.write_text(got)
    assert got == path.read_text()
    # The bytes are those that a device holds.
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
