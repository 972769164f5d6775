"""Words that tell the tasks of a shared model apart."""

from typing import Any

import numpy as np

from asesjax.core.errors import UserError
from asesjax.data.vocab import Vocabulary


def encode_marks(vocab: Vocabulary, options: Any, *fields: str) -> list[np.ndarray]:
    """Return the ids of some fields of a section; UserError if they are empty or the same."""
    marks = [vocab.encode(getattr(options, field)) for field in fields]
    # Unknown pieces do no harm: all that matters is that the marks differ.
    if len({tuple(mark.tolist()) for mark in marks}) < len(marks):
        shown = ", ".join(f"{options.section}.{f} {getattr(options, f)!r}" for f in fields)
        raise UserError(
            f"{shown} must come to different tokens in this vocabulary; other words will do, or "
            "<extra_id_1> ..."
        )
    return marks
