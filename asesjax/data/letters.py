"""Generated last-letter concatenation, with gold ES and AS: every step is needed.

    question   Take the last letters of the words in "dalu rim" and concatenate them.
    rationale  The words are "dalu rim". The last letter of "dalu" is "u". The last letter of "rim"
               is "m". Together they are "um".
    answer     um

The task is that of Wei et al. (2022), the chain is ``symbolic.last_letters``'s, the words are made
up: consonants and vowels in turn. They are few, so that a small trained vocabulary has a piece for
most, as that of a large model has for names: which letter a piece ends with must then be learned.
"""

import functools
import random
from typing import Any

from asesjax.core.types import Record
from asesjax.data import symbolic, synthetic

LETTERS = ("bcdfghjklmnpqrstvwxz", "aeiouy")  # consonants, vowels
SHORTEST, LONGEST = 3, 8  # letters of a word
N_WORDS = 300


def make_letters(settings: Any, split: str, n: int, seed: int) -> list[Record]:
    """Make last-letter problems.

    Args:
      settings: section ``data`` of the config. min_steps and max_steps count the words; other
        fields of the generators must be as they are.
      split: "train", "validation" or "test".
      n: number of problems; the counts of words take turns.
      seed: of the draw.

    Returns:
      Records with gold segments, ids ``letters-<split>-<index>``.

    Raises:
      UserError: settings out of range, or without that many distinct problems.
    """
    synthetic.check_steps(settings)
    synthetic.check_unused(
        settings, n_distractors=0, n_fillers=0, n_rationales=1, wording="plain",
        fact_order="in_order",
    )  # fmt: skip
    return synthetic.generate("letters", settings, split, n, seed, _draw, _write)


@functools.cache
def words() -> tuple[str, ...]:
    """Return the made-up words, always the same."""
    rng, found = random.Random("letters"), set()
    while len(found) < N_WORDS:
        length = SHORTEST + synthetic.pick(rng, LONGEST - SHORTEST + 1)
        first = synthetic.pick(rng, 2)
        kinds = [LETTERS[(first + i) % 2] for i in range(length)]
        letters = [kind[synthetic.pick(rng, len(kind))] for kind in kinds]
        found.add("".join(letters))
    return tuple(sorted(found))


def _draw(settings, rng: random.Random, n_words):
    return tuple(words()[synthetic.pick(rng, N_WORDS)] for _ in range(n_words))


def _write(settings, rng, drawn, test):
    question = f'Take the last letters of the words in "{" ".join(drawn)}" and concatenate them.'
    chain, answer = symbolic.last_letters(question)
    return synthetic.Written(question, synthetic.joined(chain), answer)
