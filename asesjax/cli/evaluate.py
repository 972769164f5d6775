"""Measure a file of predictions: accuracy, BLEU, ROUGE and lengths, printed as JSON.

Reads WORKDIR/predictions of `asesjax run` and the output of `asesjax generate --input` where its
rows have references.
"""

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--predictions", required=True, help="JSONL file")
    parser.add_argument("--metric", default="numeric", help="numeric, authors or exact")
    parser.add_argument("--language", default="en", help="en or zh, for BLEU and ROUGE")


def main(args: argparse.Namespace) -> None:
    """Print one JSON object."""
    from asesjax.config import base_config, finish
    from asesjax.core.errors import UserError
    from asesjax.core.files import read_jsonl
    from asesjax.evals.report import summary

    fields = {"evaluate.metric": args.metric, "evaluate.language": args.language}
    config = finish(base_config(), fields)
    rows = []
    for line, row in read_jsonl(args.predictions):
        for name in ("chain", "segments", "tokens", "reference_answer", "reference_chain"):
            if name not in row:
                raise UserError(f"{args.predictions}:{line}: field {name!r} is missing")
        rows.append(row)
    if not rows:
        raise UserError(f"{args.predictions} holds no predictions")
    print(json.dumps(summary(rows, config.evaluate), indent=2))
