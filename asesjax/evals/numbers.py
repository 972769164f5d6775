r"""Numbers as people, programs and LaTeX write them. A number is read as a whole or not at all:
``2.0107e-06`` is no 6, ``\frac{1}{4}`` no 4, ``9 500`` no 9, and ``1.2.3``, ``3:30``, ``1,5``,
``2\pi``, ``2024-03-05`` and ``March 5, 2024`` are none.
"""

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction

_MOST_DIGITS = 4000  # Python refuses to read or write numbers much longer
_SIGNS = str.maketrans("．／％−－–‒﹣‑＋＄￥（）٫٬·⋅", "./%------+$¥().,**")
_SPACES = "\u00a0\u2007\u2009\u202f"  # that do not break, and thin ones: inside a number
_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
# What LaTeX has for plain signs, spaces and brackets. Other commands stay.
_LATEX = (
    (re.compile(r"\{,\}|(?<=\d)\\[,;:! ](?=\d{3})"), ","),
    (re.compile(r"\\(?:left|right|displaystyle|limits)(?![A-Za-z])|\\!"), ""),
    (re.compile(r"\\(?:times|cdot)(?![A-Za-z])"), "×"),
    (re.compile(r"\\div(?![A-Za-z])"), "÷"),
    (re.compile(r"\\pi(?![A-Za-z])"), "π"),
    (re.compile(r"\\sqrt(?:\[[^\]]*\])?\s*"), "√"),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?"), "°"),
    (re.compile(r"\\([%$#&_{}])"), r"\1"),
    (re.compile(r"\\(?:[,;: ()\[\]]|quad(?![A-Za-z]))|~"), " "),
    (re.compile(r"\\(?:boxed|fbox|text|textbf|textit|mathrm|mathbf|mathit|mbox|boldsymbol)\s*"
                r"\{([^{}]*)\}"), r"\1"),
)  # fmt: skip
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
_VULGAR = re.compile("[¼-¾⅐-⅞↉]")
# Groups of three digits; in "5 100-dollar bills" there are two numbers.
_GROUPS = re.compile(r"(?<![\d.,:/^_])(?<!\d )[1-9]\d{0,2}(?: \d{3})+(?!\d| \d|-[A-Za-z])")
_MONTH = (r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|"
          r"Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\b\.?")  # fmt: skip
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_UNSIGNED = r"(?:(?:\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d\d)+,\d{3}|\d++)(?:\.\d+)?|(?<![\w.])\.\d+)"
_NUMBER = re.compile(
    rf"""
    (?P<part>(?<=[√π^])|(?<=[\w)\]}}][_/]))?  # of a root, an exponent, an index or a quotient
    # A minus between two operands (16-3) or in a word (T-5) is no sign.
    (?P<minus>(?<![\w)\]%.-])-(?:[$€£¥]\ ?)?|[$€£¥]\ ?-)?
    (?:
      # A date, or another code of digits: no sum has operands such as 03.
      \d++(?:-\d++)*-0\d(?:-?\d++)* | \d{{4}}-(?:[1-9]|1[0-2])-{_DAY}(?![\d.-]*\d|\s*=)
    | \b{_MONTH}\ (?:(?:{_DAY}(?:st|nd|rd|th)?,?\ )?\d{{4}}\b(?![.,]\d)
                      |{_DAY}(?:st|nd|rd|th)?(?=\s*(?:[.,;:!?)](?!\d)|$)))
    | {_DAY}(?:st|nd|rd|th)?(?:\ of)?\ {_MONTH}(?:,?\ \d{{4}}\b)?
    | \d{{4}}\ ?年\ ?\d{{1,2}}\ ?月(?:\ ?{_DAY}\ ?[日号])? | \d{{1,2}}\ ?月\ ?{_DAY}\ ?[日号]
    | (?:(?P<whole>\d++)\ (?=\d+/\d))?
      (?P<top>{_UNSIGNED})
      (?:[eE](?P<exponent>[+-]?\d+)(?![\w])|(?:\^|\*\*)\{{?(?P<power>[+-]?\d+)\}}?)?
      (?:\s?[×x*]\s?10(?:\^|\*\*)\{{?(?P<ten>[+-]?\d+)\}}?)?
      (?:/(?P<bottom>{_UNSIGNED}))?
      (?!\d|[.,:/][+-]?\d|[eE][+-]?\d|\s?[√π^]|\*\*\d)
    | \d(?:[.,:/^][+-]?(?=\d)|[eE][+-]?(?=\d)|\d)*+  # a token that is no number
    )""",
    re.ASCII | re.VERBOSE,
)
# Between two numbers of one calculation: operators alone, or words of one sentence with an operator
# among them ("15 gallons * 8 pints").
_OPERATORS = re.compile(r"(?:[ +\-*/x×÷=()$€£¥%]|<<|>>)*")
_WITH_UNITS = re.compile(r"[^\n.,!?:;+*/×÷=]*[+*/×÷=][^\n.,!?:;]*")
# A bracket behind a number explains it ("5 (3 + 2)"), unless its value follows: "5 (3 + 2) = 25".
_FACTOR = re.compile(r"[^\n=()]*\)\s*=")


def last_number(text: str) -> Fraction | None:
    """Return the value of the last number in a text, None where there is none or where the last is
    not wholly readable. Thousands separators, decimals, exponents, powers, fractions, signs,
    currency signs, LaTeX and digits of all scripts are read; a percent sign and units are ignored
    (50% is 50), and a full stop at the end belongs to the sentence.

    >>> last_number("-$1,234.50"), last_number("2 1/2 cups"), last_number("No number.")
    (Fraction(-2469, 2), Fraction(5, 2), None)
    """
    found = find_numbers(plain(text))
    return value(found[-1]) if found else None


def leading_number(text: str) -> tuple[bool, Fraction | None]:
    """Tell whether a ``plain`` text begins with a number, and return its value: the last of the
    calculation that this number begins (``5 + 3 = 8``), None where the calculation has no result or
    the number is not wholly readable.
    """
    first, last, operators = None, None, ""
    for match in find_numbers(text):
        if last is None:
            if re.search(r"\\|\w|\n", text[: match.start()]):
                break
            first = last = match
            continue
        between = text[last.end() : match.start()]
        if (between.isspace() and not match["minus"]) or "**" in between:
            break  # "72 15" are two numbers, "**72** dogs" is bold print
        if not (_OPERATORS.fullmatch(between) or _WITH_UNITS.fullmatch(between)):
            break
        if between.strip() == "(" and not _FACTOR.match(text, match.start()):
            break
        operators += between + (match["minus"] or "")
        last = match
    if last is None:
        return False, None
    unsolved = last is not first and "=" not in operators and re.search(r"[-+*/x×÷]", operators)
    return True, None if unsolved else value(last)


def whole_number(text: str) -> Fraction | None:
    """Return the value of a text that is one number and nothing else, None for any other."""
    text = plain(text).strip(" $€£¥")
    found = _NUMBER.fullmatch(text)
    return value(found) if found else None


def find_numbers(text: str) -> Sequence[re.Match[str]]:
    """Return the numbers of a ``plain`` text, in order; ``value`` reads them."""
    return list(_NUMBER.finditer(text))


def plain(text: str) -> str:
    r"""Write digits and signs of other scripts, of typography and of LaTeX in ASCII.

    >>> plain("−2½, ５ and \\frac{1}{4}\\,km")
    '-2 1/2, 5 and 1/4 km'
    """
    text = text.translate(_SIGNS)
    if not text.isascii():
        text = re.sub(r"(?<=\d)[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+", lambda m: "^" + m[0].translate(_SUPERSCRIPT), text)
        text = re.sub(rf"(?<=\d)[{_SPACES}](?=\d{{3}}(?!\d))", ",", text)
        text = _VULGAR.sub(_vulgar, text).replace("\u2044", "/")
        text = re.sub(r"[^\x00-\x7f]", lambda m: str(unicodedata.decimal(m[0], m[0])), text)
    text = re.sub(r"(?<=\d)['’_](?=\d{3}(?!\d))", ",", text)
    text = _GROUPS.sub(lambda m: m[0].replace(" ", ","), text)
    if "\\" in text or "{" in text or "~" in text:
        before = None
        while before != text:  # the innermost brackets first
            before = text
            text = _FRACTION.sub(_quotient, text)
            for pattern, sign in _LATEX:
                text = pattern.sub(sign, text)
            text = re.sub(r"([\^_√])\s*\{([^{}]*)\}", r"\1\2", text)
    if "^" in text:
        text = re.sub(r"\s*\^\s*", "^", text)
    # A pair or a set is no number, and not its first or last one either.
    return re.sub(r"[(\[{][\d\s.,/+-]*,[\d\s.,/+-]*[)\]}]", lambda m: "".join(m[0].split()), text)


def value(match: re.Match[str]) -> Fraction | None:
    """Return what a number of ``find_numbers`` is, None where it is not wholly readable."""
    top, bottom = match["top"], match["bottom"] or "1"
    exponents = [match[name] or "0" for name in ("exponent", "ten")]
    if match["part"] is not None or not top or match.end() - match.start() > _MOST_DIGITS:
        return None
    if max(len(x) for x in (*exponents, match["power"] or "")) > 6:
        return None
    shift, power = sum(map(int, exponents)), int(match["power"] or "1")
    bottom = Fraction(bottom.replace(",", ""))
    number = Fraction(top.replace(",", ""))
    digits = len(top) * max(abs(power), 1) + abs(shift)
    if digits > _MOST_DIGITS or bottom == 0 or (number == 0 and power < 0):
        return None
    number = number**power * Fraction(10) ** shift / bottom
    if match["whole"] and number < 1:  # 2 1/2; but 3 8/4 is two numbers
        number += int(match["whole"])
    return -number if match["minus"] else number


def _vulgar(match: re.Match[str]) -> str:
    return _mixed(match, unicodedata.normalize("NFKC", match[0]))


def _quotient(match: re.Match[str]) -> str:
    top, bottom = match[1] or match[2] or "", match[3] or match[4] or ""
    return _mixed(match, f"{top.strip()}/{bottom.strip()}")


def _mixed(match: re.Match[str], fraction: str) -> str:
    """Set a fraction off from a whole number before it."""
    return (" " if match.string[max(match.start() - 1, 0)].isdigit() else "") + fraction
