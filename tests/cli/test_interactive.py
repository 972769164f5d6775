"""``generate``: one question, a conversation, and what is asked of it wrongly."""

import io
import re
import sys

import pytest
from shared.random_run import generate

from asesjax.evals.runner import n_compilations


def talk(monkeypatch, content):
    stdin = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)


# Drawn from one token only, it is greedy.
VOTES = ["--config.decode.sampler=sample", "--config.decode.samples=3", "--config.decode.top_k=1"]


def test_a_conversation(workdir, monkeypatch, capsys):
    talk(monkeypatch, b"ab?\n\n  \n" + b"a" * 25 + b"\n\xff\xfe\ncab b?\nab?")
    before = n_compilations()
    assert generate(workdir, "--interactive", *VOTES, method="dsm") == 0
    captured = capsys.readouterr()
    assert n_compilations() == before + 1
    assert captured.err.count("the question is empty") == 2
    assert "25 tokens" in captured.err and "which is no text" in captured.err
    first, other, again, end = re.split("(?<=chains).*\n", captured.out)
    assert first == again != other and end == ""
    assert first.startswith("ES | ") and "answer: " in first and "votes of 3 chains" in first

    # Request by itself, the question has the same answer.
    assert generate(workdir, "--question", "ab?", *VOTES, method="dsm") == 0
    assert capsys.readouterr().out.startswith(first)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_it_asks(workdir, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", Terminal("ab?\n"))
    assert generate(workdir, *VOTES, method="dsm") == 0
    out = capsys.readouterr().out
    assert out.count("question> ") == 2 and out.count("answer: ") == 1 and out.endswith("\n")


@pytest.mark.parametrize(
    "more, words",
    [
        (["--question", "a <extra_id_0>"], "holds <extra_id_0>, which models take for a mark"),
        ([], "give either --question or --input, or --interactive"),
        (["--question", "x", "--interactive"], "give either"),
        (["--question", "x", "--input", "y", "--output", "z"], "give either"),
        (["--input", "x"], "--input needs --output"),
        (["--question", "x", "--output", "y"], "go with --input"),
        (["--question", ""], "the question is empty"),
        (["--question", "a" * 25], "has 25 tokens"),
        (["--question", "x", "--config.decode.sampler=smaple"], "did you mean 'sample'"),
        (["--question", "x", "--config.decode.temperature=0.5"], "set decode.sampler=sample"),
        (["--question", "x", "--config.decode.samples=3"], "set decode.sampler=sample"),
        (["--question", "x", "--config.decode.max_rounds=-1"], "decode.max_rounds must be at"),
        (["--question", "x", "--config.decode.prefix=<extra_id_0>"], "cannot write the prefix"),
    ],
)
def test_mistakes_are_explained(workdir, capsys, more, words):
    assert generate(workdir, *more) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error
