"""A readable table of where parameters lie, one line each."""

import math
from typing import Any

import jax
from jax.sharding import NamedSharding


def describe(axes_tree: Any, shapes: Any, shardings: Any) -> str:
    """Write one line a parameter and a line of totals.

    Args:
      axes_tree: from ``t5.logical_axes``: a tuple of names in the place of every array.
      shapes: the parameters, or ``jax.ShapeDtypeStruct`` in their places.
      shardings: from ``param_shardings``.

    Returns:
      Lines of path, shape, logical axes, mesh axes (``-`` where whole) and bytes on each device,
      in columns; the mesh in the first line.
    """
    leaves = jax.tree.leaves_with_path(shapes)
    names = jax.tree.leaves(axes_tree, is_leaf=lambda x: isinstance(x, tuple))
    places: list[NamedSharding] = jax.tree.leaves(shardings)
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
