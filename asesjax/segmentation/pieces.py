"""Cut a text into pieces at punctuation, by character offsets and without losing a character.

AS-ES paper, section "segmentation": the rationale is split at punctuation. The rules for numbers,
calculator marks, list markers, Chinese punctuation and short pieces are ours.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

_SENTENCE_ENDS = ".!?\n。！？"
_CLAUSE_ENDS = ";:,；：，、"
_COMMAS = ",，、"
_MARKER_ENDS = ".、:："  # "1." "1、" "1:" before the text of a list item
# Inside a character class: CJK letters, each of which counts as a word.
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# A CJK character, or a run of others up to white space; CJK punctuation is no word.
_WORD = re.compile(rf"[{CJK}]|[^\s{CJK}\u3000-\u303f\uff00-\uff0f\uff1a-\uff20]+")


class Piece(NamedTuple):
    """Characters ``text[start:end]`` of a text, ``start < end``."""

    start: int
    end: int


def _cutter(ends: str) -> re.Pattern[str]:
    # A number is matched first and so is never cut: 3.5  1,000  10:30  1：2. A dot before a digit
    # is the decimal point of .5 unless a letter, digit or dot stands before it.
    number = r"\d+(?:[.,:：]\d+)*"
    end = "[" + re.escape(ends.replace(".", "")) + r"]|\.(?!(?<![\w.]\.)\d)"
    close = r"""[”’)）\]】》」』]|["'](?=[\s.,;:!?)\]]|\Z)"""
    return re.compile(rf"{number}|(?P<cut>(?:{end})(?:{end}|{close})*\s*)")


CUTS = {"clauses": _cutter(_SENTENCE_ENDS + _CLAUSE_ENDS), "commas": _cutter(".\n。" + ",，")}
_CUT_SENTENCES = _cutter(_SENTENCE_ENDS)


def split_pieces(
    text: str, short: str = "merge", min_words: int = 3, cut: str = "clauses"
) -> list[Piece]:
    """Cut a text after ``. ! ? ; : ,`` newline and ``。 ！ ？ ； ， 、 ：``; with ``cut`` "commas",
    as the authors' code does, after ``. ,`` newline (and ``。 ，``) alone.

    Never inside a number (``3.5``, ``1,000``, ``10:30``), inside ``<<...>>``, or between a list
    marker (``1、``, ``2.``) and its text. Punctuation, closing quotes and brackets that follow, and
    white space, belong to the piece before the cut.

    Pieces of ``min_words`` words or fewer (``count_words``) are treated by ``short``: with "merge"
    one joins the next piece, or the previous one if it ends a sentence or the text (the first
    always joins the next); "drop" leaves them out, as the authors' code does, so pieces may not
    tile the text; "keep" keeps them.

    >>> text = "Ann has 3.5 m of rope, cut in two. So 3.5/2 = <<3.5/2=1.75>>1.75 m remain."
    >>> [text[a:b] for a, b in split_pieces(text)]
    ['Ann has 3.5 m of rope, cut in two. ', 'So 3.5/2 = <<3.5/2=1.75>>1.75 m remain.']
    """
    pieces = _cut(text, CUTS[cut])
    if short == "keep" or not pieces:
        return pieces
    sizes = [count_words(text[a:b]) for a, b in pieces]
    if short == "drop":
        return [piece for piece, size in zip(pieces, sizes, strict=True) if size > min_words]
    return _merge_short(text, pieces, sizes, min_words)


def split_sentences(text: str) -> list[Piece]:
    """Cut a text at ``. ! ?`` newline and ``。 ！ ？`` only; nothing is merged. The same places are
    protected as in ``split_pieces``, and the pieces tile the text.
    """
    return _cut(text, _CUT_SENTENCES)


def count_words(text: str) -> int:
    """Count words: runs between white space, and every CJK character as a word of its own.

    >>> count_words("8 + 2 = 10"), count_words("肝脏形态可，SUVmax3.6。")
    (5, 6)
    """
    return len(_WORD.findall(text))


def piece_texts(text: str, pieces: Sequence[Piece]) -> list[str]:
    """Return ``text[start:end]`` of every piece."""
    return [text[start:end] for start, end in pieces]


def _cut(text: str, cutter: re.Pattern[str]) -> list[Piece]:
    first = len(text) - len(text.lstrip())  # white space that begins the text is no piece
    calculator = _calculator_spans(text)
    inside = 0  # the calculator span that may hold the next cut
    pieces, start, item = [], 0, 0
    for match in cutter.finditer(text):
        if match["cut"] is None or match.start() < first:
            continue
        at, end = match.span()
        while inside < len(calculator) and calculator[inside][1] <= at:
            inside += 1
        if inside < len(calculator) and calculator[inside][0] <= at:
            continue
        marker = _list_number(text, start, at, match["cut"], item)
        if marker is not None:
            item = marker
            continue
        pieces.append(Piece(start, end))
        start = end
    if start < len(text):
        pieces.append(Piece(start, len(text)))
    return pieces


def _calculator_spans(text: str) -> list[tuple[int, int]]:
    """Return the outermost ``<<...>>`` spans; marks without a partner are plain text."""
    if "<<" not in text:
        return []
    spans: list[tuple[int, int]] = []
    opened: list[int] = []
    for match in re.finditer("<<|>>", text):
        if match[0] == "<<":
            opened.append(match.start())
        elif opened:
            start = opened.pop()
            while spans and spans[-1][0] > start:
                spans.pop()
            spans.append((start, match.end()))
    return spans


def _list_number(text: str, start: int, at: int, cut: str, last: int) -> int | None:
    """Return the number of the list item whose marker ends at ``at``, or None. A number begins an
    item at the start of a text or line or after two spaces; after a sentence or clause it must be 1
    or one more than the last item, so that "How many? 5. So" is no list.
    """
    if text[at] not in _MARKER_ENDS or cut.strip() != text[at] or "\n" in cut:
        return None
    digits = at
    while digits > 0 and at - digits < 3 and text[digits - 1].isdecimal():
        digits -= 1
    if digits == at or (digits > 0 and text[digits - 1].isdecimal()):  # none, or four
        return None
    number = int(text[digits:at])
    before = text[max(digits - 2, 0) : digits]
    if digits == 0 or (len(before) == 2 and before.isspace()) or before.endswith("\n"):
        return number
    lead = text[start:digits]
    if lead and not (start == 0 and lead.isspace()):
        return None  # in the middle of a piece
    if start == 0:
        return number
    after_comma = text[max(start - 2, 0) : start].rstrip()[-1:] in _COMMAS
    return number if number in (1, last + 1) and not after_comma else None


def _ends_sentence(text: str) -> bool:
    body = text.rstrip()
    last = body.rstrip("\"'”’)）]】》」』")[-1:]
    return "\n" in text[len(body) :] or (last != "" and last in _SENTENCE_ENDS)


def _merge_short(text: str, pieces: list[Piece], sizes: list[int], min_words: int) -> list[Piece]:
    merged: list[Piece] = []
    start, words = 0, 0  # of the short pieces that wait for the next one
    for piece, size in zip(pieces, sizes, strict=True):
        words += size
        ends = piece.end == len(text) or _ends_sentence(text[piece.start : piece.end])
        if words > min_words:
            merged.append(Piece(start, piece.end))
        elif merged and ends:
            merged[-1] = Piece(merged[-1].start, piece.end)
        else:
            continue
        start, words = piece.end, 0
    if start < len(text):
        merged.append(Piece(start, len(text)))
    return merged
