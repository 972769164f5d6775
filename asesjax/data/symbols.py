r"""Escapes for characters that a vocabulary cannot write: ``<`` becomes ``[less]`` and back.

T5's pieces lack ``< { } ^ ~ \ × ÷`` and more, and its normaliser turns line breaks, tabs and runs
of spaces into one space and rewrites characters such as ``½``. Common ones get a name in brackets,
all others their code point (``[#14d]`` for ``ō``). A ``[`` that would read as the beginning of an
escape is escaped itself, so every text comes back as it was.
"""

import re
from collections.abc import Callable

# Most names are one piece of T5's vocabulary, so most escapes are three.
NAMES = {
    "[": "left", "<": "less", "{": "open", "}": "close", "^": "power", "~": "about", "\\": "back",
    "`": "tick", "×": "times", "÷": "div", "−": "minus", "√": "root", "²": "square", "³": "cube",
    "½": "half", "¼": "quarter", "¢": "cent", "·": "point", " ": "space", "\n": "line", "\t": "tab",
}  # fmt: skip
# A text that holds every character of every escape, and the letter that escapes are tried between.
ALPHABET = " ".join(f"[{name}]" for name in NAMES.values()) + " # 0 1 2 3 4 5 6 7 8 9 a b c d e f x"
_SYMBOLS = {name: symbol for symbol, name in NAMES.items()}
_INSIDE = rf"(?:({'|'.join(_SYMBOLS)})|#([0-9a-f]{{1,6}}))\]"
# The space after a line break's escape belongs to it: the next line begins with a whole word.
_ESCAPE = re.compile(rf"\[{_INSIDE}(?:(?<=\[line\]) )?")
# What every vocabulary needs escaped: brackets that look like escapes, spaces but single ones
# between words.
_ALWAYS = rf"\[(?={_INSIDE})|\A | \Z|(?<=[ \n]) "


def escape_of(character: str) -> str:
    """Return the escape of a character."""
    return f"[{NAMES.get(character) or f'#{ord(character):x}'}]"


def escape(text: str, writes: Callable[[str], bool]) -> tuple[str, dict[int, int]]:
    r"""Replace every character that ``writes`` says a vocabulary cannot write and read. Return the
    text, and the length of each escape by the place of its character in the old ``text``.

    >>> escape("a<\nb", lambda c: c != "<")
    ('a[less][line] b', {1: 6, 2: 7})
    """
    lost = sorted(c for c in set(text) if c not in " \n" and not writes(c))
    pattern = f"{_ALWAYS}|[\n{re.escape(''.join(lost))}]"
    parts, lengths, done = [], {}, 0
    for match in re.finditer(pattern, text):  # one character each
        at = match.start()
        code = escape_of(text[at])
        if text[at] == "\n" and at + 1 < len(text):
            code += " "
        parts += [text[done:at], code]
        lengths[at] = len(code)
        done = at + 1
    return "".join(parts) + text[done:], lengths


def unescape(text: str) -> str:
    """Turn every escape back into its character; all other text stays.

    >>> unescape("[left]less] [less]x [#14d] [#d800] [more]")
    '[less] <x ō [#d800] [more]'
    """

    def character(match: re.Match) -> str:
        if match[1]:
            return _SYMBOLS[match[1]]
        code = int(match[2], 16)
        # Half a surrogate pair is no character, whatever a model writes.
        return match[0] if code > 0x10FFFF or 0xD800 <= code < 0xE000 else chr(code)

    return _ESCAPE.sub(character, text)
