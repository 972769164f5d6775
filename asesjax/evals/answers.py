r"""Right or wrong: the final answer of a generated chain against the reference answer.

The authors of AS-ES compare the last matches of ``\d+[.,/]?\d*`` as strings, which is
``metric="authors"``; ``"math"`` is math-verify. The rest is ours.

The answer stands behind a marker, the words before ``{answer}`` in ``data.answer_template``. Text
may continue after it, so the first marker decides. Without a marker in the chain it is the content
of the last ``\boxed{...}``, and without that the whole chain is looked at.
"""

import re
import threading
import unicodedata
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from asesjax.core.errors import UserError, unknown
from asesjax.core.options import Config
from asesjax.evals.numbers import (
    find_numbers,
    last_number,
    leading_number,
    plain,
    value,
    whole_number,
)
from asesjax.segmentation.pieces import split_sentences

METRICS = ("numeric", "math", "choice", "yes_no", "exact", "authors")
MARKER = "the answer is"

_AUTHORS = re.compile(r"\d+[.,/]?\d*")
_BOXED = re.compile(r"\\f?boxed\s*\{")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_EDGES = " .,;:!?\"'()[]{}*$。，：；！？“”‘’（）"
# A letter in brackets, a capital one, or any with nothing but a full stop behind it.
_BRACKETS = r"\(\s*([A-Za-z])\s*\)|\[\s*([A-Za-z])\s*\]|([A-Za-z])\)"
_ALONE = r"([A-Za-z])(?=[*$\"”]*\s*(?:[.:,、。]|$))"
_OPTION = r"[\s:*$\"“]*(?:(?i:option|choice|answer|选项|选)\s*)?[*$]*"
_FIRST_LETTER = re.compile(rf"{_OPTION}(?:{_BRACKETS}|{_ALONE}|([A-Z])(?![A-Za-z0-9_'’]))")
_ONLY_LETTER = re.compile(rf"{_OPTION}(?:{_BRACKETS}|{_ALONE})")
_ANY_LETTER = re.compile(
    r"\(\s*([A-Za-z])\s*\)|(?i:option|choice|选项|选)\s*\(?([A-Z])(?![A-Za-z])"
)
_YES_NO = re.compile(
    r"(not\s+)?(?<![a-z])(?:(yes|true|correct)|(no|false|incorrect))(?![a-z'’])|"
    r"(不是|不对|不正确|错误?|否)|(是(?!否)|对|正确)",
    re.IGNORECASE,
)
_NEEDS = {
    "numeric": "no number that can be read as a whole",
    "choice": "no letter of a choice",
    "yes_no": "neither yes nor no",
    "math": "no expression that math-verify can read",
}


def marker_of(answer_template: str) -> str:
    """Return the marker of an answer template: the template, or ``MARKER`` where no words stand
    before its ``{answer}``.
    """
    return answer_template if answer_template.partition("{answer}")[0].strip() else MARKER


def answer_number(text: str, marker: str = MARKER) -> Fraction | None:
    """Return the number that a chain gives as its answer, None where it has none that can be read
    as a whole. Behind the ``marker`` (in any case) it is 1. the number right after it, or the
    result of the calculation that this number begins (``5 + 3 = 8``); 2. else the last number of
    the marker's sentence; 3. else, or without a marker, the last number of the text.
    """
    rest, mark = _behind(text, marker)
    if not mark:
        return last_number(rest)
    found, number = _given_number(rest)
    return number if found or mark == "box" else last_number(text)


def is_correct(
    prediction_text: str, reference_answer: str, metric: str, marker: str = MARKER,
    reference_chain: str = "",
) -> bool:  # fmt: skip
    r"""Tell whether a generated chain ends in the reference answer, or where that is empty in the
    answer of the reference chain. ``marker`` may be an answer template; what stands before its
    ``{answer}`` counts, and words after it end the answer.

    "numeric" compares ``answer_number`` with the reference as exact fractions. "math" asks
    math-verify whether they mean the same. "choice" compares letters (``B) 230`` is ``B``),
    "yes_no" yes or true with no or false. All raise UserError for a reference without such answer.
    "authors" compares the last matches of ``\d+[.,/]?\d*`` as strings, without a closing ``.`` or
    ``/``; a reference without a number never matches. "exact" compares the text after the marker
    (all of it, its first sentence, or the chain without a marker) but for case, white space, width
    and outer punctuation.

    >>> is_correct("The answer is 1,000.00.", "1000", "numeric")
    True
    """
    said = parse_answer(prediction_text, metric, marker)
    if reference_answer:
        reference = _reference(reference_answer, metric)
    else:
        reference = parse_answer(reference_chain, metric, marker)
    if reference is None and metric in _NEEDS:
        raise UserError(
            f"the reference answer {(reference_answer or reference_chain)[:60]!r} holds "
            f"{_NEEDS[metric]}, which evaluate.metric={metric} needs; use evaluate.metric=exact "
            "for words, choice for letters, or yes_no, numeric, math for what they are called after"
        )
    if metric == "exact":
        return (reference or "") in (said or "", _normal(_behind(prediction_text, marker)[0]))
    if said is None or metric != "math":
        return said is not None and said == reference
    assert reference is not None  # asked for above
    return said == reference or _same_expression(reference, said)


def parse_answer(text: str, metric: str, marker: str = MARKER) -> str | None:
    """Return the answer of a generated chain, such that equal texts are equal answers. "numeric"
    writes the exact fraction, "math" what math-verify reads, "choice" a capital letter, "yes_no"
    ``yes`` or ``no``, "authors" and "exact" what ``is_correct`` compares (the first sentence after
    the marker). None for a chain that gives no such answer.

    >>> parse_answer("The answer is $1,000.50.", "numeric"), parse_answer("None.", "numeric")
    ('2001/2', None)
    """
    if metric == "authors":
        found = _AUTHORS.findall(text)
        return found[-1].split(",")[0].rstrip("./") if found else None
    if metric == "numeric":
        number = answer_number(text, marker)
        return None if number is None else str(number)
    rest, mark = _behind(text, marker)
    marked, sentence = bool(mark), _first_sentence(rest) if mark else rest
    if metric == "exact":
        return _normal(sentence) or None
    if metric == "math":
        return _expression(sentence)
    if metric == "choice":
        return _choice(rest, sentence, marked)
    if metric == "yes_no":
        return _yes_no(sentence, marked)
    raise unknown("evaluate.metric", metric, METRICS)


def judge(config: Config) -> Callable[[str, str], bool]:
    """Return a function of a chain as its author closed it, and the right answer: behind the marker
    of ``data.answer_template`` if the chain has it, or else behind ``MARKER``.
    """
    metric, own = config.evaluate.metric, marker_of(config.data.answer_template)

    def is_right(chain: str, answer: str) -> bool:
        marker = own if _behind(chain, own)[1] == "marker" else MARKER
        return is_correct(chain, answer, metric, marker)

    return is_right


def _reference(text: str, metric: str) -> str | None:
    """Read a reference answer as what stands behind a marker is read."""
    if metric == "numeric":
        found, number = _given_number(text)
        number = number if found else last_number(text)
        return None if number is None else str(number)
    if metric == "choice":
        found = _ONLY_LETTER.match(_wide(text))
        return _letter(found) if found else None
    if metric == "yes_no":
        return _yes_no(text, True)
    if metric == "math":
        return _expression(text)
    return _normal(text) if metric == "exact" else parse_answer(text, metric)


def _given_number(rest: str) -> tuple[bool, Fraction | None]:
    """Tell whether the text behind a marker gives a number, and its value if that is readable."""
    text = plain(rest)
    found, number = leading_number(text)
    if not found and (numbers := find_numbers(_first_sentence(text))):
        found, number = True, value(numbers[-1])
    return found, number


def _choice(rest: str, sentence: str, marked: bool) -> str | None:
    text = _wide(rest)
    found = _FIRST_LETTER.match(text) if marked else _ONLY_LETTER.match(text)
    if not found:
        letters = list(_ANY_LETTER.finditer(_wide(sentence)))
        found = letters[-1] if letters else None
    return _letter(found) if found else None


def _letter(found: re.Match[str]) -> str:
    return next(filter(None, found.groups())).upper()


def _yes_no(sentence: str, marked: bool) -> str | None:
    """Behind a marker the first yes or no counts; in a whole chain its first word, or the last."""
    found = list(_YES_NO.finditer(_wide(sentence)))
    if not found:
        return None
    first = marked or not sentence[: found[0].start()].strip(_EDGES)
    negated, yes, no, chinese_no, _ = found[0 if first else -1].groups()
    return None if negated else "no" if no or chinese_no else "yes"


def _expression(text: str) -> str | None:
    """Return an answer in words that math-verify reads as the same: LaTeX, or an exact fraction."""
    text = _unboxed(text).strip(" .,;:!?\n。，：；").replace("$", " ").strip()
    number = whole_number(text)
    written = text if number is None else str(number)
    return written if written and _parsed(written) else None


def _same_expression(reference: str, said: str) -> bool:
    sides = _parsed(reference), _parsed(said)
    return bool(_math_verify().verify(*sides, **_timeout("timeout_seconds")))


def _parsed(text: str) -> list:
    return _math_verify().parse(f"${text}$", **_timeout("parsing_timeout"))


def _math_verify() -> Any:
    try:
        import math_verify
    except ImportError:
        raise UserError(
            "evaluate.metric=math needs the package math-verify: pip install 'asesjax[eval]'"
        ) from None
    return math_verify


def _timeout(name: str) -> dict[str, int | None]:
    """Seconds after which an expression counts as unreadable; only the main thread can stop it."""
    return {name: 5 if threading.current_thread() is threading.main_thread() else None}


def _behind(text: str, marker: str) -> tuple[str, str]:
    """Return what stands behind the marker, or else in the last box, or else the whole text, and
    which of them it is: ``"marker"``, ``"box"`` or ``""``.
    """
    before, _, after = marker.partition("{answer}")
    # Vocabularies normalise what they write: a full-width colon comes back as a plain one.
    for words in (before.split(), _wide(before).split()):
        found = words and re.search(r"\s*".join(map(re.escape, words)), text, re.IGNORECASE)
        if found:
            rest = text[found.end() :]
            # Words end the answer; a full stop may be a decimal point.
            rest = rest.partition(after.strip())[0] if re.search(r"\w", after) else rest
            return _unboxed(rest), "marker"
    boxed = _boxes(text)
    return (boxed[-1][2], "box") if boxed else (text, "")


def _unboxed(text: str) -> str:
    """Put the content of every box in its place."""
    for start, end, content in reversed(_boxes(text)):
        text = text[:start] + content + text[end:]
    return _TEXT.sub(r"\1", text)


def _boxes(text: str) -> list[tuple[int, int, str]]:
    """Return start, end and content of every box that is closed."""
    boxes: list[tuple[int, int, str]] = []
    for found in _BOXED.finditer(text):
        depth = int(not boxes or found.start() >= boxes[-1][1])  # none inside another
        for place in range(found.end(), len(text) if depth else 0):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if not depth:
                boxes.append((found.start(), place + 1, text[found.end() : place]))
                break
    return boxes


def _first_sentence(text: str) -> str:
    text = text.lstrip()
    return text[: split_sentences(text)[0].end] if text else ""


def _wide(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _normal(text: str) -> str:
    return " ".join(_wide(_TEXT.sub(r"\1", text)).casefold().split()).strip(_EDGES)
