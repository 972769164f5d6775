"""The examples of a method's roles, and their training."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from asesjax.core.errors import UserError
from asesjax.core.files import read_json, write_json
from asesjax.core.metric_log import MetricLog
from asesjax.core.options import flatten
from asesjax.core.processes import is_first
from asesjax.core.signals import check_stop
from asesjax.core.types import Example, Params
from asesjax.data.batching import examples_per_row, token_counts
from asesjax.data.corpus import EncodedRecord, read_corpus
from asesjax.data.vocab import load_saved
from asesjax.jobs.curve import curve_records, decoded_measures
from asesjax.methods.method import Method, make_method
from asesjax.models.t5_config import T5Config
from asesjax.run import Run, load_role, load_start, model_config, role_folder, run_mesh
from asesjax.sharding.place import rules
from asesjax.training.checkpoint import read_cursor
from asesjax.training.checkpoint_files import drop_damaged
from asesjax.training.describe import Description
from asesjax.training.duration import best_step, evaluation_steps, gave_up, n_steps
from asesjax.training.loop import TrainResult, train
from asesjax.training.objective import Objective
from asesjax.training.options import DECODED


def train_method(run: Run, method: Method) -> None:
    """Train the roles of a method, which share a budget of steps or tokens evenly."""
    examples = {split: role_examples(run, method, split) for split in ("train", "validation")}
    model = model_config(run, load_saved(run / "vocab"))
    start = start_params(run, method, model)
    for role in method.roles:
        if not examples["train"][role]:
            raise UserError(
                f"method {method.name}: nothing in the training rationales is for role {role}; "
                "look at the data, or at segment.beta and segment.strategy"
            )
    steps = {
        role: role_steps(run, examples["train"][role], 1 / len(method.roles))
        for role in method.roles
    }

    def train_to(role: str, until: int) -> TrainResult:
        own, held_out = (examples[split][role] for split in ("train", "validation"))
        return train_role(run, method.name, role, model, own, held_out, steps[role], start, until)

    train_roles(run, method, steps, train_to)


def train_roles(
    run: Run, method: Method, steps: dict[str, int], train_to: Callable[[str, int], TrainResult]
) -> dict[str, TrainResult]:
    """Train all roles of a method for their ``steps``, select their checkpoints, write their
    results and return them without parameters. ``train_to(role, until)`` trains or resumes a role,
    saves it after so many of its steps, and returns at once where that is done.

    Where chains are the measure (``train.keep_best`` of ``DECODED``), validation questions are
    decoded with the roles' checkpoints of each evaluation, and the best evaluation is selected for
    all roles. With ``train.patience``, the roles are trained in turn up to each evaluation,
    and stop together. Raises UserError if there are no questions.
    """
    config = run.config
    decoded = config.train.keep_best in DECODED
    if decoded and not curve_records(run):
        raise UserError(
            f"train.keep_best={config.train.keep_best} decodes validation questions, and there are "
            "none; look at data.n_validation, or set train.keep_best=''"
        )
    share = config.train.evaluate_every_share
    of_roles = (evaluation_steps(n, share) for n in steps.values())
    evaluations = list(dict.fromkeys(zip(*of_roles, strict=True)))
    last, measured = len(evaluations) - 1, []
    for i in range(last + 1) if decoded and config.train.patience else [last]:
        results = {
            role: dataclasses.replace(train_to(role, until), params=None)
            for role, until in zip(steps, evaluations[i], strict=True)
        }
        if decoded:
            measured = decoded_measures(run, method, evaluations[: i + 1])
            if gave_up(measured, config.train):
                break
    if measured:
        best = best_step(measured, config.train.keep_best)
        run.say(
            f"  {config.train.keep_best} of validation questions: "
            + ", ".join(f"{row[config.train.keep_best]:.3f}" for row in measured)
            + f"; selected: evaluation {best + 1}, after steps "
            + ", ".join(map(str, evaluations[best]))
        )
        for role, step in zip(steps, evaluations[best], strict=True):
            results[role] = dataclasses.replace(results[role], best_step=step)
    for role, result in results.items():
        write_result(run, method.name, role, result)
    return results


def start_params(run: Run, method: Method, model: T5Config) -> Params | None:
    """Return what the roles of a method start from; None where it is drawn from the seed."""
    if method.start_from:
        other = make_method(method.start_from, run.config)
        return load_role(run, other, other.roles[0], mesh=run_mesh(run))
    return load_start(run, model)


def role_steps(run: Run, examples: list[Example], share: float = 1.0) -> int:
    """Return the optimizer steps of a role, ``share`` of the method's steps or tokens."""
    mean_tokens = float(token_counts(examples).sum(1).mean())
    per_row = examples_per_row(examples, run.config.train.packed_length)
    return n_steps(run.config.train, mean_tokens, len(examples), share, per_row)


def train_role(
    run: Run,
    row: str,
    role: str,
    model: T5Config | Objective,
    examples: list[Example],
    validation: list[Example],
    steps: int,
    start: Params | None,
    until: int,
) -> TrainResult:
    """Train one parameter set of a row in its folder. ``model`` is the shape of a T5 or another
    objective, ``start`` None draws from the seed, and ``until`` stops, saved, after so many of the
    ``steps`` (see ``loop.train``).
    """
    folder = role_folder(run, row, role)
    description = None
    if isinstance(model, T5Config):
        description = Description(model, load_saved(run / "vocab"), row, role)
    return train(
        run.config.train, model, examples, validation, folder, run.config.seed,
        mesh=run_mesh(run), rules=rules(run.config.mesh.preset), init_params=start, n_steps=steps,
        until=until, role=f"{row}/{role}", description=description,
        open_log=log_opener(run, f"{row}/{role}"),
    )  # fmt: skip


def log_opener(run: Run, name: str) -> Callable[..., MetricLog]:
    """Return what opens the run's trackers for a role or row."""
    facts: dict[str, Any] = {"name": name, "run": str(run.workdir), "fields": flatten(run.config)}
    return functools.partial(MetricLog, trackers=run.config.log.trackers, **facts)


_SIDES = "source_tokens", "target_tokens"


def write_result(run: Run, row: str, role: str, result: TrainResult) -> None:
    """Write what came out of the training of a role, once it has ended."""
    if is_first():
        folder = role_folder(run, row, role)
        cursors = {step: read_cursor(folder, step) for step in result.kept_steps}
        write_json(
            folder / "result.json",
            {"examples": result.n_examples, "seen": result.examples, "steps": result.steps,
             "tokens": result.tokens, "seconds": result.seconds,
             "kept_steps": list(result.kept_steps), "best_step": result.best_step,
             "kept": {step: {"tokens": sum(c["totals"][side] for side in _SIDES),
                             "seconds": c["seconds"]} for step, c in cursors.items()},
             "evaluations": result.evaluations},
        )  # fmt: skip


def whole_roles(run: Run, row: str, roles: Sequence[str]) -> bool:
    """Tell whether all kept checkpoints of a trained row are as they were written. Otherwise the
    damaged ones, and those after them, are renamed, so that training resumes from the one before.
    """
    whole = True
    for role in roles:
        folder = role_folder(run, row, role)
        result = read_json(folder / "result.json")
        kept = {*result["kept_steps"], result["best_step"]}
        if damaged := drop_damaged(folder / "checkpoints", kept):
            whole = False
            run.say(f"  {damaged}; training resumes from the one before")
    return whole


def role_examples(
    run: Run, method: Method, split: str, annotations: tuple[str, ...] | None = None
) -> dict[str, list[Example]]:
    """Return the examples of each role, "train" or "validation"; ``annotations`` replaces the
    method's.
    """
    vocab = load_saved(run / "vocab")
    files = method.annotations if annotations is None else annotations
    out: dict[str, list[Example]] = {role: [] for role in method.roles}
    for record in role_records(run, method, split, files):
        check_stop()
        made = method.examples(record, vocab)
        if unknown := made.keys() - out.keys():
            raise UserError(
                f"row {method.name} makes examples for role {', '.join(map(str, unknown))}, and "
                f"its roles are {', '.join(method.roles)}; correct one or the other"
            )
        for role, examples in made.items():
            out[role] += examples
    return out


def role_records(
    run: Run, method: Method, split: str, annotations: tuple[str, ...] = ()
) -> list[EncodedRecord]:
    """Return the records of a split that a method learns from, which has seen them all then."""
    template = method.config.data.answer_template
    records = read_corpus(run.workdir, split, template, annotations)
    train = records if split == "train" else read_corpus(run.workdir, "train", template)
    train = train[: method.config.train.records or None]
    if method.fold:
        part, n_folds = method.fold
        train = [one for i, one in enumerate(train) if i % n_folds != part]
    method.prepare(train)
    return train if split == "train" else records
