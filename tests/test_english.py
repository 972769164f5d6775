"""Texts, comments and docstrings avoid phrases for which plain English has a common word."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SUFFIXES = {".py", ".sh", ".sbatch", ".md"}
FILES = sorted(
    path for folder in ("asesjax", "launch", "configs") for path in (ROOT / folder).rglob("*")
    if path.suffix in SUFFIXES
)  # fmt: skip
# Phrase -> what to write instead.
PHRASES = {
    "mend": "fix", "mends": "fixes", "goes on": "resumes or continues", "go on with": "continue",
    "gone on with": "continued", "handed on": "passed or returned", "from aside": "(say what it "
    "observes)", "of use": "useful", "what becomes of": "the result of", "is told of": "gets",
}  # fmt: skip
GENERATED = "Let us go on with the story."  # a sentence of generated data, which must not change


def found(text):
    """Return (line number, phrase) of each phrase, also across the ends of lines."""
    text = text.replace(GENERATED, " " * len(GENERATED))
    for phrase in PHRASES:
        pattern = r"[\s#\"']+".join(map(re.escape, phrase.split()))
        for match in re.finditer(rf"\b{pattern}\b", text, re.I):
            yield text.count("\n", 0, match.start()) + 1, phrase


@pytest.mark.parametrize("text, lines", [
    ("a = 1  # mend it", [1]), ('"""It goes\non."""', [1]), ("# x\n# it goes\n# on", [2]),
    ('("the run goes "\n "on")', [1]), ("# commend, goes once", []), (GENERATED, []),
])  # fmt: skip
def test_phrases_are_found_across_lines(text, lines):
    assert [line for line, _ in found(text)] == lines


def test_no_unwanted_phrases():
    assert len(FILES) > 100
    wrong = [
        f'{path.relative_to(ROOT)}:{line}: "{phrase}", better: {PHRASES[phrase]}'
        for path in FILES
        for line, phrase in found(path.read_text(encoding="utf-8"))
    ]
    assert not wrong, "\n".join(wrong)
