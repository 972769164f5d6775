"""Answer questions with a method that a run has trained.

One question:    asesjax generate --workdir DIR --method usm --question "..."
In turn:         asesjax generate --workdir DIR --method usm
A file:          asesjax generate --workdir DIR --method usm --input in.jsonl --output out.jsonl

The file has any format that data.source=file reads, and rows as the run's data has them, or a
question alone (data.question_field). What else they may have:
  answer, rationale                  go into the output as references for `asesjax evaluate`
  max_rounds, max_segment_tokens,    bounds for this row, at most those of decode.*;
  max_chain_tokens                   max_segment_tokens may be a list, one for each segment;
                                     direct and answer_only have max_chain_tokens alone
  prefix                             what the chain begins with, in the place of decode.prefix
The output grows in the order of the input. Stopped at any moment, the same command resumes, and
the finished file is the same to the byte; OUTPUT.run.json says what it is made from. What is drawn
(decode.sampler=sample) depends on decode.seed, the row's place and the number of the sample alone.
Several processes (--coordinator) share the questions of a file; process 0 writes.
"""

import argparse
import sys

from asesjax.cli.main import add_process_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--workdir", required=True, help="folder of a run")
    parser.add_argument("--config", help=argparse.SUPPRESS)
    parser.add_argument("--method", required=True, help="one of the run's methods")
    parser.add_argument("--question", help="a question; the answer is printed")
    parser.add_argument("--input", help="file or folder of questions, as data.source=file reads "
                        "it")  # fmt: skip
    parser.add_argument("--output", help="JSONL file of answers, written or continued")
    parser.add_argument("--log-probabilities", action="store_true", help="with --input: ids and "
                        "log probability of each token in the output's segments")  # fmt: skip
    parser.add_argument("--interactive", action="store_true", help="read questions from standard "
                        "input, a line each; on a terminal also if neither is given")  # fmt: skip
    add_process_arguments(parser)
    parser.epilog = (
        "--config.decode.field=value changes how it is decoded: sampler=sample, temperature, "
        "top_k, top_p, samples=N to let N chains vote, beams, max_chain_tokens, ..."
    )


def main(args: argparse.Namespace) -> None:
    """Decode and print or write."""
    from asesjax.api import row_run
    from asesjax.core.errors import UserError
    from asesjax.core.processes import several
    from asesjax.experiment import open_run

    asked = (args.question is not None) + (args.input is not None) + args.interactive
    if asked > 1 or not (asked or sys.stdin.isatty()):
        raise UserError(
            "give either --question or --input, or --interactive to be asked for questions"
        )
    if args.input is not None and not args.output:
        raise UserError("--input needs --output, the file of answers to write")
    if args.input is None and (args.output or args.log_probabilities):
        raise UserError("--output and --log-probabilities go with --input, a file of questions")
    if args.input is None and several():
        raise UserError("several processes share the questions of --input; ask one in one process")
    for name in args.overrides:
        if not name.startswith("decode."):
            raise UserError(f"generate takes --config.decode.* only, got --config.{name}")
    run = row_run(open_run(args.config, args.workdir, args.overrides), args.method, args.overrides)
    if args.input is not None:
        from asesjax.cli.generate_file import generate_file

        generate_file(run, args.method, args.input, args.output, args.log_probabilities)
    else:
        from asesjax.cli.interactive import converse

        converse(run, args.method, args.question)
