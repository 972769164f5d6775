r"""Right or wrong: the final answer of a generated chain against the reference answer.

The authors of AS-ES compare the last matches of ``\d+[.,/]?\d*`` as strings, which is
``metric="authors"``. The rest is ours.
"""

import re
import unicodedata
from fractions import Fraction

from asesjax.core.errors import UserError, unknown
from asesjax.segment.pieces import split_sentences

METRICS = ("numeric", "authors", "exact")

_AUTHORS = re.compile(r"\d+[.,/]?\d*")
# Full-width forms, as Chinese text has them, and the true minus sign.
_PLAIN = str.maketrans("０１２３４５６７８９．／％－−＋＄￥", "0123456789./%--+$¥")
_UNSIGNED = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\w.])\.\d+)"
_NUMBER = re.compile(
    rf"""
    # A minus between two operands (16-3) or in a word (T-5) is no sign.
    (?P<minus>(?<![\w)\]%.-])-(?:[$€£¥]\ ?)?|[$€£¥]\ ?-)?
    (?: # a fraction, with a whole number before it or not; a date 1/2/2020 is none
        (?<![\d/.,])(?:(?P<whole>\d+)\ )?(?P<top>{_UNSIGNED})/(?P<bottom>0*[1-9]\d*)(?![\d/]|[.,]\d)
      | (?P<number>{_UNSIGNED})
    )""",
    re.ASCII | re.VERBOSE,
)
# Between two numbers of one calculation: operators alone, or words of one sentence with an operator
# among them ("15 gallons * 8 pints").
_OPERATORS = re.compile(r"[ +\-*/x×÷=()$€£¥%<>]*")
_WITH_UNITS = re.compile(r"[^\n.,!?:;+*/×÷=]*[+*/×÷=][^\n.,!?:;]*")
_MAX_DIGITS = 4000  # Python refuses to read longer ones
_EDGES = " .,;:!?\"'()[]{}*。，；：！？“”‘’（）"


def last_number(text: str) -> Fraction | None:
    """Return the value of the last number in a text, None where there is none. Thousands
    separators, decimals, fractions, signs, currency signs and full-width digits are read; a percent
    sign is ignored (50% is 50), and a full stop at the end belongs to the sentence.

    >>> last_number("-$1,234.50"), last_number("2 1/2 cups"), last_number("No number.")
    (Fraction(-2469, 2), Fraction(5, 2), None)
    """
    found = list(_NUMBER.finditer(text.translate(_PLAIN)))
    return _value(found[-1]) if found else None


def answer_number(text: str, marker: str = "the answer is") -> Fraction | None:
    """Return the number that a chain gives as its answer, None where it has no number. Text may
    continue after the answer, so the first ``marker`` (in any case) decides: 1. the number right
    after it, or the last of the calculation that this number begins (``5 + 3 = 8``); 2. else the
    last number of the marker's sentence; 3. else, or without a marker, the last number of the text.
    """
    rest = _behind(text, marker)
    if rest is None:
        return last_number(text)
    plain = rest.translate(_PLAIN)
    answer = None
    for match in _NUMBER.finditer(plain):
        if answer is None:
            if re.search(r"\w|\n", plain[: match.start()]):
                break
        else:
            between = plain[answer.end() : match.start()]
            if (between.isspace() and not match["minus"]) or "**" in between:
                break  # "72 15" are two numbers, "**72** dogs" is bold print
            if not (_OPERATORS.fullmatch(between) or _WITH_UNITS.fullmatch(between)):
                break
        answer = match
    if answer is not None:
        return _value(answer)
    number = last_number(_first_sentence(rest))
    return last_number(text) if number is None else number


def is_correct(
    prediction_text: str, reference_answer: str, metric: str, marker: str = "the answer is"
) -> bool:
    r"""Tell whether a generated chain ends in the reference answer.

    "numeric" compares ``answer_number`` with the last number of the reference as exact fractions,
    and raises UserError if there is none. "authors" compares the last matches of ``\d+[.,/]?\d*``
    as strings, without a closing ``.`` or ``/``; a reference without a number never matches.
    "exact" compares the text after the marker (all of it, its first sentence, or the chain without
    a marker) but for case, white space, width and outer punctuation.

    >>> is_correct("The answer is 1,000.00.", "1000", "numeric")
    True
    """
    said = parse_answer(prediction_text, metric, marker)
    if metric == "numeric":
        reference = last_number(reference_answer)
        if reference is None:
            raise UserError(
                f"the reference answer {reference_answer[:60]!r} holds no number, which evaluate."
                "metric=numeric needs; use evaluate.metric=exact for answers in words"
            )
        return said == str(reference)
    if metric == "authors":
        return said is not None and said == _authors_answer(reference_answer)
    rest = _behind(prediction_text, marker)
    whole = prediction_text if rest is None else rest
    return _normal(reference_answer) in (said or "", _normal(whole))


def parse_answer(text: str, metric: str, marker: str = "the answer is") -> str | None:
    """Return the answer of a generated chain, such that equal texts are equal answers. "numeric"
    writes the exact fraction, "authors" and "exact" what ``is_correct`` compares (the first
    sentence after the marker). None for an empty chain or one without a number.

    >>> parse_answer("The answer is $1,000.50.", "numeric"), parse_answer("None.", "numeric")
    ('2001/2', None)
    """
    if metric == "numeric":
        number = answer_number(text, marker)
        return None if number is None else str(number)
    if metric == "authors":
        return _authors_answer(text)
    if metric == "exact":
        rest = _behind(text, marker)
        return _normal(text if rest is None else _first_sentence(rest)) or None
    raise unknown("evaluate.metric", metric, METRICS)


def _value(match: re.Match[str]) -> Fraction | None:
    if match.end() - match.start() > _MAX_DIGITS:
        return None
    if match["number"]:
        value = Fraction(match["number"].replace(",", ""))
    else:
        value = Fraction(match["top"].replace(",", "")) / int(match["bottom"])
        if match["whole"] and value < 1:  # 2 1/2; but 3 8/4 is two numbers
            value += int(match["whole"])
    return -value if match["minus"] else value


def _behind(text: str, marker: str) -> str | None:
    found = re.search(re.escape(marker), text, re.IGNORECASE) if marker else None
    return text[found.end() :] if found else None


def _first_sentence(text: str) -> str:
    text = text.lstrip()
    return text[: split_sentences(text)[0].end] if text else ""


def _authors_answer(text: str) -> str | None:
    found = _AUTHORS.findall(text)
    return found[-1].split(",")[0].rstrip("./") if found else None


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_EDGES)
