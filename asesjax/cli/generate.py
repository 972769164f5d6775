"""Answer questions with a method that a run has trained.

One question:    asesjax generate --workdir DIR --method usm --question "..."
A file:          asesjax generate --workdir DIR --method usm --input in.jsonl --output out.jsonl
Rows of the file need a question (data.question_field); answer and rationale, where they are there,
go into the output as references for `asesjax evaluate`.
"""

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--workdir", required=True, help="folder of a run")
    parser.add_argument("--config", help=argparse.SUPPRESS)
    parser.add_argument("--method", required=True, help="one of the run's methods")
    parser.add_argument("--question", help="a question; the answer is printed")
    parser.add_argument("--input", help="JSONL file of questions")
    parser.add_argument("--output", help="JSONL file of answers to write; must not exist")
    parser.epilog = "--config.decode.field=value changes how it is decoded."


def main(args: argparse.Namespace) -> None:
    """Decode and print or write."""
    from asesjax.core.errors import UserError, unknown
    from asesjax.core.files import write_jsonl
    from asesjax.evals.runner import answer_questions, prediction_row
    from asesjax.run import load_method, open_run

    if bool(args.question) == bool(args.input):
        raise UserError("give either --question or --input")
    if args.input and not args.output:
        raise UserError("--input needs --output, the file of answers to write")
    if args.output and Path(args.output).exists():
        raise UserError(f"{args.output} exists; nothing is overwritten, give another --output")
    for name in args.overrides:
        if not name.startswith("decode."):
            raise UserError(f"generate takes --config.decode.* only, got --config.{name}")
    run = open_run(args.config, args.workdir, args.overrides)
    if args.method not in run.config.methods:
        raise unknown("--method", args.method, run.config.methods)
    records = _records(args, run.config)
    method, model, params, vocab = load_method(run, args.method)
    answers, _ = answer_questions(method, model, params, run.config, vocab, records)
    rows = [prediction_row(*pair, method, run.config, vocab)
            for pair in zip(records, answers, strict=True)]  # fmt: skip
    if args.output:
        write_jsonl(args.output, rows)
        print(f"{args.output}: {len(rows)} answers, "
              f"{sum(not row['done'] for row in rows)} of them not brought to an end")  # fmt: skip
    else:
        _show(rows[0])


def _records(args, config):
    from asesjax.core.errors import UserError
    from asesjax.core.files import read_jsonl
    from asesjax.core.types import Record

    if args.question:
        return [Record("question", args.question, "", "")]
    data = config.data
    records = []
    for line, row in read_jsonl(args.input):
        question = row.get(data.question_field)
        if not isinstance(question, str) or not question.strip():
            raise UserError(
                f"{args.input}:{line}: field {data.question_field!r} must be a text that is not "
                f"empty, got {question!r}"
            )
        rationale, answer = (
            str(row.get(name, "")) for name in (data.rationale_field, data.answer_field)
        )
        records.append(Record(str(row.get(data.id_field, line)), question, rationale, answer))
    if not records:
        raise UserError(f"{args.input} holds no questions")
    return records


def _show(row: dict) -> None:
    from asesjax.core.types import Segment
    from asesjax.viz.segments import segments_text

    segments = [Segment(part["text"], part["label"]) for part in row["segments"]]
    print(segments_text(segments, sys.stdout.isatty()))
    flags = [name for name in ("truncated", "repeated") if row[name]]
    print(f"answer: {row['answer']}" + (f"  ({', '.join(flags)})" if flags else ""))
