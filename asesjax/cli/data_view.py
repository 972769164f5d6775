"""What ``asesjax data`` prints and writes."""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asesjax.core.errors import UserError, counted, harmless
from asesjax.core.files import check_output, read_json, write_json, write_text
from asesjax.core.types import LABELS, Example
from asesjax.data.batching import token_counts
from asesjax.data.corpus import EncodedRecord, read_corpus
from asesjax.data.sources import SPLITS
from asesjax.data.summary import batch_stats, length_stats, shown, weight_runs
from asesjax.data.vocab import Vocabulary, load_saved
from asesjax.methods.ases.scoring import score_records, segment_scored
from asesjax.methods.method import Method, make_method
from asesjax.methods.token_weights import TOKEN_WEIGHTS
from asesjax.run import Run
from asesjax.segmentation.label import merge_segments
from asesjax.segmentation.records import SegmentedRecord, read_segments
from asesjax.segmentation.score import NEEDS_NO_MODEL, SCORES
from asesjax.viz.data import example_text, histogram_text, length_figure
from asesjax.viz.segments import segments_page, segments_text
from asesjax.viz.tables import format_table
from asesjax.viz.weights import weights_text

FILES = ("lengths.png", "segments.html", "summary.json")
_PACKED = (512, 1024, 2048, 4096)  # lengths of packed rows to try where none is configured
_HEADINGS = ["role", "examples", "source: mean", "95 %", "max", "target: mean", "95 %", "max",
             "padding", "packed rows of", "examples a row", "padding"]  # fmt: skip


def show_data(run: Run, args: argparse.Namespace) -> None:
    """Print the data of a run as ``args`` ask for it, and write files to ``args.output``."""
    colour = sys.stdout.isatty()
    counts, audit = read_json(run / "data/counts.json"), read_json(run / "data/audit.json", list)
    reasons = dict(Counter(counts["skipped"].values()).most_common())
    for split in SPLITS:
        print(f"{split}: {counted(counts['records'][split], 'record')}")
    for reason, n in reasons.items():
        print(harmless(f"skipped {counted(n, 'row')}: {reason}"))
    vocab = load_saved(run / "vocab")
    print(f"vocabulary: {vocab.size} ids")
    for row in audit:
        if row["unknown"]:
            print(f"  {row['field']}: {row['unknown']} of {row['tokens']} tokens unknown, most "
                  f"often {', '.join(map(repr, row['lost']))}")  # fmt: skip
    records = _read(run)
    for name in ("question", "chain"):
        lengths = [len(getattr(record, name).ids) for record in records]
        print("\n" + histogram_text(f"{name} (train), tokens", lengths))

    strategy, labelled = _segments(run, records)
    merge = run.config.segment.merge_adjacent
    segments = [tuple(merge_segments(row.texts, row.labels, merge)) for row in labelled]
    roles = _roles(run, vocab, records, labelled)
    stats = {name: _role_stats(run, examples) for name, examples in roles.items()}
    print(harmless("\n" + _table(stats)))
    for name, examples in roles.items():
        if args.show:
            print(f"\nexamples of {name}: (weight) target")
        for example in examples[: args.show]:
            runs = weight_runs(vocab, example)
            print(example_text(example.id, shown(vocab, example.inputs), runs, colour))
    if args.segments:
        print(f"\nchains, labelled by {strategy}")
    for (record, *_), parts in zip(records[: args.segments], segments, strict=False):
        print(harmless(f"\n{record.id}  {record.question}"))
        print(segments_text(parts, colour))
    if args.weights:
        _show_weights(run, args.weights, colour)
    if args.output:
        folder = Path(args.output)
        chains = [(r.question, parts) for (r, *_), parts in zip(records, segments, strict=True)]
        write_json(folder / "summary.json", {
            "records": counts["records"], "skipped": reasons, "vocabulary": vocab.size,
            "unknown": audit, "strategy": strategy, "roles": stats,
        })  # fmt: skip
        page = segments_page(f"{strategy}: first chains", chains[:100])
        write_text(folder / "segments.html", page)
        sides = {name: tuple(token_counts(items).T.tolist()) for name, items in roles.items()}
        length_figure(sides, folder / "lengths.png")
        print(f"\nwritten: {', '.join(str(folder / name) for name in FILES)}")


def _read(run: Run, annotations: Sequence[str] = ()) -> list[EncodedRecord]:
    return read_corpus(run.workdir, "train", run.config.data.answer_template, annotations)


def _there(run: Run, names: Sequence[str]) -> list[str]:
    """The files of annotations, such as ``weights/{split}.npy``, that the run has for training.
    Raises UserError where a stage wrote one that is not there any more.
    """
    paths = {name: run / name.format(split="train") for name in names}
    for path in paths.values():
        check_output(path)
    return [name for name, path in paths.items() if path.is_file()]


def _segments(run: Run, records: list[EncodedRecord]) -> tuple[str, Sequence[SegmentedRecord]]:
    """Return the strategy and the labelled pieces of every training chain."""
    strategy = run.config.segment.strategy
    if _there(run, ["segments/{split}.jsonl"]):
        rows = read_segments(run / "segments/train.jsonl")[1]
        return rows[0].strategy, rows
    if SCORES.get(strategy).needs_model:
        print(f"\nno scorer has been trained for {strategy}: segments by {NEEDS_NO_MODEL}")
        strategy = NEEDS_NO_MODEL
    scored = score_records([one.record for one in records], run.config)
    return strategy, segment_scored(scored, strategy, run.config.segment.beta)


def _show_weights(run: Run, n: int, colour: bool) -> None:
    files = _there(run, [TOKEN_WEIGHTS.get(name).annotations for name in TOKEN_WEIGHTS])
    if not files:
        raise UserError(
            f"{run.workdir} has no token weights: they are trained by asesjax run with a method "
            f"that uses them ({', '.join(TOKEN_WEIGHTS)})"
        )
    print(f"\nchains, {'the redder the heavier' if colour else 'weights in tenths'}")
    for one in _read(run, files[:1])[:n]:
        weights = one.annotations["weights"].tolist()
        text = weights_text(one.chain.token_texts(), weights, colour)
        print(harmless(f"\n{one.record.id}  {one.record.question}"))
        print(text)


def _roles(
    run: Run, vocab: Vocabulary, records: list[EncodedRecord], labelled: Sequence[SegmentedRecord]
) -> dict[str, list[Example]]:
    """Return the training examples of every role of every method, by ``method/role``."""
    roles: dict[str, list] = {}
    for name in run.config.methods:
        method = make_method(name, run.config)
        if type(method).examples is Method.examples:  # it learns nothing
            continue
        there = _there(run, method.annotations)
        segments = method.labelling.annotations if hasattr(method, "labelling") else ""
        if set(method.annotations) - set(there) - {segments}:
            print(f"\n{name}: its examples are made in training; look at the run then")
            continue
        own = read_corpus(run.workdir, "train", method.config.data.answer_template, there)
        if segments and segments not in there:
            own = [
                one._replace(annotations={
                    **one.annotations,
                    "pieces": np.ravel(row.pieces),
                    "labels": np.array([LABELS.index(label) for label in row.labels]),
                })
                for one, row in zip(own, labelled, strict=True)
            ]  # fmt: skip
        method.prepare(records)
        for one in own:
            for role, items in method.examples(one, vocab).items():
                roles.setdefault(f"{name}/{role}", []).extend(items)
    return {name: items for name, items in roles.items() if items}


def _role_stats(run: Run, examples: list[Example]) -> dict[str, Any]:
    train = run.config.train
    source, target = map(length_stats, token_counts(examples).T)
    stats: dict[str, Any] = {"source": source, "target": target}
    lengths = (train.packed_length,) if train.packed_length else _PACKED
    for name, tried in (("bucketed", (0,)), ("packed", lengths)):
        for length in tried:  # the first that every example fits in
            try:
                stats[name] = batch_stats(examples, train, length)
                break
            except UserError as error:
                stats[name] = {"error": str(error)}
        stats[name]["packed_length"] = length
    return stats


def _table(stats: dict[str, dict[str, Any]]) -> str:
    def percent(row):
        return f"{row['padding_share']:.0%}" if "padding_share" in row else "-"

    rows, notes = [], []
    for role, row in stats.items():
        bucketed, packed = row["bucketed"], row["packed"]
        sides = [f"{row[side][key]:.0f}" for side in ("source", "target")
                 for key in ("mean", "p95", "max")]  # fmt: skip
        per_row = f"{packed['examples_per_row']:.1f}" if "examples_per_row" in packed else "-"
        rows.append([
            role, f"{row['source']['n']:,}", *sides, percent(bucketed),
            str(packed["packed_length"]), per_row, percent(packed),
        ])  # fmt: skip
        notes += [f"{role}: {how['error']}" for how in (bucketed, packed) if "error" in how]
    return "\n".join([format_table(_HEADINGS, rows), *notes])
