"""The examples of a method's roles, and their training."""

from asesjax.core.errors import UserError
from asesjax.core.files import write_json
from asesjax.core.processes import is_first
from asesjax.core.types import Example, Params
from asesjax.data.batching import examples_per_row, token_counts
from asesjax.data.corpus import read_corpus
from asesjax.data.vocab import load_saved
from asesjax.methods.method import Method, make_method
from asesjax.models.t5_config import T5Config
from asesjax.run import Run, load_role, load_start, model_config, role_folder, run_mesh
from asesjax.sharding.place import rules
from asesjax.train.describe import Description
from asesjax.train.duration import n_steps
from asesjax.train.loop import TrainResult, train
from asesjax.train.objective import Objective


def train_method(run: Run, method: Method) -> None:
    """Train the roles of a method, which share a budget of steps or tokens evenly."""
    examples = {split: role_examples(run, method, split) for split in ("train", "validation")}
    model = model_config(run, load_saved(run / "vocab"))
    start = start_params(run, method, model)
    for role in method.roles:
        mine = examples["train"][role]
        if not mine:
            raise UserError(
                f"method {method.name}: nothing in the training rationales is for role {role}; "
                "look at the data, or at segment.beta and segment.strategy"
            )
        steps = role_steps(run, mine, 1 / len(method.roles))
        held_out = examples["validation"][role]
        train_role(run, method.name, role, model, mine, held_out, steps, start)


def start_params(run: Run, method: Method, model: T5Config) -> Params | None:
    """Return what the roles of a method start from; None where it is drawn from the seed."""
    if method.start_from:
        other = make_method(method.start_from, run.config)
        return load_role(run, other, other.roles[0])
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
    until: int | None = None,
) -> TrainResult:
    """Train one parameter set of a row in its folder, and write the result there. ``model`` is the
    shape of a T5 or another objective, ``start`` None draws from the seed, and ``until`` stops,
    saved, after so many steps (see ``loop.train``).
    """
    folder = role_folder(run, row, role)
    description = None
    if isinstance(model, T5Config):
        description = Description(model, load_saved(run / "vocab"), row, role)
    result = train(
        run.config.train, model, examples, validation, folder, run.config.seed,
        mesh=run_mesh(run), rules=rules(run.config.mesh.preset), init_params=start, n_steps=steps,
        until=until, role=f"{row}/{role}", description=description,
    )  # fmt: skip
    if is_first() and (until is None or until >= steps):
        write_json(
            folder / "result.json",
            {"examples": len(examples), "steps": result.steps, "tokens": result.tokens,
             "seconds": result.seconds, "kept_steps": list(result.kept_steps),
             "best_step": result.best_step},
        )  # fmt: skip
    return result


def role_examples(
    run: Run, method: Method, split: str, annotations: tuple[str, ...] | None = None
) -> dict[str, list[Example]]:
    """Return the examples of each role, "train" or "validation"; ``annotations`` replaces the
    method's.
    """
    vocab, template = load_saved(run / "vocab"), method.config.data.answer_template
    files = method.annotations if annotations is None else annotations
    records = read_corpus(run.workdir, split, template, files)
    shown = method.config.train.records or None
    if split == "train":
        records = records[:shown]
        method.prepare(records)
    else:
        method.prepare(read_corpus(run.workdir, "train", template)[:shown])
    out: dict[str, list[Example]] = {role: [] for role in method.roles}
    for record in records:
        for role, examples in method.examples(record, vocab).items():
            out[role] += examples
    return out
