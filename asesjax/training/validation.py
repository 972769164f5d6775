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
from asesjax.training.step import PerShape


def validation_batches(train: Any, validation: Sequence[Example]) -> dict[str, list[Batch]]:
    """Return, for each kind of example, this process's rows of batches of all examples. All kinds
    have the same batches, with weight 0 on the others, so that few shapes are compiled.
    """
    if not validation:
        return {}
    kinds = np.array([example.kind for example in validation])
    buckets = train.source_buckets, train.target_buckets
    share = jax.process_index(), jax.process_count()
    batches = list(eval_batches(validation, train.batch_size, *buckets, *share))

    def only(kind: str, batch: Batch) -> Batch:
        wanted = (kinds[batch["example_index"]] == kind)[:, None]
        return batch | {"decoder_loss_weights": batch["decoder_loss_weights"] * wanted}

    names = np.unique(kinds).tolist()
    if len(names) == 1:
        return {names[0]: batches}
    return {kind: [only(kind, batch) for batch in batches] for kind in names}


def validate(
    eval_fn: PerShape, params: Params, batches: dict[str, list[Batch]], mesh: Mesh
) -> dict[str, float]:
    """Compute ``validation_loss``, ``validation_accuracy`` and, for several kinds of examples, a
    ``validation_loss_<kind>`` each; nothing without batches.
    """
    if not batches:
        return {}
    # All batches are dispatched before the first result is fetched.
    totals = {
        kind: [eval_fn(params, put_batch(mesh, batch)) for batch in mine]
        for kind, mine in batches.items()
    }
    of_kind: dict[str, Any] = {
        kind: LossSums(*np.sum(np.asarray(jax.device_get(mine), np.float64), axis=0).tolist())
        for kind, mine in totals.items()
    }
    sums = LossSums(*(sum(own) for own in zip(*of_kind.values(), strict=True)))
    mean = lambda total, weight: total / weight if weight else 0.0  # noqa: E731
    values = {
        "validation_loss": mean(sums.nll_sum, sums.weight_sum),
        "validation_accuracy": mean(sums.correct_sum, sums.weight_sum),
    }
    if len(of_kind) > 1:
        for kind, part in of_kind.items():
            values[f"validation_loss_{kind or 'chain'}"] = mean(part.nll_sum, part.weight_sum)
    return values
