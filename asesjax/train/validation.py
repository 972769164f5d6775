"""The loss on validation, teacher forced."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from asesjax.core.types import Batch, Example, Params
from asesjax.data.batching import eval_batches
from asesjax.losses import LossSums
from asesjax.sharding.place import put_batch
from asesjax.train.step import PerShape


def validation_batches(train: Any, validation: Sequence[Example]) -> list[Batch]:
    """Return this process's rows of batches that hold every example once.

    Args:
      train: the ``train`` section.
      validation: may be empty.
    """
    if not validation:
        return []
    buckets = train.source_buckets, train.target_buckets
    share = jax.process_index(), jax.process_count()
    return list(eval_batches(validation, train.batch_size, *buckets, *share))


def validate(
    eval_fn: PerShape, params: Params, batches: Sequence[Batch], mesh: Mesh
) -> dict[str, float]:
    """Compute loss and token accuracy over all of validation.

    Args:
      eval_fn: from ``make_eval_step``.
      params: on the mesh.
      batches: from ``validation_batches``.
      mesh: of the parameters.

    Returns:
      ``validation_loss`` and ``validation_accuracy``; empty where there are no batches.
    """
    if not batches:
        return {}
    totals = [eval_fn(params, put_batch(mesh, batch)) for batch in batches]
    sums = LossSums(*np.sum(np.asarray(jax.device_get(totals), np.float64), axis=0).tolist())
    weight = sums.weight_sum
    return {
        "validation_loss": sums.nll_sum / weight if weight else 0.0,
        "validation_accuracy": sums.correct_sum / weight if weight else 0.0,
    }
