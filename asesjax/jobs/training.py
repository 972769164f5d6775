"""The examples of a method's roles, and their training."""

import functools
from typing import Any

from asesjax.core.config import flatten
from asesjax.core.errors import UserError
from asesjax.core.files import read_jsonl, write_json
from asesjax.core.processes import is_first
from asesjax.core.types import Example, Params
from asesjax.data.batching import examples_per_row, token_counts
from asesjax.data.sources import read_records
from asesjax.data.token_cache import cache_key, cached_examples
from asesjax.data.vocab import Vocabulary, load_saved
from asesjax.methods.method import Method, Prepared
from asesjax.methods.registry import get_method
from asesjax.models.t5_config import T5Config
from asesjax.run import Run, load_role, load_start, model_config, role_folder, run_mesh
from asesjax.segment.label import merge_segments
from asesjax.segment.records import read_segments
from asesjax.sharding.rules import rules
from asesjax.train.duration import n_steps
from asesjax.train.loop import TrainResult, train
from asesjax.train.objective import Objective

_CACHE_FROM_BYTES = 1 << 20  # of a split's records; fewer are encoded faster than looked up


def train_method(run: Run, method: Method) -> None:
    """Train the roles of a method, which share the budget evenly."""
    vocab = load_saved(run / "vocab")
    examples = {
        split: role_examples(run, method, vocab, split) for split in ("train", "validation")
    }
    model = model_config(run, vocab)
    start = start_params(run, method, model)
    for role in method.roles:
        mine = examples["train"][role]
        if not mine:
            raise UserError(
                f"method {method.name}: nothing in the training rationales is for role {role}; "
                "look at the data, or at segment.beta and segment.strategy"
            )
        steps = role_steps(run, mine, 1 / len(method.roles))
        train_role(run, method, role, model, mine, examples["validation"][role], steps, start)


def start_params(run: Run, method: Method, model: T5Config) -> Params | None:
    """Return what the roles of a method start from; None where it is drawn from the seed."""
    if method.start_from:
        other = get_method(method.start_from)
        return load_role(run, other, other.roles[0])
    return load_start(run, model)


def role_steps(run: Run, examples: list[Example], share: float = 1.0) -> int:
    """Return the optimizer steps of a role that gets a share of the method's budget."""
    mean_tokens = float(token_counts(examples).sum(1).mean())
    per_row = examples_per_row(examples, run.config.train.packed_length)
    return n_steps(run.config.train, mean_tokens, len(examples), share, per_row)


def train_role(
    run: Run,
    method: Method,
    role: str,
    model: T5Config | Objective,
    examples: list[Example],
    validation: list[Example],
    steps: int,
    start: Params | None,
    until: int | None = None,
) -> TrainResult:
    """Train one parameter set in its folder, and note there what came out.

    Args:
      run: the run; its ``train`` and ``mesh`` sections are read.
      method: whose role it is.
      role: its name.
      model: shape of a T5, or another objective.
      examples: to learn from.
      validation: of the validation loss.
      steps: optimizer steps.
      start: parameters to start from; drawn from the seed when None.
      until: stop, saved, after so many steps (see ``loop.train``).
    """
    folder = role_folder(run, method, role)
    result = train(
        run.config.train, model, examples, validation, folder, run.config.seed,
        mesh=run_mesh(run), rules=rules(run.config.mesh.preset), init_params=start, n_steps=steps,
        until=until, role=f"{method.name}/{role}",
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
    run: Run, method: Method, vocab: Vocabulary, split: str
) -> dict[str, list[Example]]:
    """Return the examples of each role; from the token cache where there are many."""
    build = functools.partial(_build_examples, run, method, vocab, split)
    if (run / f"data/{split}.jsonl").stat().st_size < _CACHE_FROM_BYTES:
        return build()
    # Every file that building reads, and every field that it may read.
    files = [run / f"data/{split}.jsonl", run / "vocab/vocab.json", run / "vocab/spiece.model"]
    files += [run / f"segments/{split}.jsonl"] if method.segmented else []
    files += [run / name.format(split=split) for name in method.notes]
    skipped = ("name", "methods", "decode", "evaluate", "mesh", "model", "train")
    fields = {k: v for k, v in flatten(run.config).items() if k.split(".")[0] not in skipped}
    key = cache_key(files, fields | {"method": method.name})
    return cached_examples(run / f"tokens/{method.name}-{split}", key, build, write=is_first())


def _build_examples(
    run: Run, method: Method, vocab: Vocabulary, split: str
) -> dict[str, list[Example]]:
    records = read_records(run / f"data/{split}.jsonl")
    segments: list = [None] * len(records)
    if method.segmented:
        _, rows = read_segments(run / f"segments/{split}.jsonl")
        merge = run.config.segment.merge_adjacent
        segments = [tuple(merge_segments(row.texts, row.labels, merge)) for row in rows]
    questions = vocab.encode_batch([record.question for record in records])
    notes = read_notes(run, method, split, [record.id for record in records])
    prepared = map(Prepared, records, questions, segments, notes)
    return method.examples_by_role(prepared, run.config, vocab)


def read_notes(run: Run, method: Method, split: str, ids: list[str]) -> list[dict[str, Any]]:
    """Join the rows of a method's notes, one dict for each record.

    Raises:
      UserError: a file whose rows are not those of the records, in order.
    """
    notes: list[dict[str, Any]] = [{} for _ in ids]
    for name in method.notes:
        path = run / name.format(split=split)
        rows = [row for _, row in read_jsonl(path)]
        if [row.get("id") for row in rows] != ids:
            raise UserError(
                f"{path} has notes on other records than {run / f'data/{split}.jsonl'}; run again "
                "with --redo"
            )
        for own, row in zip(notes, rows, strict=True):
            own |= row
    return notes
