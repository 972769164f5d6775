"""The training step and the evaluation step: one compiled program for each batch shape.

The state is donated. A step reports all numbers in one float32 vector, because fetching one small
array costs what fetching a dozen would cost each.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from asesjax import losses
from asesjax.core.errors import UserError
from asesjax.core.types import Params
from asesjax.models.t5_config import T5Config
from asesjax.sharding.place import on_mesh, replicated
from asesjax.training.objective import Objective, as_objective
from asesjax.training.optim import training_weights, without_frozen
from asesjax.training.state import TrainState, shardings

# What the vector of a training step holds. The sums run over the whole batch; source and target
# tokens are the real ones, positions counts padding too. A step whose update was skipped
# (train.skip_nonfinite) has skipped 1 and 0 for its sums and norms.
_OF_UPDATE = (*losses.LossSums._fields, "normalizer", "grad_norm", "update_norm")
METRICS = (
    *_OF_UPDATE, "learning_rate", "source_tokens", "target_tokens", "examples", "positions",
    "skipped",
)  # fmt: skip


class PerShape:
    """A function ``f(state, batch, ...)`` on a mesh, with options of ``jax.jit``, compiled once for
    each batch shape. Arrays of another type or sharding raise instead of compiling again.
    """

    def __init__(self, mesh: Mesh, function: Callable, **options: Any):
        self._jitted = jax.jit(on_mesh(mesh, function), **options)
        self.programs: dict[tuple[int, int], Any] = {}  # by batch shape (S, T)
        self.compile_seconds = 0.0
        self.on_compile: Callable[[str], None] = lambda what: None  # told before a shape compiles

    def lower(self, *arguments: Any) -> jax.stages.Lowered:
        """Trace the function for arrays of the arguments' shapes and shardings."""
        return self._jitted.lower(*arguments)

    def __call__(self, state: Any, batch: dict[str, jax.Array], *rest: Any) -> Any:
        """Run the program of the batch's shape; compile it if it is new."""
        shape = (batch["encoder_input_tokens"].shape[1], batch["decoder_input_tokens"].shape[1])
        if shape not in self.programs:
            self.on_compile(f"compiling {shape[0]} x {shape[1]}")
            start = time.perf_counter()
            self.programs[shape] = self.lower(state, batch, *rest).compile()
            self.compile_seconds += time.perf_counter() - start
        return self.programs[shape](state, batch, *rest)


def check_batch_size(train: Any, batches_on: NamedSharding) -> None:
    """Refuse microbatches whose rows the devices cannot share evenly."""
    size = batches_on.mesh.size
    shards = size // batches_on.shard_shape((size,))[0]
    rows = train.batch_size // train.parts
    if rows % shards:
        raise UserError(
            f"train.batch_size {train.batch_size} in {train.parts} "
            f"microbatches gives {rows} rows, which {shards} devices (mesh axes data and fsdp) "
            f"cannot share evenly; make train.batch_size a multiple of "
            f"{shards * train.parts}, or change mesh.data and mesh.fsdp"
        )


def loss_and_gradients(
    model: T5Config | Objective,
    train: Any,
    params: Params,
    batch: dict[str, jax.Array],
    key: jax.Array | None,
    split: Callable[[jax.Array], jax.Array] | None = None,
) -> tuple[losses.LossSums, jax.Array, Params]:
    """Compute the sums of a batch, the number they are divided by, and the gradient divided by it.
    With ``train.microbatches`` above 1 the batch is cut and the parts run one after another; sums
    and gradients are added and divided once, so the result does not depend on the cut. ``split``
    places a [M, B/M, ...] array on the mesh; ``key`` is None for a loss without random numbers.
    """
    n_parts = train.parts
    objective = as_objective(model)

    def part_loss(p, part, key):
        sums = objective.loss(without_frozen(train, p), part, key, train)
        return sums.loss_sum, sums

    gradient = jax.grad(part_loss, has_aux=True)
    if n_parts == 1:
        grads, sums = gradient(params, batch, key)
    else:
        # [B, ...] -> [M, B/M, ...]; parts take rows of each device in turn, so that no row moves.
        parts = {
            name: jnp.swapaxes(x.reshape(-1, n_parts, *x.shape[1:]), 0, 1)
            for name, x in batch.items()
        }
        if split is not None:
            parts = {name: split(x) for name, x in parts.items()}

        def add_part(total, numbered):
            number, part = numbered
            own_key = None if key is None else jax.random.fold_in(key, number)
            return jax.tree.map(jnp.add, total, gradient(params, part, own_key)), None

        zero = jnp.float32(0.0)
        start = jax.tree.map(jnp.zeros_like, params), losses.LossSums(zero, zero, zero, zero)
        (grads, sums), _ = jax.lax.scan(add_part, start, (jnp.arange(n_parts), parts))
    divisor = losses.normalizer(sums, losses.count_examples(batch), train.normalize)
    scale = losses.inverse(divisor)
    return sums, divisor, jax.tree.map(lambda g: g * scale, grads)


def make_train_step(
    model: T5Config | Objective,
    train: Any,
    optimizer: optax.GradientTransformation,
    target: TrainState,
    batch_sharding: NamedSharding,
) -> PerShape:
    """Build ``step(state, batch, key) -> (state, metrics)``, with the state donated. ``target`` is
    from ``state.state_target``. Random numbers depend on the run's key and on the step alone.
    ``metrics`` is a float32 vector, see ``METRICS``.
    """
    mesh = batch_sharding.mesh
    assert isinstance(mesh, Mesh)
    objective = as_objective(model)
    parts_sharding = NamedSharding(mesh, PartitionSpec(None, *batch_sharding.spec))
    split = functools.partial(jax.lax.with_sharding_constraint, shardings=parts_sharding)

    def step(state: TrainState, batch: dict[str, jax.Array], key: jax.Array):
        step_key = jax.random.fold_in(key, state.step) if objective.draws else None
        weights = training_weights(state.params, state.opt_state)
        sums, divisor, grads = loss_and_gradients(objective, train, weights, batch, step_key, split)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        source, decoder = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
        values = dict(
            sums._asdict(),
            normalizer=divisor,
            grad_norm=optax.tree.norm(grads),
            update_norm=optax.tree.norm(updates),
            learning_rate=optax.tree.get(opt_state, "learning_rate"),
            source_tokens=jnp.sum(source != 0),
            target_tokens=jnp.sum(decoder != 0),
            examples=losses.count_examples(batch),
            positions=source.size + decoder.size,
            skipped=0,
        )
        if train.skip_nonfinite:
            good = jnp.isfinite(sums.loss_sum) & jnp.isfinite(values["grad_norm"])
            keep = functools.partial(jnp.where, good)
            params, opt_state = jax.tree.map(
                keep, (params, opt_state), (state.params, state.opt_state)
            )
            values |= {name: keep(values[name], 0.0) for name in _OF_UPDATE}
            values["skipped"] = ~good
        metrics = jnp.stack([jnp.float32(values[name]) for name in METRICS])
        return TrainState(state.step + 1, params, opt_state), metrics

    where = shardings(target)
    return PerShape(
        mesh, step, in_shardings=(where, batch_sharding, replicated(mesh)),
        out_shardings=(where, replicated(mesh)), donate_argnums=0,
    )  # fmt: skip


def make_eval_step(
    model: T5Config | Objective, train: Any, target: TrainState, batch_sharding: NamedSharding
) -> PerShape:
    """Build ``evaluate(params, batch)``, which returns ``LossSums`` as a float32 vector."""
    mesh = batch_sharding.mesh
    assert isinstance(mesh, Mesh)
    objective = as_objective(model)

    def evaluate(params: Params, batch: dict[str, jax.Array]):
        return jnp.stack(objective.evaluate(params, batch, train))

    on = shardings(target).params, batch_sharding
    return PerShape(mesh, evaluate, in_shardings=on, out_shardings=replicated(mesh))


def named(metrics: np.ndarray) -> dict[str, float]:
    """Return the metrics of a training step's vector by name."""
    return dict(zip(METRICS, metrics.tolist(), strict=True))
