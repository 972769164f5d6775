"""Cut rationales into pieces and label them ES or AS.

Of a run:        asesjax segment --workdir DIR [--config FILE]
Of any file:     asesjax segment --input records.jsonl --output segments.jsonl --strategy location
The second needs no model and takes only strategies without one, such as location, bleu and rouge.
The file is what data.source=file reads. --show prints chains
coloured by label, --html writes them all as a page.
"""

import argparse
import sys
from pathlib import Path

from asesjax.core.errors import UserError, counted, harmless


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    from asesjax.segmentation.score import SCORES

    parser.add_argument("--config", metavar="FILE.py[:ARG]", help="config file")
    parser.add_argument("--workdir", help="folder of a run")
    parser.add_argument("--redo", action="store_true", help="as in asesjax run")
    parser.add_argument("--input", help="file of records, instead of --workdir")
    parser.add_argument("--output", help="segments file to write; must not exist")
    parser.add_argument("--strategy", help=f"with --input; one of {', '.join(SCORES)}")
    parser.add_argument("--html", metavar="FILE", help="page to write; must not exist")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print N segmentations")
    parser.epilog = "--config.section.field=value changes one field of the configuration."


def main(args: argparse.Namespace) -> None:
    """Segment a run's rationales, or those of a file."""
    if bool(args.input) == bool(args.workdir):
        raise UserError("give either --workdir (of a run) or --input (a file of records)")
    for option, path in (("--output", args.input and args.output), ("--html", args.html)):
        if path and Path(path).exists():
            raise UserError(f"{path} exists; nothing is overwritten, give another {option}")
    if args.input:
        path = _segment_file(args)
    else:
        from asesjax.experiment import execute, open_run
        from asesjax.methods.ases.stages import labelled_rows

        if args.strategy:
            raise UserError("with --workdir the strategy is --config.segment.strategy=NAME")
        run = open_run(args.config, args.workdir, args.overrides)
        rows = labelled_rows(run.config)
        execute(run, tuple(row.needs[0] for row in rows), redo=args.redo)
        path = run / f"{rows[0].labelling.segments}/train.jsonl"
    if args.show or args.html:
        _show(path, args.show, args.html)


def _segment_file(args: argparse.Namespace) -> Path:
    from asesjax.config import base_config, finish, load_config
    from asesjax.data.sources import load_records
    from asesjax.evals.answers import judge
    from asesjax.methods.ases.scoring import score_records, segment_scored
    from asesjax.segmentation.label import balance, lopsided
    from asesjax.segmentation.records import write_segments
    from asesjax.segmentation.score import SCORES

    if not args.output:
        raise UserError("--input needs --output, the segments file to write")
    fields = {"data.source": "file", "data.path": args.input, "data.n_train": "0",
              "data.validation_share": "0.0", "data.test_share": "0.0"}  # fmt: skip
    if args.strategy:
        fields["segment.strategy"] = args.strategy
    fields |= args.overrides
    config = load_config(args.config, fields) if args.config else finish(base_config(), fields)
    records, skipped = load_records(config.data, "train", config.seed, judge(config))
    for place, reason in skipped:
        print(harmless(f"skipped {place}: {reason}"), file=sys.stderr)
    strategy = config.segment.strategy
    score = SCORES.get(strategy)
    beta = config.segment.beta or score.beta
    rows = segment_scored(score_records(records, config), strategy, beta)
    write_segments(args.output, rows, {"strategy": strategy, "beta": beta, "input": args.input})
    n_pieces = sum(len(row.pieces) for row in rows)
    labels = [row.labels for row in rows]
    share = balance(labels)["as_share"]
    print(f"{args.output}: {counted(len(rows), 'rationale')}, {counted(n_pieces, 'piece')}, "
          f"{share:.1%} of them AS")  # fmt: skip
    if wrong := lopsided([row.scores or () for row in rows], labels, score.threshold):
        print(f"warning: {wrong}", file=sys.stderr)
    return Path(args.output)


def _show(path: Path, n: int, page: str | None) -> None:
    """Print the first n chains, and write all as a page where one is named."""
    from asesjax.core.files import write_text
    from asesjax.segmentation.label import merge_segments
    from asesjax.segmentation.records import read_segments
    from asesjax.viz.segments import segments_page, segments_text

    _, rows = read_segments(path)
    chains = [(row.id, merge_segments(row.texts, row.labels)) for row in rows]
    for name, segments in chains[:n]:
        print(harmless(f"\n{name}"))
        print(segments_text(segments, sys.stdout.isatty()))
    if page:
        n = counted(len(rows), "chain")
        title = f"{n}, labelled by {rows[0].strategy}" if rows else str(path)
        write_text(page, segments_page(title, chains))
        print(f"{page}: {n}")
