"""What is known of every row before anything is trained: whether its examples fit its batches, and
how long what it writes may become.

Bounds of decoding that the configuration leaves at 0 or () are chosen here, from train and
validation (of test questions the lengths alone), and kept in ``lengths.json``; whatever loads
a row takes them from there (``run.with_lengths``). So are the parts of a step, where
``train.microbatches`` is 0.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from asesjax.core.errors import UserError, counted
from asesjax.core.files import write_record
from asesjax.core.processes import is_first
from asesjax.core.signals import check_stop
from asesjax.core.types import Example
from asesjax.data.batching import make_plan, quantile_buckets, token_counts
from asesjax.data.corpus import EncodedRecord, read_corpus
from asesjax.data.examples import chain_text
from asesjax.data.sources import SPLITS, read_records
from asesjax.data.vocab import Vocabulary, load_saved
from asesjax.decode.options import CHOSEN
from asesjax.evals.runner import check_question, decode_spec, encode_prefix
from asesjax.jobs.memory import check_memory
from asesjax.jobs.training import role_records, role_steps
from asesjax.methods.method import Method
from asesjax.run import (
    LENGTHS,
    PARTS,
    Run,
    model_config,
    run_mesh,
    start_place,
    with_bounds,
)
from asesjax.sharding.place import batch_sharding
from asesjax.training.describe import describe_start
from asesjax.training.duration import check_early_stopping
from asesjax.training.options import DECODED
from asesjax.training.step import check_batch_size

Ways = list[dict[str, list[Example]]]  # of roles; one for each way in which training may turn out
_ROOM, _GRAIN = 1.5, 8  # of what is written beside the longest in the data; bounds are multiples
_BUCKETS = 5  # quantiles of the lengths of questions


def check_rows(run: Run, rows: Sequence[Method], dry: bool = False) -> None:
    """Refuse, before anything is trained, rows that a later stage would refuse: marks or prefixes
    that the vocabulary lacks, rationales that records lack, examples too long for their batches,
    questions too long to be asked, roles without examples, weights of another shape. Choose the
    bounds of decoding, write them and say what was chosen; ``dry`` says the memory of training too,
    and writes nothing.
    """
    vocab, chosen = load_saved(run / "vocab"), {}
    run.say(f"  {counted(len(rows), 'row')}, by what the data asks for:")
    learned = [record for split in ("train", "validation")
               for record in read_records(run / f"data/{split}.jsonl")]  # fmt: skip
    bare = next((record for record in learned if not record.rationale), None)
    for row in rows:
        if bare is not None and row.learns_rationales:
            raise UserError(
                f"row {row.name} learns from rationales, and record {bare.id} has none "
                f"({bare.question[:60]!r}); take {row.name} out of methods, answer_only needs none"
            )
        own = dataclasses.replace(run, config=row.config)
        try:
            seen = {split: _ways(own, row, split, vocab) for split in ("train", "validation")}
            chosen[row.name] = bounds = choose_bounds(own, row, vocab, seen)
            row = with_bounds(row, bounds)
            lines, parts = _check_training(own, row, vocab, seen, dry)
            if not row.config.train.microbatches:
                bounds[PARTS] = parts
            lines += _check_decoding(own, row, vocab)
        except UserError as error:
            raise UserError(f"row {row.name}: {error}") from None
        for line in lines:
            run.say(f"    {line}")
    if is_first() and not dry:
        write_record(run / LENGTHS, chosen)


def choose_bounds(
    run: Run, row: Method, vocab: Vocabulary, seen: dict[str, Ways]
) -> dict[str, int | list[int]]:
    """Return the fields of the decode section that a row's configuration leaves to the data."""
    template, plan = row.config.data.answer_template, row.decode_plan(vocab)
    records = {split: read_corpus(run.workdir, split, template) for split in SPLITS}
    asked = np.array([len(one.question.ids) for own in records.values() for one in own])
    learned = [*records["train"], *records["validation"]]
    ways = [roles[role] for ways in seen.values() for roles in ways for role in row.roles
            if roles.get(role)]  # fmt: skip
    target = max((int(token_counts(examples)[:, 1].max()) for examples in ways), default=0)
    chain = target
    if plan.n_turns != 1 or not target:
        chain = max((_chain_length(one, row, vocab) for one in learned), default=0) + 1
    of_record = (max(Counter(_record_of(example) for example in examples).values())
                 for examples in ways)  # fmt: skip
    found: dict[str, Any] = {
        "question_buckets": [*quantile_buckets(asked, _BUCKETS)[:-1].tolist(), _room(asked.max())],
        "max_chain_tokens": _room(chain),
        "max_segment_tokens": min(_room(target or chain), _room(chain)),
        "max_rounds": min(_room(len(plan.turns) * max(of_record, default=chain)), _room(chain)),
    }
    return {name: found[name] for name in CHOSEN if not getattr(row.config.decode, name)}


def _ways(run: Run, row: Method, split: str, vocab: Vocabulary) -> Ways:
    """Return the examples of a split in every way; none where nothing is known of them."""
    by_record = []
    for own in row.foreseen(role_records(run, row, split), vocab):
        check_stop()
        by_record.append(own)
    ways: Ways = [{} for _ in range(max(map(len, by_record), default=0))]
    for own in by_record:
        for i, way in enumerate(ways):
            for role, examples in own[min(i, len(own) - 1)].items():
                way.setdefault(role, []).extend(examples)
    return ways


def _check_training(
    run: Run, row: Method, vocab: Vocabulary, seen: dict[str, Ways], dry: bool
) -> tuple[list[str], int]:
    """Refuse what training would, and describe the batches of each role; ``dry`` its memory too.
    Return also in how many parts a step is computed.
    """
    train, model = row.config.train, model_config(run, vocab)
    if (place := start_place(run)) and row.config.model.init_from and not row.start_from:
        describe_start(place).check_start(model, vocab)
    if row.train is None or seen["train"]:
        check_batch_size(train, batch_sharding(run_mesh(run)))
    if not seen["train"]:
        unknown = [f"{row.name}: its examples are known in training alone"]
        return [] if row.train else unknown, train.parts
    check_early_stopping(train, sum(map(len, seen["validation"][0].values()), 0)
                         if seen["validation"] else 0)  # fmt: skip
    sides = train.source_buckets, train.target_buckets
    lines, parts = [], train.parts
    for role in dict.fromkeys((*row.roles, *(role for way in seen["train"] for role in way))):
        packed = train.packed_length if role in row.roles else 0
        shapes: tuple = ()
        for ways in seen.values():
            for examples in (way[role] for way in ways if way.get(role)):
                try:
                    # How examples share rows is not known yet, but no row is shorter than the
                    # longest of each side.
                    some = examples if len(ways) == 1 or not packed else [
                        examples[i] for i in token_counts(examples).argmax(0)
                    ]
                    plan = make_plan(some, train.batch_size, *sides, 0, packed)
                except UserError as error:
                    unsure = "; training decides how its chain is cut, and may come to this" * (
                        len(ways) > 1)  # fmt: skip
                    raise UserError(f"{error}{unsure}") from None
                shapes = shapes or plan.shapes
        if role in row.roles:
            lines.append(_role_line(run, row, role, [way.get(role, []) for way in seen["train"]],
                                    shapes))  # fmt: skip
        if role in row.roles and row.train is None:
            found = shapes if len(seen["train"]) == 1 else [
                token_counts(way[role]).max(0) for way in seen["train"] if way.get(role)
            ]  # fmt: skip
            source, target = (packed or int(n) for n in np.max(np.asarray(found), axis=0))
            line, needed = check_memory(run, model, source, target, dry)
            parts = max(parts, needed)
            if line:
                lines.append(f"  {line}")
    return lines, parts


def _role_line(
    run: Run, row: Method, role: str, ways: list[list[Example]], shapes: tuple
) -> str:
    """Describe the examples, batches and steps of a role; refuse one that learns nothing."""
    train = row.config.train
    if not any(ways):
        raise UserError(f"nothing in the training rationales is for role {role}")
    ways = [own for own in ways if own]
    steps = [role_steps(run, own, 1 / len(row.roles)) for own in ways]
    passes = [n * train.batch_size / len(own) for n, own in zip(steps, ways, strict=True)]
    source, target = np.max([token_counts(own).max(0) for own in ways], axis=0)
    batches = ", ".join(f"{s} x {t}" for s, t in shapes)
    if train.packed_length:
        batches = f"packed rows of {train.packed_length}"
        passes = []
    later = ", as training labels them" if len(ways) > 1 else ""
    return (
        f"{row.name}/{role}: {_range(map(len, ways))} examples{later}; longest "
        f"source {source}, target {target}; batches of {train.batch_size}: "
        f"{batches if len(ways) == 1 else 'lengths chosen then'}; {_range(steps)} steps"
        + (f", {_range(round(p, 1) for p in passes)} passes" if passes else "")
    )


def _check_decoding(run: Run, row: Method, vocab: Vocabulary) -> list[str]:
    """Refuse what decoding would, and describe its bounds."""
    decode, template = row.config.decode, row.config.data.answer_template
    _, limits = decode_spec(row, vocab)
    room = int(min(limits.max_segment_tokens, limits.max_chain_tokens))
    encode_prefix(decode.prefix, vocab, room)
    curve = read_corpus(run.workdir, "validation", template)[: decode.curve_questions]
    if row.config.train.keep_best in DECODED and not curve:
        raise UserError(
            f"train.keep_best={row.config.train.keep_best} decodes validation questions, and there "
            "are none; look at data.n_validation, or set train.keep_best=''"
        )
    test = read_corpus(run.workdir, "test", template)
    for one in [*test, *curve]:
        check_question(one.question.ids, f"record {one.record.id}", row.config)
    long = sum(_chain_length(one, row, vocab) > limits.max_chain_tokens for one in test)
    note = f"; {long} of the {len(test)} test chains are longer" if long else ""
    rounds = "" if limits.max_rounds == 1 else (
        f" in {limits.max_rounds} segments of at most {limits.max_segment_tokens}"
    )  # fmt: skip
    return [f"{row.name} decodes questions of at most {max(decode.question_buckets)} tokens, "
            f"chains of at most {limits.max_chain_tokens}{rounds}{note}"]  # fmt: skip


def _chain_length(one: EncodedRecord, row: Method, vocab: Vocabulary) -> int:
    """Return the tokens of the chain that a row is taught."""
    taught = row.reference(one.record)
    if taught is one.record:
        return len(one.chain.ids)
    return len(vocab.encode(chain_text(taught, row.config.data.answer_template)))


def _record_of(example: Example) -> str:
    return example.id.rpartition("/")[0] or example.id


def _room(longest: int) -> int:
    """Return a bound that leaves room beyond the longest there is."""
    return int(-(-_ROOM * longest // _GRAIN)) * _GRAIN


def _range(values) -> str:
    values = sorted(set(values))
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"
