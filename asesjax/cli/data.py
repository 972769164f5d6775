"""Look at the data of a configuration before training on it; nothing is trained.

    asesjax data --config FILE.py[:ARG] [--output DIR]
    asesjax data --workdir DIR                  # of a run that has its data

Prints the records of each split, what was skipped and why, what the vocabulary cannot write,
lengths in tokens, how full batches are (bucketed, and packed), and examples of each role as the
model sees them, with the weight before each stretch of the target. With --segments also chains
coloured by label; with --weights, in a run that has trained KPOD's token weights, chains coloured
by weight. --output gets lengths.png, segments.html and summary.json.

Segments are those of the run where it has them. Otherwise they are made here, and where the
strategy needs a trained scorer, location stands in for it.
"""

import argparse
import dataclasses
import sys
import tempfile
from collections import Counter
from pathlib import Path

_FILES = ("lengths.png", "segments.html", "summary.json")
_PACKED = (512, 1024, 2048, 4096)  # lengths of packed rows to try where none is configured


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--config", metavar="FILE.py[:ARG]", help="config file")
    parser.add_argument("--workdir", help="folder of a run; without it nothing is kept")
    parser.add_argument("--output", metavar="DIR", help="folder for the picture, page and numbers")
    parser.add_argument("--show", type=int, default=10, metavar="N", help="examples of each role")
    parser.add_argument("--segments", type=int, default=0, metavar="N", help="print N chains")
    parser.add_argument("--weights", type=int, default=0, metavar="N",
                        help="print N chains, coloured by KPOD's token weights")  # fmt: skip
    parser.epilog = "--config.section.field=value changes one field of the configuration."


def main(args: argparse.Namespace) -> None:
    """Print the view, and write it to --output."""
    from asesjax.core.errors import UserError
    from asesjax.experiment import execute, open_run
    from asesjax.jobs.data import prepare_data

    if min(args.show, args.segments, args.weights) < 0:
        raise UserError("--show, --segments and --weights must be 0 or more")
    for name in _FILES if args.output else ():
        if (Path(args.output) / name).exists():
            raise UserError(
                f"{Path(args.output) / name} exists; nothing is overwritten, give another --output"
            )
    if args.workdir:
        run = open_run(args.config, args.workdir, args.overrides)
        run = dataclasses.replace(run, say=lambda line: None)
        execute(run, ("data",))
        return _view(run, args)
    if not args.config:
        raise UserError("give --config FILE.py, --workdir of a run, or both")
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(args.config, folder, args.overrides)
        run = dataclasses.replace(run, say=lambda line: None)
        prepare_data(run)
        _view(run, args)


def _view(run, args) -> None:
    from asesjax.core.files import read_json, write_json, write_text
    from asesjax.data.batching import token_counts
    from asesjax.data.corpus import read_corpus
    from asesjax.data.sources import SPLITS
    from asesjax.data.vocab import load_saved
    from asesjax.segment.label import merge_segments
    from asesjax.viz.data import histogram_text, length_figure
    from asesjax.viz.segments import segments_page, segments_text

    colour = sys.stdout.isatty()
    counts, audit = read_json(run / "data/counts.json"), read_json(run / "data/audit.json")
    reasons = dict(Counter(counts["skipped"].values()).most_common())
    for split in SPLITS:
        print(f"{split}: {counts['records'][split]} records")
    for reason, n in reasons.items():
        print(f"skipped {n} rows: {reason}")
    vocab = load_saved(run / "vocab")
    print(f"vocabulary: {vocab.size} ids")
    for row in audit:
        if row["unknown"]:
            print(f"  {row['field']}: {row['unknown']} of {row['tokens']} tokens unknown, most "
                  f"often {', '.join(map(repr, row['lost']))}")  # fmt: skip
    records = read_corpus(run.workdir, "train", run.config.data.answer_template)
    for name in ("question", "chain"):
        lengths = [len(getattr(record, name).ids) for record in records]
        print("\n" + histogram_text(f"{name} (train), tokens", lengths))

    strategy, labelled = _segments(run, records)
    roles = _roles(run, vocab, records, labelled)
    merge = run.config.segment.merge_adjacent
    segments = [tuple(merge_segments(row.texts, row.labels, merge)) for row in labelled]
    sides = {name: tuple(token_counts(items).T.tolist()) for name, items in roles.items()}
    stats = {name: _role_stats(run, items) for name, items in roles.items()}
    print("\n" + _table(stats))
    for name, items in roles.items():
        _show_examples(vocab, name, items[: args.show], colour)
    if args.segments:
        print(f"\nchains, labelled by {strategy}")
    for (record, *_), parts in zip(records[: args.segments], segments, strict=False):
        print(f"\n{record.id}  {record.question}\n{segments_text(parts, colour)}")
    if args.weights:
        _show_weights(run, records[: args.weights], colour)
    if args.output:
        folder = Path(args.output)
        questions = [one.record.question for one in records[:100]]
        shown = list(zip(questions, segments, strict=False))
        write_json(folder / "summary.json", {
            "records": counts["records"], "skipped": reasons, "vocabulary": vocab.size,
            "unknown": audit, "strategy": strategy, "roles": stats,
        })  # fmt: skip
        write_text(folder / "segments.html", segments_page(f"{strategy}: first chains", shown))
        length_figure(sides, folder / "lengths.png")
        print(f"\nwritten: {', '.join(str(folder / name) for name in _FILES)}")


def _segments(run, records):
    """Return the strategy and the labelled pieces of every training chain."""
    from asesjax.methods.ases.scoring import score_records, segment_scored
    from asesjax.segment.records import read_segments
    from asesjax.segment.score import NEEDS_NO_MODEL, SCORES

    strategy = run.config.segment.strategy
    if (run / "segments/train.jsonl").is_file():
        rows = read_segments(run / "segments/train.jsonl")[1]
        return rows[0].strategy, rows
    if SCORES.get(strategy).needs_model:
        print(f"\nno scorer has been trained for {strategy}: segments by {NEEDS_NO_MODEL}")
        strategy = NEEDS_NO_MODEL
    scored = score_records([one.record for one in records], run.config)
    return strategy, segment_scored(scored, strategy, run.config.segment.beta)


def _show_weights(run, records, colour):
    from asesjax.core.errors import UserError
    from asesjax.data.corpus import read_corpus
    from asesjax.methods.token_weights import TOKEN_WEIGHTS
    from asesjax.viz.weights import weights_text

    files = [TOKEN_WEIGHTS.get(name).annotations for name in TOKEN_WEIGHTS]
    files = [file for file in files if (run / file.format(split="train")).is_file()]
    if not files:
        raise UserError(
            f"{run.workdir} has no token weights: they are trained by asesjax run with a method "
            f"that uses them ({', '.join(TOKEN_WEIGHTS)})"
        )
    print(f"\nchains, {'the redder the heavier' if colour else 'weights in tenths'}")
    template = run.config.data.answer_template
    for one in read_corpus(run.workdir, "train", template, files[:1])[: len(records)]:
        weights = one.annotations["weights"].tolist()
        text = weights_text(one.chain.token_texts(), weights, colour)
        print(f"\n{one.record.id}  {one.record.question}\n{text}")


def _roles(run, vocab, records, segments):
    """Return the training examples of every role of every method, by ``method/role``."""
    import numpy as np

    from asesjax.core.types import LABELS
    from asesjax.data.corpus import read_corpus
    from asesjax.methods.ases.stages import SEGMENTS
    from asesjax.methods.method import make_method

    roles: dict[str, list] = {}
    for name in run.config.methods:
        method = make_method(name, run.config)
        there = [f for f in method.annotations if (run / f.format(split="train")).is_file()]
        if set(method.annotations) - set(there) - {SEGMENTS}:
            print(f"\n{name}: its examples are made in training; look at the run then")
            continue
        own = read_corpus(run.workdir, "train", method.config.data.answer_template, there)
        if SEGMENTS in method.annotations:
            own = [
                one._replace(annotations=one.annotations | {
                    "pieces": np.ravel(row.pieces),
                    "labels": np.array([LABELS.index(label) for label in row.labels]),
                })
                for one, row in zip(own, segments, strict=True)
            ]  # fmt: skip
        method.prepare(records)
        for one in own:
            for role, items in method.examples(one, vocab).items():
                roles.setdefault(f"{name}/{role}", []).extend(items)
    return {name: items for name, items in roles.items() if items}


def _role_stats(run, examples):
    from asesjax.core.errors import UserError
    from asesjax.data.batching import token_counts
    from asesjax.data.summary import batch_stats, length_stats

    train = run.config.train
    source, target = token_counts(examples).T
    stats = {"source": length_stats(source), "target": length_stats(target)}
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


def _table(stats):
    from asesjax.viz.tables import format_table

    def cell(row, name, share):
        return f"{row[name]['padding_share']:.0%}" if "padding_share" in row[name] else share

    headings = ["role", "examples", "source: mean", "95 %", "max", "target: mean", "95 %", "max",
                "padding", "packed rows of", "examples a row", "padding"]  # fmt: skip
    rows, notes = [], []
    for role, row in stats.items():
        sides = [f"{row[side][key]:.0f}" for side in ("source", "target")
                 for key in ("mean", "p95", "max")]  # fmt: skip
        per_row = row["packed"].get("examples_per_row")
        rows.append([
            role, f"{row['source']['n']:,}", *sides, cell(row, "bucketed", "-"),
            str(row["packed"]["packed_length"]), f"{per_row:.1f}" if per_row else "-",
            cell(row, "packed", "-"),
        ])  # fmt: skip
        notes += [f"{role}: {row[how]['error']}" for how in ("bucketed", "packed")
                  if "error" in row[how]]  # fmt: skip
    return "\n".join([format_table(headings, rows), *notes])


def _show_examples(vocab, role, examples, colour):
    from asesjax.data.summary import shown, weight_runs
    from asesjax.viz.data import example_text

    if examples:
        print(f"\nexamples of {role}: (weight) target")
    for example in examples:
        runs = weight_runs(vocab, example)
        print(example_text(example.id, shown(vocab, example.inputs), runs, colour))
