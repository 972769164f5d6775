"""The one training loop: every role of every method goes through ``train``.

The order in an iteration is evaluate, save, next batch, step. The batch is a function of the step,
and the saved state is that after exactly ``step`` updates, so a killed run resumes bit for bit.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from asesjax.core.errors import UserError
from asesjax.core.metric_log import MetricLog
from asesjax.core.processes import all_stop, is_first, share_files
from asesjax.core.progress import Progress
from asesjax.core.signals import stopped
from asesjax.core.types import Example, Params
from asesjax.data.batching import batch_at, make_plan, prefetch
from asesjax.models.t5_config import T5Config
from asesjax.sharding.mesh import make_mesh
from asesjax.sharding.place import batch_sharding as sharding_of_batches
from asesjax.sharding.place import param_shardings, put_batch, replicated
from asesjax.sharding.place import rules as rules_of
from asesjax.training import checkpoint
from asesjax.training.checkpoint import Checkpoints
from asesjax.training.describe import Description
from asesjax.training.duration import (
    UNITS,
    best_step,
    check_early_stopping,
    evaluation_steps,
    gave_up,
)
from asesjax.training.meter import Clock, Meter, mesh_peak_flops
from asesjax.training.objective import Objective, as_objective
from asesjax.training.optim import check, make_optimizer
from asesjax.training.options import OF_ROLES
from asesjax.training.state import (
    TrainState,
    check_identity,
    identity,
    init_state,
    state_from_params,
    state_target,
)
from asesjax.training.step import PerShape, check_batch_size, make_eval_step, make_train_step
from asesjax.training.validation import validate, validation_batches
from asesjax.training.watch import Profile, watching


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """A finished role."""

    params: Params  # trained parameters after the last step, on the mesh
    steps: int  # optimizer steps; it and the next three count from step 0, not from the last resume
    tokens: int  # real source and target tokens
    examples: int  # examples, repetitions counted
    seconds: float  # of training, without compiling, evaluating and saving
    kept_steps: tuple[int, ...]  # of checkpoints kept for learning curves, one for each evaluation
    # step of the selected checkpoint: the best by ``train.keep_best`` of ``OF_ROLES``, or the last
    best_step: int
    n_examples: int  # different ones
    evaluations: Sequence[dict[str, Any]] = ()  # step and measures of each
    n_programs: int = 0  # training programs that this call compiled, one for each batch shape
    compile_seconds: float = 0.0  # that this call took to compile them


def train(
    train_config: Any,
    model: T5Config | Objective,
    examples: Sequence[Example],
    validation: Sequence[Example],
    workdir: str | Path,
    seed: int,
    mesh: Mesh | None = None,
    rules: Any = None,
    init_params: Params | None = None,
    *,
    n_steps: int,
    until: int | None = None,
    role: str = "",
    description: Description | None = None,
    open_log: Callable[..., MetricLog] = MetricLog,
) -> TrainResult:
    """Train one role, or resume it, or return its result if it is finished.

    Writes ``checkpoints/step_<n>`` into ``workdir``, a folder of this role alone, what the trackers
    of ``open_log`` write (``metrics.jsonl``, ``tensorboard/``), and ``profile/`` on request.
    ``seed`` sets initialisation (without ``init_params``), dropout and the order of examples.
    ``mesh`` None makes all devices data parallel, ``rules`` None takes those of "dp". ``until``
    saves and stops after so many of ``n_steps``; a later call resumes, perhaps on other examples of
    the same number.
    ``train.patience`` may stop earlier.

    Raises UserError for a configuration that cannot be trained, a workdir of another run or one
    that cannot be written, or a loss that became NaN or infinite (nothing is saved after the last
    good step), and Preempted or KeyboardInterrupt after SIGTERM or Ctrl-C, with everything saved.
    """
    check(train_config)
    check_early_stopping(train_config, len(validation))
    workdir = Path(workdir)
    role = role or workdir.name
    folder = workdir / "checkpoints"
    mesh = make_mesh() if mesh is None else mesh
    rules = rules_of("dp") if rules is None else rules
    batches_on, whole = sharding_of_batches(mesh), replicated(mesh)
    check_batch_size(train_config, batches_on)
    objective = as_objective(model)
    last = n_steps if until is None else min(until, n_steps)
    kept = evaluation_steps(n_steps, train_config.evaluate_every_share)
    profile = Profile(workdir / "profile", train_config)

    optimizer = make_optimizer(train_config, n_steps)
    # Rows that differ in these alone share what is compiled.
    of_programs = dataclasses.replace(train_config, records=0, **dict.fromkeys(UNITS, 0))
    target, step_fn, eval_fn = _programs(objective, of_programs, mesh, tuple(rules.items()))
    compiled_before = len(step_fn.programs), step_fn.compile_seconds
    mine = identity(train_config, n_steps, len(examples), seed)

    restored = checkpoint.restore_newest(
        folder, target, lambda cursor: check_identity(mine, cursor, workdir)
    )
    cursor = restored[1] if restored else {}
    evaluations = list(cursor.get("evaluations", ()))
    step = first = int(cursor.get("step", 0))
    finished = lambda: step >= last or (step in kept and gave_up(evaluations, train_config))  # noqa: E731
    if restored and finished():
        return _result(restored[0].params, cursor, kept, train_config, len(examples))

    # Made on the mesh, because a process may see only some of the devices.
    make_keys = jax.jit(lambda: jax.random.split(jax.random.key(seed)), out_shardings=whole)
    init_key, step_key = make_keys()
    if restored:
        state = restored[0]
    elif init_params is None:
        state = init_state(optimizer, target, objective.init, init_key)
    else:
        state = state_from_params(optimizer, target, init_params)

    plan = make_plan(
        examples, train_config.batch_size, train_config.source_buckets,
        train_config.target_buckets, seed, packed_length=train_config.packed_length,
        n_steps=n_steps,
    )  # fmt: skip
    checked = validation_batches(train_config, validation)

    def diverged(step: int, what: str) -> UserError:
        rows = batch_at(plan, examples, step - 1)["example_index"]
        ids = [examples[i].id for i in rows.ravel() if i >= 0]
        more = f" and {len(ids) - 8} more" if len(ids) > 8 else ""
        saves.wait()
        return UserError(
            f"role {role}: {what} at step {step}, in the batch of examples "
            f"{', '.join(ids[:8])}{more}. Training stopped; the last checkpoint is "
            f"{_newest(folder)}. Lower train.learning_rate, set train.clip_norm, or look at these "
            "examples"
        )

    with ExitStack() as stack:
        log = None
        if is_first():
            written = cursor.get("metrics", (0, 0))
            log = stack.enter_context(open_log(workdir, first, written, checkpoint.warn))
        saves = Checkpoints(folder, kept, train_config.keep_last, description)
        stack.callback(saves.close)
        progress = Progress(role, n_steps, first, "step", quiet=not is_first())
        stack.callback(progress.close)
        stack.callback(profile.close)
        share = jax.process_index(), jax.process_count()
        feed = prefetch(
            put_batch(mesh, batch_at(plan, examples, i, *share)) for i in range(first, last)
        )
        stack.callback(feed.close)
        watch = stack.enter_context(watching(progress.say))
        clock = Clock(cursor.get("seconds", 0.0))
        meter = Meter(
            log, clock, train_config.log_every_steps, n_steps, cursor, diverged, progress,
            objective.token_flops, mesh_peak_flops(mesh), mesh.local_devices[0],
        )  # fmt: skip

        def on_compile(what: str) -> None:
            progress.show(step, f"{what} for step {step + 1}")
            watch.waits(step + 1, time.perf_counter(), what)

        step_fn.on_compile = on_compile
        eval_fn.on_compile = lambda what: progress.show(step, f"{what} for the evaluation")

        def evaluate() -> None:
            meter.flush()
            with clock.paused():
                values = validate(eval_fn, state.params, checked, mesh)
            if not values:
                return
            evaluations.append({"step": step} | values)
            carried = meter.carry()
            tokens = carried["totals"]["source_tokens"] + carried["totals"]["target_tokens"]
            times = {"tokens": tokens, "seconds": round(carried["seconds"], 3)}
            if log is not None:
                log.write("validation", step, **values, **times)
            progress.say(
                f"step {step}: validation loss {values['validation_loss']:.4f}, "
                f"token accuracy {values['validation_accuracy']:.4f}"
            )

        def save() -> dict[str, Any]:
            meter.flush()
            with clock.paused():
                cursor = mine | meter.carry() | {"step": step, "evaluations": evaluations}
                if log is not None:
                    cursor["metrics"] = log.sync()
                saves.save(state, cursor)
            return cursor

        saved = first if restored else -1
        while True:
            if step in kept and step > first:
                evaluate()
            every = train_config.save_every_steps
            due = step in kept or step == last or (every > 0 and step % every == 0)
            if step > first and due:
                cursor, saved = save(), step
            if finished():
                break
            if all_stop():
                if saved != step:
                    save()
                saves.wait()
                raise stopped(
                    f"role {role} stopped by {{signal}} after step {step} of {n_steps}; saved, the "
                    "same command resumes"
                )
            watch.waits(step + 1, time.perf_counter())
            batch = next(feed)
            with clock.paused():
                profile.before(step + 1)
            before, start = step_fn.compile_seconds, time.perf_counter()
            state, metrics = step_fn(state, batch, step_key)
            compiling = step_fn.compile_seconds - before
            clock.skip(compiling)
            step += 1
            watch.began(step, metrics, start + compiling)
            lengths = [batch[f"{side}_input_tokens"].shape[1] for side in ("encoder", "decoder")]
            meter.add(step, metrics, *lengths)
            with clock.paused():
                profile.after(step, metrics)
        saves.wait()
        share_files(workdir)
        result = _result(state.params, cursor, kept, train_config, len(examples))
        if step < last:
            progress.say(
                f"step {step}: {train_config.keep_best} has not gained for {train_config.patience} "
                f"evaluations; stopped early, the best was at step {result.best_step}"
            )
    return dataclasses.replace(
        result,
        n_programs=len(step_fn.programs) - compiled_before[0],
        compile_seconds=step_fn.compile_seconds - compiled_before[1],
    )


@functools.lru_cache(maxsize=2)
def _programs(
    objective: Objective, train_config: Any, mesh: Mesh, rules: tuple
) -> tuple[TrainState, PerShape, PerShape]:
    """Return the state's description, the training step and the evaluation step."""
    optimizer = make_optimizer(train_config, 1)
    shapes = jax.eval_shape(objective.init, jax.random.key(0))
    on = param_shardings(mesh, dict(rules), objective.logical_axes(), shapes)
    target = state_target(optimizer, shapes, on, mesh)
    rows_on = sharding_of_batches(mesh)
    step_fn = make_train_step(objective, train_config, optimizer, target, rows_on)
    return target, step_fn, make_eval_step(objective, train_config, target, rows_on)


def _newest(folder: Path) -> str:
    there = checkpoint.steps(folder)
    return str(checkpoint.step_folder(folder, there[-1])) if there else "none"


def _result(
    params: Params, cursor: dict[str, Any], kept: Sequence[int], train_config: Any, n_examples: int
) -> TrainResult:
    totals, step = cursor["totals"], cursor["step"]
    best = step
    if train_config.keep_best in OF_ROLES and cursor.get("evaluations"):
        best = best_step(cursor["evaluations"], train_config.keep_best)
    return TrainResult(
        params=params,
        steps=step,
        tokens=totals["source_tokens"] + totals["target_tokens"],
        examples=totals["examples"],
        seconds=cursor["seconds"],
        kept_steps=tuple(k for k in kept if k <= step),
        best_step=best,
        n_examples=n_examples,
        evaluations=cursor.get("evaluations", ()),
    )
