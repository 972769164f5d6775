"""Questions from the command line or from a person, each answered as it comes."""

import contextlib
import importlib
import sys

import numpy as np

from asesjax.cli.generate_file import doubts
from asesjax.core.errors import UserError, harmless
from asesjax.core.signals import at_once
from asesjax.core.types import Record, Segment
from asesjax.data.rows import BadRow, checked_text
from asesjax.evals.predictions import prediction_row
from asesjax.evals.runner import check_decode, check_question, make_decoder, stream_answers
from asesjax.methods.method import Request
from asesjax.run import Run, load_method
from asesjax.viz.segments import segments_text


def converse(run: Run, name: str, question: str | None = None) -> None:
    """Answer a question: print the chain, the answer and what was out of order. Without one, answer
    questions from standard input, a line each, until it ends. The program is compiled once, for the
    longest question allowed. What is drawn for a question depends on its number.
    """
    check_decode(run.config)
    trained = load_method(run, name)
    config = trained.method.config
    longest = max(config.decode.question_buckets)
    decoder = make_decoder(config, (longest,), config.decode.samples)

    def answer(question: str, number: int) -> None:
        if not question.strip():
            raise UserError("the question is empty; type one, such as: How much is 2 + 3?")
        try:
            checked_text(question, "question")
        except BadRow as error:
            raise UserError(f"the question is no plain text: {error}; type it again") from None
        ids = trained.vocab.encode(question)
        check_question(ids, "this question cannot be asked", config)
        for doubt in doubts(run, trained.vocab, [question], [ids]):
            print(f"warning: {harmless(doubt)}", file=sys.stderr)
        request = Request([ids], np.array([number]))
        ((_, chains),) = stream_answers(trained, request, decoder)
        record = Record("question", question, "", "")
        row = prediction_row(record, chains, trained.method, trained.vocab)
        segments = [Segment(part["text"], part["label"]) for part in row["segments"]]
        if segments:
            print(segments_text(segments, sys.stdout.isatty()))
        remarks = [] if row["finish_reason"] == "end" else [f"ended by {row['finish_reason']}"]
        if "votes" in row:
            votes = ", ".join(f"{answer}: {count}" for answer, count in row["votes"].items())
            remarks.append(f"votes of {row['samples']} chains: {votes or 'none'}")
            remarks += ["tied"] * row["tied"]
        remark = f"  ({'; '.join(remarks)})" if remarks else ""
        print(harmless(f"answer: {row['answer']}{remark}"), flush=True)

    if question is not None:
        return answer(question, 0)
    terminal = sys.stdin.isatty()
    if hasattr(sys.stdin, "reconfigure"):
        # Bytes that are no text must not end the conversation.
        sys.stdin.reconfigure(errors="surrogateescape")
    if terminal:
        with contextlib.suppress(ImportError):
            importlib.import_module("readline")  # gives ``input`` line editing and a history
        print("A question a line; Ctrl-D ends. The first answer waits for compiling.")
    number = 0
    while True:
        try:
            with at_once():
                question = input("question> " if terminal else "")
        except EOFError:
            if terminal:
                print()
            return
        try:
            answer(question, number)
            number += 1
        except UserError as error:
            print(f"asesjax: {harmless(str(error))}", file=sys.stderr, flush=True)
