"""The work of each stage: reads files of the workdir, writes others, and can be repeated."""

import dataclasses
import functools
from collections import Counter
from typing import Any

import numpy as np

from asesjax.core.config import STRATEGIES, flatten
from asesjax.core.errors import UserError
from asesjax.core.files import read_json, read_jsonl, write_json, write_jsonl
from asesjax.core.processes import is_first
from asesjax.core.types import Example
from asesjax.data.audit import audit, unknown_share
from asesjax.data.batching import examples_per_row, token_counts
from asesjax.data.examples import chain_text
from asesjax.data.sources import SPLITS, load_records, read_records, write_records
from asesjax.data.symbols import ALPHABET
from asesjax.data.token_cache import cache_key, cached_examples
from asesjax.data.vocab import (
    Vocabulary,
    load_saved,
    load_vocabulary,
    train_vocabulary,
    with_symbols,
)
from asesjax.decode.score import score_examples
from asesjax.evals.answers import is_correct
from asesjax.evals.report import build_report, decode_speed
from asesjax.evals.runner import answer_questions, prediction_row
from asesjax.methods.method import Method, Prepared
from asesjax.methods.registry import get_method
from asesjax.methods.scoring import ScoredRecord, score_records, segment_scored
from asesjax.run import (
    Run,
    load_role,
    load_start,
    model_config,
    own_mesh,
    role_folder,
    run_mesh,
)
from asesjax.segment.label import f1_from_counts, merge_segments, segmentation_f1
from asesjax.segment.pieces import Piece
from asesjax.segment.records import read_segments, write_segments
from asesjax.sharding.rules import rules
from asesjax.train.checkpoint import read_cursor
from asesjax.train.duration import n_steps
from asesjax.train.loop import train
from asesjax.viz.report import write_report

_CACHE_FROM_BYTES = 1 << 20  # of a split's records; fewer are encoded faster than looked up


def prepare_data(run: Run) -> None:
    """Write the records of every split and the vocabulary."""
    config = run.config
    counts: dict[str, Any] = {}
    skipped: dict[str, str] = {}  # place -> reason; splits of one file report the same rows
    texts: list[str] = []
    fields: dict[str, list[str]] = {}
    is_right = functools.partial(is_correct, metric=config.evaluate.metric)
    for split in SPLITS:
        records, left_out = load_records(config.data, split, config.seed, is_right)
        write_records(run / f"data/{split}.jsonl", records)
        skipped |= dict(left_out)
        counts[split] = len(records)
        for name in ("question", "rationale", "answer"):
            fields[f"{split}.{name}"] = [getattr(record, name) for record in records]
        run.say(f"  {split}: {len(records)} records")
        if split != "train":  # a metric that cannot read the references is told of now, not later
            for record in records:
                is_right("", record.answer or chain_text(record, config.data.answer_template))
        if split == "train":
            texts = [record.question for record in records]
            texts += [chain_text(record, config.data.answer_template) for record in records]
    for reason, n in Counter(skipped.values()).most_common():
        run.say(f"  skipped {n} rows: {reason}")
    write_json(run / "data/counts.json", {"records": counts, "skipped": skipped})
    v = config.vocab
    if v.kind == "train":
        corpus = [*texts, ALPHABET] if v.symbols else texts
        vocab = train_vocabulary(
            corpus, None, v.size, v.split_digits, v.extra_ids, v.byte_fallback
        )
    else:
        vocab = load_vocabulary(v.kind, v.path, v.extra_ids)
    if v.symbols:
        vocab = with_symbols(vocab)
    losses = audit(vocab, fields)
    write_json(run / "data/audit.json", losses)
    for row in losses:
        if row["unknown"]:
            run.say(f"  {row['field']}: {row['unknown']} of {row['tokens']} tokens unknown, most "
                    f"often {', '.join(map(repr, row['lost']))}")
    unknown, total, lost = unknown_share(vocab, texts)
    if vocab.symbols:
        plain_unknown, plain_total, _ = unknown_share(vocab.plain, texts)
        run.say(f"  symbols: {total} training tokens instead of {plain_total}, of which "
                f"{plain_unknown} would be unknown")
    run.say(f"  vocabulary: {vocab.size} ids; {unknown} of {total} training tokens unknown")
    if unknown > v.max_unknown_share * total:
        raise UserError(
            f"the vocabulary cannot write {unknown} of {total} training tokens "
            f"({unknown / total:.2%}), more than vocab.max_unknown_share allows; most often "
            f"{', '.join(map(repr, lost))}. Raise it, or set vocab.symbols=true or vocab.kind=train"
        )
    vocab.save(run / "vocab")


def train_method(run: Run, method: Method) -> None:
    """Train the roles of a method, which share the budget evenly."""
    config = run.config
    vocab = load_saved(run / "vocab")
    examples = {
        split: role_examples(run, method, vocab, split) for split in ("train", "validation")
    }
    model = model_config(run, vocab)
    start = load_start(run, model)
    for role in method.roles:
        mine = examples["train"][role]
        if not mine:
            raise UserError(
                f"method {method.name}: no segment of the training rationales goes to role {role}; "
                "change segment.beta or segment.strategy"
            )
        steps = n_steps(
            config.train, float(token_counts(mine).sum(1).mean()), len(mine), 1 / len(method.roles),
            examples_per_row(mine, config.train.packed_length),
        )  # fmt: skip
        folder = role_folder(run, method, role)
        result = train(
            config.train, model, mine, examples["validation"][role], folder, config.seed,
            mesh=run_mesh(run), rules=rules(config.mesh.preset), init_params=start, n_steps=steps,
            role=f"{method.name}/{role}",
        )  # fmt: skip
        if is_first():
            write_json(
                folder / "result.json",
                {"examples": len(mine), "steps": result.steps, "tokens": result.tokens,
                 "seconds": result.seconds, "kept_steps": list(result.kept_steps),
                 "best_step": result.best_step},
            )  # fmt: skip


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
    out: dict[str, list[Example]] = {role: [] for role in method.roles}
    for record, question, parts in zip(records, questions, segments, strict=True):
        made = method.examples(Prepared(record, question, parts), run.config, vocab)
        for role, items in made.items():
            out[role] += items
    return out


def score_pieces(run: Run, has_scorer: bool) -> None:
    """Cut the chains of training and validation into pieces and score them by every strategy."""
    config = run.config
    vocab = load_saved(run / "vocab")
    scorer = None
    if has_scorer:
        direct = get_method("direct")
        params, model = load_role(run, direct, "main"), model_config(run, vocab)
        buckets = config.train.source_buckets, config.train.target_buckets
        scorer = lambda examples: score_examples(model, params, examples, *buckets)  # noqa: E731
    for split in ("train", "validation"):
        records = read_records(run / f"data/{split}.jsonl")
        rows = score_records(records, config, vocab, scorer)
        write_jsonl(run / f"scores/{split}.jsonl", map(dataclasses.asdict, rows))


def segment_pieces(run: Run) -> None:
    """Label the pieces by the chosen strategy, and compare every strategy with gold labels."""
    s = run.config.segment
    provenance = {k: v for k, v in flatten(run.config).items() if k.startswith("segment.")}
    agreement: dict[str, dict[str, float]] = {}
    for split in ("train", "validation"):
        scored = [
            ScoredRecord(**row | {"pieces": tuple(Piece(*pair) for pair in row["pieces"])})
            for _, row in read_jsonl(run / f"scores/{split}.jsonl")
        ]
        rows = segment_scored(scored, s.strategy, s.beta)
        write_segments(run / f"segments/{split}.jsonl", rows, provenance)
        gold = [record.gold for record in read_records(run / f"data/{split}.jsonl")]
        if split == "train" and all(gold):
            agreement = _agreement(scored, gold, s.beta)
    write_json(run / "segments/agreement.json", agreement)
    for name, scores in agreement.items():
        chosen = " (chosen)" if name == s.strategy else ""
        run.say(
            f"  {name:9} F1 against gold: {scores['macro_f1']:.3f} "
            f"(ES {scores['es_f1']:.3f}, AS {scores['as_f1']:.3f}), "
            f"with beta 1: {scores['macro_f1_at_beta_1']:.3f}{chosen}"
        )


def _agreement(scored: list[ScoredRecord], gold: list, beta: float) -> dict[str, dict]:
    """F1 of each strategy's labels against gold ones, at the configured beta and at 1."""

    def f1(strategy: str, beta: float) -> dict[str, float]:
        rows = zip(segment_scored(scored, strategy, beta), gold, strict=True)
        return f1_from_counts(
            np.sum([segmentation_f1(row.pieces, row.labels, g) for row, g in rows], axis=0)
        )

    return {
        name: f1(name, beta) | {"macro_f1_at_beta_1": f1(name, 1.0)["macro_f1"]}
        for name in STRATEGIES
        if name == "location" or name in scored[0].scores
    }


def decode_method(run: Run, method: Method) -> None:
    """Answer the test questions, and validation questions with each kept checkpoint."""
    config = run.config
    vocab = load_saved(run / "vocab")
    model = model_config(run, vocab)
    results = [read_json(role_folder(run, method, r) / "result.json") for r in method.roles]
    folder = run / f"predictions/{method.name}"
    curve = []
    records = read_records(run / "data/validation.jsonl")[: config.decode.curve_questions]
    steps = [result["kept_steps"] for result in results]
    # A role that stopped early stands where it stopped while the other goes on.
    longest = max(map(len, steps))
    steps = [own + own[-1:] * (longest - len(own)) for own in steps]
    for kept in zip(*steps, strict=True):
        params = tuple(
            load_role(run, method, role, step)
            for role, step in zip(method.roles, kept, strict=True)
        )
        answers, _ = answer_questions(
            method, model, params, config, vocab, records, own_mesh(run)
        )
        rows = [
            prediction_row(*pair, method, config, vocab)
            for pair in zip(records, answers, strict=True)
        ]
        cursors = [
            read_cursor(role_folder(run, method, role), step)
            for role, step in zip(method.roles, kept, strict=True)
        ]
        name = f"curve-{len(curve)}.jsonl"
        write_jsonl(folder / name, rows)
        curve.append({
            "file": name, "steps": list(kept),
            "tokens": sum(sum(c["totals"][k] for k in ("source_tokens", "target_tokens"))
                          for c in cursors),
            "seconds": sum(c["seconds"] for c in cursors),
        })  # fmt: skip
    write_json(folder / "curve.json", curve)
    records = read_records(run / "data/test.jsonl")
    params = tuple(load_role(run, method, role) for role in method.roles)
    counts: dict[str, int] = {}
    answers, seconds = answer_questions(
        method, model, params, config, vocab, records, own_mesh(run), timed=True, counts=counts
    )
    rows = [
        prediction_row(*pair, method, config, vocab) for pair in zip(records, answers, strict=True)
    ]
    write_jsonl(folder / "test.jsonl", rows)
    decode = {"questions": len(records), "seconds": seconds} | counts
    write_json(folder / "decode.json", decode)
    speed = decode_speed(decode)
    shares = [f", {speed[name]:.0%} of {what} of use" for name, what in
              (("slot_utilisation", "decoder slots"), ("row_utilisation", "encoded rows"))
              if speed[name] is not None]  # fmt: skip
    run.say(f"  {speed['questions_per_second']:.1f} questions/s" + "".join(shares))
    for row in rows[:1]:
        run.say(f"  {row['question'][:200]}\n  -> {row['chain'][:300]}")


def make_report(run: Run) -> None:
    """Measure the predictions, print the table and draw the figures."""
    methods = [get_method(name) for name in run.config.methods]
    roles = {method.name: method.roles for method in methods}
    segmented = [method.name for method in methods if method.segmented]
    report = build_report(run.config, run.workdir, roles, segmented)
    run.say("\n" + write_report(run.workdir, report))
