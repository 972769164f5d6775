"""What makes a training run the one it is, and what it cannot be."""

from pathlib import Path
from typing import Any

from jax.sharding import NamedSharding

from asesjax.core.errors import UserError

# Fields whose change makes it another run. The length counts in optimizer steps; microbatches,
# logging and saving change nothing but rounding.
_FIELDS = {
    "batch_size", "optimizer", "learning_rate", "schedule", "warmup_share", "final_share",
    "weight_decay", "beta1", "beta2", "clip_norm", "label_smoothing", "z_loss", "normalize",
    "source_buckets", "target_buckets", "packed_length", "rate_factors", "ema_decay",
}  # fmt: skip


def identity(train: Any, n_steps: int, n_examples: int, seed: int) -> dict[str, Any]:
    """Name what a continued run must share with its beginning to be the same run.

    Args:
      train: the ``train`` section.
      n_steps: of the run.
      n_examples: to learn from.
      seed: of the run.

    Returns:
      JSON values, kept in the cursor of each checkpoint.
    """
    fields = {f"train.{name}": getattr(train, name) for name in sorted(_FIELDS)}
    fields = {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
    return fields | {"optimizer steps": n_steps, "training examples": n_examples, "seed": seed}


def check_identity(wanted: dict[str, Any], cursor: dict[str, Any], workdir: Path) -> None:
    """Refuse the checkpoint of another run.

    Args:
      wanted: from ``identity``.
      cursor: of the checkpoint.
      workdir: named in the error.

    Raises:
      UserError: something differs.
    """
    wrong = [
        f"{name} was {cursor[name]!r} and is now {value!r}"
        for name, value in wanted.items()
        if name in cursor and cursor[name] != value
    ]
    if wrong:
        raise UserError(
            f"{workdir} holds checkpoints of another run: {'; '.join(wrong)}; restore that, or "
            "give another workdir"
        )


def check_batch_size(train: Any, batches_on: NamedSharding) -> None:
    """Check that the devices can share the rows of a microbatch.

    Args:
      train: the ``train`` section.
      batches_on: sharding of batches.

    Raises:
      UserError: they cannot.
    """
    size = batches_on.mesh.size
    shards = size // batches_on.shard_shape((size,))[0]
    rows = train.batch_size // train.microbatches
    if rows % shards:
        raise UserError(
            f"train.batch_size {train.batch_size} in {train.microbatches} "
            f"microbatches gives {rows} rows, which {shards} devices (mesh axes data and fsdp) "
            f"cannot share evenly; make train.batch_size a multiple of "
            f"{shards * train.microbatches}, or change mesh.data and mesh.fsdp"
        )
