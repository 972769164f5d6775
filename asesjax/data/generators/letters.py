"""Generated last-letter concatenation, with gold ES and AS: every step is needed.

    question   Take the last letters of the words in "dalu rim" and concatenate them.
    rationale  The words are "dalu rim". The last letter of "dalu" is "u". The last letter of "rim"
               is "m". Together they are "um".

The task is that of Wei et al. (2022), the chain that of ``symbolic.last_letters``. Where the
made-up words are few (``data.n_words``), a small vocabulary has a piece for most, and their last
letters must be learned.
"""

import functools
import random
from typing import Any

from asesjax.core.types import Record
from asesjax.data.generators.draw import check_settings, generate, labelled_record, pick
from asesjax.data.readers.symbolic import last_letters
from asesjax.data.registry import SOURCES

LETTERS = ("bcdfghjklmnpqrstvwxz", "aeiouy")  # consonants, vowels
SHORTEST, LONGEST = 3, 8  # letters of a word


@SOURCES.register("synthetic_letters")
def make_letters(settings: Any, split: str, n: int, seed: int) -> list[Record]:
    """Make last-letter problems as ``draw.generate`` does; min_steps and max_steps count words."""
    check_settings(settings, n_distractors=0, n_fillers=0, n_rationales=1, wording="plain",
                   fact_order="in_order")  # fmt: skip
    return generate("letters", settings, split, n, seed, _draw, _write)


@functools.cache
def words(n: int) -> tuple[str, ...]:
    """Return ``n`` made-up words, always the same."""
    rng, found = random.Random("letters"), set[str]()
    while len(found) < n:
        length = SHORTEST + pick(rng, LONGEST - SHORTEST + 1)
        first = pick(rng, 2)
        kinds = [LETTERS[(first + i) % 2] for i in range(length)]
        found.add("".join(kind[pick(rng, len(kind))] for kind in kinds))
    return tuple(sorted(found))


def _draw(settings, rng: random.Random, n_words: int) -> tuple[str, ...]:
    drawn_from = words(settings.n_words)
    return tuple(drawn_from[pick(rng, len(drawn_from))] for _ in range(n_words))


def _write(settings, rng, drawn, test) -> Record:
    question = f'Take the last letters of the words in "{" ".join(drawn)}" and concatenate them.'
    return labelled_record("", question, *last_letters(question))
