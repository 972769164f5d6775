"""The one training loop: every role of every method goes through ``train``.

The order in an iteration is evaluate, save, next batch, step. The batch is a function of the step
and the saved state is that after exactly ``step`` updates, so a run that was killed goes on bit
for bit.
"""

import dataclasses
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from asesjax.core.errors import Preempted, UserError
from asesjax.core.metric_log import MetricLog
from asesjax.core.types import Batch, Example, Params
from asesjax.data.batching import Plan, batch_at, eval_batches, make_plan
from asesjax.data.loader import prefetch
from asesjax.losses import LossSums
from asesjax.models import t5
from asesjax.sharding.mesh import make_mesh
from asesjax.sharding.place import batch_sharding as sharding_of_batches
from asesjax.sharding.place import param_shardings, put_batch, replicated
from asesjax.sharding.rules import rules as rules_of
from asesjax.train import checkpoint
from asesjax.train.checkpoint import Checkpoints
from asesjax.train.duration import evaluation_steps
from asesjax.train.meter import Clock, Meter, Progress
from asesjax.train.optim import check, make_optimizer
from asesjax.train.state import init_state, state_from_params, state_target
from asesjax.train.step import PerShape, make_eval_step, make_train_step

# Fields whose change makes it another run. The length counts in optimizer steps; microbatches,
# logging and saving change nothing but rounding.
_FIELDS_OF_IDENTITY = {
    "batch_size", "optimizer", "learning_rate", "schedule", "warmup_share", "final_share",
    "weight_decay", "beta1", "beta2", "clip_norm", "label_smoothing", "z_loss", "normalize",
    "source_buckets", "target_buckets",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a finished role hands on.

    Attributes:
      params: trained parameters, on the mesh.
      steps: optimizer steps, interruptions included; as are the next three.
      tokens: real source and target tokens.
      examples: examples, repetitions counted.
      seconds: of training: without compiling, evaluating and saving.
      kept_steps: steps of the checkpoints that are kept for learning curves, the last included.
      n_programs: training programs compiled by this call, one for each batch shape.
      compile_seconds: spent by this call on compiling training programs.
    """

    params: Params
    steps: int
    tokens: int
    examples: int
    seconds: float
    kept_steps: tuple[int, ...]
    n_programs: int = 0
    compile_seconds: float = 0.0


def train(
    train_config: Any,
    model_config: t5.T5Config,
    examples: Sequence[Example],
    validation: Sequence[Example],
    workdir: str | Path,
    seed: int,
    mesh: Mesh | None = None,
    rules: Any = None,
    init_params: Params | None = None,
    *,
    n_steps: int,
    role: str = "",
) -> TrainResult:
    """Train one role, or go on where it was interrupted, or return what it finished before.

    Writes ``metrics.jsonl``, ``tensorboard/`` and ``checkpoints/step_<n>`` into ``workdir``.

    Args:
      train_config: the ``train`` section of the configuration.
      model_config: shape of the model.
      examples: to learn from.
      validation: examples of the validation loss; may be empty.
      workdir: folder of this role alone.
      seed: of initialisation, dropout and the order of examples.
      mesh: devices; all of them as data parallel when None.
      rules: which logical axes are split over which mesh axes; those of "dp" when None.
      init_params: parameters to start from; drawn from ``seed`` when None.
      n_steps: optimizer steps, from ``duration.n_steps``.
      role: name in messages; the folder's when empty.

    Returns:
      A ``TrainResult``.

    Raises:
      UserError: a configuration that cannot be trained, a workdir of another run, or a loss that
        became NaN or infinite; then nothing is saved after the last good step.
      Preempted: after SIGTERM, with everything saved; or at ``train.stop_after_steps``, without.
    """
    check(train_config)
    workdir = Path(workdir)
    role = role or workdir.name
    folder = workdir / "checkpoints"
    mesh = make_mesh() if mesh is None else mesh
    rules = rules_of("dp") if rules is None else rules
    batches_on, whole = sharding_of_batches(mesh), replicated(mesh)
    _check_batch_size(train_config, batches_on)
    kept = tuple(evaluation_steps(n_steps, train_config.evaluate_every_share))

    optimizer = make_optimizer(train_config, n_steps)
    shapes = jax.eval_shape(lambda key: t5.init(model_config, key), jax.random.key(0))
    on = param_shardings(mesh, rules, t5.logical_axes(model_config), shapes)
    target = state_target(optimizer, shapes, on, mesh)
    identity = _identity(train_config, n_steps, len(examples), seed)

    restored = checkpoint.restore_newest(
        folder, target, lambda cursor: _check_identity(identity, cursor, workdir)
    )
    cursor = restored[1] if restored else {}
    if restored and cursor["step"] == n_steps:
        return _result(restored[0].params, cursor, kept)

    # Made on the mesh, so that it works where a process sees only some of the devices.
    make_keys = jax.jit(lambda: jax.random.split(jax.random.key(seed)), out_shardings=whole)
    init_key, step_key = make_keys()
    if restored:
        state = restored[0]
    elif init_params is None:
        state = init_state(optimizer, target, lambda key: t5.init(model_config, key), init_key)
    else:
        state = state_from_params(optimizer, target, init_params)
    first = int(cursor.get("step", 0))

    plan = make_plan(
        examples,
        train_config.batch_size,
        train_config.source_buckets,
        train_config.target_buckets,
        seed,
    )
    step_fn = make_train_step(
        model_config, train_config, n_steps, optimizer, target, batches_on
    )
    eval_fn = make_eval_step(model_config, target, batches_on)
    checked = _validation_batches(train_config, validation)

    def diverged(step: int, what: str) -> UserError:
        ids = [examples[i].id for i in batch_at(plan, examples, step - 1)["example_index"]]
        more = f" and {len(ids) - 8} more" if len(ids) > 8 else ""
        saves.wait()
        return UserError(
            f"role {role}: {what} at step {step}, in the batch of examples "
            f"{', '.join(ids[:8])}{more}. Training stopped; the last checkpoint is "
            f"{_newest(folder)}. Lower train.learning_rate, set train.clip_norm, or look at these "
            "examples"
        )

    with ExitStack() as stack:
        is_first_process = jax.process_index() == 0
        log = stack.enter_context(MetricLog(workdir, first)) if is_first_process else None
        saves = Checkpoints(folder, kept)
        stack.callback(saves.close)
        progress = Progress(role, n_steps, first, quiet=not is_first_process)
        stack.callback(progress.close)
        stopping = stack.enter_context(_on_sigterm())
        feed = prefetch(_feed(plan, examples, first, n_steps, mesh))
        stack.callback(feed.close)
        clock = Clock(cursor.get("seconds", 0.0))
        meter = Meter(
            log, clock, train_config.log_every_steps, n_steps, cursor, diverged, progress
        )

        def save() -> dict[str, Any]:
            meter.flush()
            with clock.paused():
                if log is not None:
                    log.sync()
                cursor = identity | meter.carry() | {"step": step}
                saves.save(state, cursor)
            return cursor

        step, saved = first, first if restored else -1
        while True:
            if step in kept and step > first:
                meter.flush()
                with clock.paused():
                    _evaluate(eval_fn, state.params, checked, mesh, step, meter, log, progress)
            if step > first and (step in kept or _is_due(step, train_config.save_every_steps)):
                cursor, saved = save(), step
            if step == n_steps:
                break
            if _must_stop(stopping, step):
                if saved != step:
                    save()
                saves.wait()
                raise Preempted(
                    f"role {role} stopped by SIGTERM after step {step} of {n_steps}; saved, the "
                    "same command goes on"
                )
            if first < step == train_config.stop_after_steps:
                meter.flush()
                saves.wait()
                raise Preempted(
                    f"role {role} stopped after step {step} of {n_steps} as "
                    "train.stop_after_steps asks; nothing saved here, the same command with "
                    "--config.train.stop_after_steps=0 goes on from the last checkpoint"
                )
            batch = next(feed)
            before = step_fn.compile_seconds
            state, metrics = step_fn(state, batch, step_key)
            clock.skip(step_fn.compile_seconds - before)
            step += 1
            meter.add(step, metrics)
        saves.wait()
    return dataclasses.replace(
        _result(state.params, cursor, kept),
        n_programs=len(step_fn.programs),
        compile_seconds=step_fn.compile_seconds,
    )


def _feed(
    plan: Plan, examples: Sequence[Example], first: int, last: int, mesh: Mesh
) -> Iterator[Batch]:
    """Yield the batches of the steps [first, last), on the devices."""
    for step in range(first, last):
        batch = batch_at(plan, examples, step, jax.process_index(), jax.process_count())
        yield put_batch(mesh, batch)


def _validation_batches(train_config: Any, validation: Sequence[Example]) -> list[Batch]:
    if not validation:
        return []
    buckets = train_config.source_buckets, train_config.target_buckets
    share = jax.process_index(), jax.process_count()
    return list(eval_batches(validation, train_config.batch_size, *buckets, *share))


def _evaluate(
    eval_fn: PerShape,
    params: Params,
    batches: list[Batch],
    mesh: Mesh,
    step: int,
    meter: Meter,
    log: MetricLog | None,
    progress: Progress,
) -> None:
    """Compute the loss of the whole of validation, teacher forced, and log it."""
    if not batches:
        return
    totals = [eval_fn(params, put_batch(mesh, batch)) for batch in batches]
    sums = LossSums(*np.sum(np.asarray(jax.device_get(totals), np.float64), axis=0).tolist())
    loss, accuracy = (
        total / sums.weight_sum if sums.weight_sum else 0.0
        for total in (sums.nll_sum, sums.correct_sum)
    )
    carried = meter.carry()
    if log is not None:
        log.write(
            "validation",
            step,
            validation_loss=loss,
            validation_accuracy=accuracy,
            tokens=carried["totals"]["source_tokens"] + carried["totals"]["target_tokens"],
            seconds=round(carried["seconds"], 3),
        )
    progress.say(f"step {step}: validation loss {loss:.4f}, token accuracy {accuracy:.4f}")


def _identity(train_config: Any, n_steps: int, n_examples: int, seed: int) -> dict[str, Any]:
    """Name what a continued run must share with its beginning to be the same run."""
    identity = {f"train.{name}": train_config[name] for name in sorted(_FIELDS_OF_IDENTITY)}
    identity = {k: list(v) if isinstance(v, tuple) else v for k, v in identity.items()}
    return identity | {"optimizer steps": n_steps, "training examples": n_examples, "seed": seed}


def _check_identity(wanted: dict[str, Any], cursor: dict[str, Any], workdir: Path) -> None:
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


def _check_batch_size(train_config: Any, batches_on: NamedSharding) -> None:
    size = batches_on.mesh.size
    shards = size // batches_on.shard_shape((size,))[0]
    rows = train_config.batch_size // train_config.microbatches
    if rows % shards:
        raise UserError(
            f"train.batch_size {train_config.batch_size} in {train_config.microbatches} "
            f"microbatches gives {rows} rows, which {shards} devices (mesh axes data and fsdp) "
            f"cannot share evenly; make train.batch_size a multiple of "
            f"{shards * train_config.microbatches}, or change mesh.data and mesh.fsdp"
        )


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _newest(folder: Path) -> str:
    there = checkpoint.steps(folder)
    return str(checkpoint.step_folder(folder, there[-1])) if there else "none"


def _result(params: Params, cursor: dict[str, Any], kept: tuple[int, ...]) -> TrainResult:
    totals = cursor["totals"]
    return TrainResult(
        params=params,
        steps=cursor["step"],
        tokens=totals["source_tokens"] + totals["target_tokens"],
        examples=totals["examples"],
        seconds=cursor["seconds"],
        kept_steps=kept,
    )


@contextmanager
def _on_sigterm() -> Iterator[threading.Event]:
    """Set an event on SIGTERM, where a signal can be handled and jax does not do it."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
        yield event
        return
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)


def _must_stop(event: threading.Event, step: int) -> bool:
    """Tell whether SIGTERM came; several processes agree on the same step."""
    if jax.process_count() > 1:
        return multihost_utils.reached_preemption_sync_point(step)
    return event.is_set()
