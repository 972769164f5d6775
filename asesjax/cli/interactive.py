"""Questions from the command line or from a person, each answered as it comes."""

import contextlib
import importlib
import sys

from asesjax.api import LoadedRow
from asesjax.cli.questions import doubts
from asesjax.core.errors import UserError, harmless
from asesjax.core.signals import at_once
from asesjax.evals.runner import check_decode
from asesjax.run import Run, load_method
from asesjax.viz.segments import segments_text


def converse(run: Run, name: str, question: str | None = None) -> None:
    """Answer a question: print the chain, the answer and what was out of order. Without one, answer
    questions from standard input, a line each, until it ends. The program is compiled once. What is
    drawn for a question depends on its number.
    """
    check_decode(run.config)
    row = LoadedRow(run, load_method(run, name))

    def answer(question: str, number: int) -> None:
        (found,) = row.generate(question, first=number)
        vocab = row.trained.vocab
        for doubt in doubts(run, vocab, [question], [vocab.encode(question)]):
            print(f"warning: {harmless(doubt)}", file=sys.stderr)
        print(segments_text(found.segments, sys.stdout.isatty()) or "(nothing)")
        remarks = [] if found.finish_reason == "end" else [f"ended by {found.finish_reason}"]
        samples = run.config.decode.samples
        if samples > 1:
            votes = ", ".join(f"{answer}: {count}" for answer, count in found.votes.items())
            remarks.append(f"votes of {samples} chains: {votes or 'none'}")
            remarks += ["tied"] * found.tied
        remark = f"  ({'; '.join(remarks)})" if remarks else ""
        print(harmless(f"answer: {found.answer}{remark}"), flush=True)

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
