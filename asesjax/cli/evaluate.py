"""Measure a file of predictions: accuracy, BLEU, ROUGE and lengths, printed as JSON.

Reads WORKDIR/predictions of `asesjax run` and the output of `asesjax generate --input` where its
rows have references.
"""

import argparse
import json

# Fields of a row that are needed, and their types.
_FIELDS = {"chain": str, "segments": list, "tokens": int, "reference_answer": str,
           "reference_chain": str}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--predictions", required=True, help="JSONL file")
    parser.add_argument("--metric", default="numeric",
                        help="numeric, math, choice, yes_no, exact or authors")  # fmt: skip
    parser.add_argument("--answer-template", metavar="TEXT", help="data.answer_template of the run "
                        "that wrote the chains, such as '#### {answer}'")  # fmt: skip
    parser.add_argument("--language", default="en", help="en or zh, for BLEU and ROUGE")


def main(args: argparse.Namespace) -> None:
    """Print one JSON object."""
    from asesjax.config import base_config, finish
    from asesjax.core.errors import UserError
    from asesjax.core.files import read_jsonl
    from asesjax.data.rows import are_pairs
    from asesjax.evals.report import summary

    fields = {"evaluate.metric": args.metric, "evaluate.language": args.language}
    if args.answer_template is not None:
        fields["data.answer_template"] = args.answer_template
        if "{answer}" not in args.answer_template:
            raise UserError(
                f"--answer-template must hold {{answer}}, got {args.answer_template!r}"
            )
    config = finish(base_config(), fields)
    rows = []
    for line, row in read_jsonl(args.predictions):
        for name, kind in _FIELDS.items():
            if name not in row:
                raise UserError(f"{args.predictions}:{line}: field {name!r} is missing")
            if type(row[name]) is not kind:
                raise UserError(
                    f"{args.predictions}:{line}: field {name!r} must be {kind.__name__}, got "
                    f"{type(row[name]).__name__}"
                )
        if row.get("gold") and not are_pairs(row["gold"]):
            raise UserError(
                f"{args.predictions}:{line}: field 'gold' must be a list of [text, label]"
            )
        if not row["reference_answer"].strip() and args.metric != "exact":
            raise UserError(
                f"{args.predictions}:{line}: field 'reference_answer' is empty; give every "
                "question of the input its answer and generate again, or leave such rows out"
            )
        rows.append(row)
    if not rows:
        raise UserError(f"{args.predictions} holds no predictions")
    print(json.dumps(summary(rows, config), indent=2))
