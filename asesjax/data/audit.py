"""What a vocabulary loses of a text: unknown pieces, and texts that do not come back."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from asesjax.data.vocab import Vocabulary


def unknown_share(
    vocab: Vocabulary, texts: Sequence[str], ids: Sequence[np.ndarray] | None = None
) -> tuple[int, int, list[str]]:
    """Count the pieces that a vocabulary cannot spell in some texts: return their number, that of
    all tokens, and the ten stretches of text most often lost. ``ids`` are the texts' own.
    """
    n_unknown, n_tokens, lost = 0, 0, collections.Counter()
    for text, own in zip(texts, vocab.encode_batch(texts) if ids is None else ids, strict=True):
        n_tokens += len(own)
        if (own == vocab.unk_id).any():
            again, starts, ends = vocab.encode_with_offsets(text)
            where = np.flatnonzero(again == vocab.unk_id)
            n_unknown += len(where)
            # A piece of no width is part of what the next character was normalised to.
            lost.update(text[starts[i] : max(ends[i], starts[i] + 1)] for i in where)
    # Ties by text: the order must not depend on the order of the texts.
    common = sorted(lost.items(), key=lambda item: (-item[1], item[0]))
    return n_unknown, n_tokens, [text for text, _ in common[:10]]


def audit(
    vocab: Vocabulary, field: str, texts: Sequence[str], ids: Sequence[np.ndarray]
) -> dict[str, Any]:
    """Count what a vocabulary loses of a field of some data: its ``unknown`` tokens, the stretches
    most often ``lost``, and the texts ``changed``, which decoding does not give back as they were.
    """
    unknown, tokens, lost = unknown_share(vocab, texts, ids)
    changed = sum(text != vocab.decode(own) for text, own in zip(texts, ids, strict=True))
    return {"field": field, "texts": len(texts), "tokens": tokens, "unknown": unknown,
            "changed": changed, "lost": lost}  # fmt: skip
