"""Compiled passes over data: on the devices of a mesh, shared by the processes of a run.

Where the mesh is a process's own, each process does its part by itself, and ``all_gather`` joins
the parts. Where the mesh goes over all processes, they do everything together, and none has to
give another anything. What comes out does not depend on it, but for last bits.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from asesjax.core.processes import all_gather, apart, check_stop_together, part
from asesjax.core.signals import check_stop
from asesjax.core.types import Batch, Example
from asesjax.data.batching import eval_batches
from asesjax.sharding.place import divisible, fetch, on_mesh, put_batch


def n_parts(mesh: Mesh | None) -> int:
    """Return how many processes share a pass over data, each on a mesh of its own."""
    return 1 if mesh is None or mesh.is_multi_process else part()[1]


def in_parts(
    items: Sequence[Any], work: Callable[[Sequence[Any]], list[Any]], mesh: Mesh | None
) -> list[Any]:
    """Do ``work`` on ``items``, each process on every P-th of them; return the results, JSON values
    in the order of ``items``, in every process.
    """
    count, began = n_parts(mesh), time.monotonic()
    if count == 1:
        return work(items)
    with apart():
        own = work(items[part()[0] :: count])
    out: list[Any] = [None] * len(items)
    data = json.dumps(own).encode()
    for i, found in enumerate(all_gather(data, time.monotonic() - began)):
        out[i::count] = json.loads(found)
    return out


def by_itself(mesh: Mesh | None) -> contextlib.AbstractContextManager[None]:
    """Return the block of what each process does ``apart``, unless all do it together."""
    return apart() if n_parts(mesh) > 1 else contextlib.nullcontext()


def stop_check(mesh: Mesh | None) -> Callable[[], None]:
    """Return what a loop over batches calls: the processes of a mesh stop at the same batch."""
    return check_stop if mesh is None or not mesh.is_multi_process else check_stop_together


def map_batches(
    function: Callable[[Batch], Any], examples: Sequence[Example], source_buckets: Sequence[int],
    target_buckets: Sequence[int], batch_size: int = 64, mesh: Mesh | None = None,
) -> list[Any]:  # fmt: skip
    """Apply a compiled function of a batch to examples; return each one's row of the result, in
    every process. Each takes its rows of each batch, as in training, so that shapes do not depend
    on their number.
    """
    n, (index, processes) = n_parts(mesh), part()
    rows = n * divisible(-(-batch_size // n), mesh)
    parts = (index, processes) if mesh is not None else (0, 1)
    first = 0  # of this process's rows in a result
    if mesh is not None:
        function = on_mesh(mesh, function)
        first = index * (rows // processes) if mesh.is_multi_process else 0
    check = stop_check(mesh)
    found: dict[int, list[np.ndarray]] = {}
    tree, began = None, time.monotonic()
    with by_itself(mesh):
        for batch in eval_batches(examples, rows, source_buckets, target_buckets, *parts):
            check()
            placed: Any = batch if mesh is None else put_batch(mesh, batch)
            leaves, tree = jax.tree.flatten(fetch(function(placed), mesh))
            for row, number in enumerate(batch["example_index"].tolist()):
                if number >= 0:
                    found[number] = [leaf[first + row] for leaf in leaves]
    if parts[1] > 1:
        gathered = all_gather(_packed(found), time.monotonic() - began)
        found = dict(pair for own in gathered for pair in _unpacked(own))
    return [jax.tree.unflatten(tree, found[i]) for i in range(len(examples))]


def _packed(found: dict[int, list[np.ndarray]]) -> bytes:
    """A line of JSON with numbers, dtypes and shapes, and then the arrays."""
    head = [[number, [[str(leaf.dtype), leaf.shape] for leaf in own]]
            for number, own in found.items()]  # fmt: skip
    arrays = (leaf.tobytes() for own in found.values() for leaf in own)
    return b"".join([json.dumps(head).encode(), b"\n", *arrays])


def _unpacked(data: bytes) -> Iterator[tuple[int, list[np.ndarray]]]:
    head, _, rest = data.partition(b"\n")
    start = 0
    for number, leaves in json.loads(head):
        own = []
        for dtype, shape in leaves:
            size = math.prod(shape)
            own.append(np.frombuffer(rest, dtype, size, start).reshape(shape))
            start += own[-1].nbytes
        yield number, own
