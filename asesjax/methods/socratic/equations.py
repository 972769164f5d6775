"""The guide of a decomposer: the equations of a chain's steps, or their operators alone.

Shridhar et al. 2023 write ``<<48/2=24>>``; T5's vocabulary has no ``<``, so here a step is a pair
of square brackets: ``[48/2=24]``, ``[/]``.
"""

import re
from collections.abc import Sequence

_MARK = re.compile(r"<<([^<>]*)>>")  # GSM8K's calculator marks, where data.strip_calculator is off
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
# "dogs", "pieces of", "feet/hour" behind a number; "x" between spaces multiplies.
_UNIT = r"(?:(?: (?!x )|/)?[^\W\d_]{2,}|/[^\W\d_]+){0,2}?"
_OPERAND = rf"(?:\( ?)*-?[$€£]?(?:{_NUMBER})%?{_UNIT}(?: ?\))*"
_TERM = rf"{_OPERAND}(?: ?[-–+*/xX×÷] ?{_OPERAND})*"
_EQUATION = re.compile(rf"(?<![\w.,/])({_TERM})((?: ?= ?{_TERM})+)")
_NO_SIGN = re.compile(r"[^\W\d_]{2,}|/[^\W\d_]+|[\s$€£,]")
_SIGNS = str.maketrans("×xX÷–", "***/-")
_OPERATOR = re.compile(r"(?<=[\d)%.])[-+*/]")


def find_equations(text: str) -> list[str]:
    """Return the computations of a step, without blanks, units and currency. GSM8K's calculator
    marks are taken where there are any; otherwise every ``a + b = c`` of the text, whose right side
    is the last number where several sides follow each other.

    >>> find_equations("That is 3 x $1,500 = $9,000 / 2 = $4,500.")
    ['3*1500=4500']
    """
    marks = _MARK.findall(text)
    if marks:
        return ["".join(mark.split()) for mark in marks]
    found = []
    for match in _EQUATION.finditer(text):
        left, right = _signs(match[1]), _signs(match[2].rpartition("=")[2])
        if _OPERATOR.search(left) and not _OPERATOR.search(right):
            found.append(f"{left}={right}")
    return found


def equations_text(texts: Sequence[str], guidance: str) -> str:
    """Write the guide of a chain, "equations" or "operators": brackets for each step, empty where
    it computes nothing, with commas between several equations.

    >>> equations_text(["She has 48/2 = 24.", "So 48 + 24 - 2 = 70.", "All."], "operators")
    '[/] [+-] []'
    """
    steps = [find_equations(text) for text in texts]
    if guidance == "operators":
        steps = [["".join(_OPERATOR.findall(one.partition("=")[0])) for one in own]
                 for own in steps]  # fmt: skip
    return " ".join(f"[{', '.join(own)}]" for own in steps)


def _signs(term: str) -> str:
    return re.sub(r"/(?=$|[-+*/)])", "", _NO_SIGN.sub("", term)).translate(_SIGNS)
