"""The steps of a rationale, which KPOD's difficulty and schedule count."""

import re

import numpy as np

from asesjax.core.errors import UserError
from asesjax.data.corpus import EncodedRecord
from asesjax.segmentation.pieces import Piece

# A full stop before white space or the end, or a line break: never the point of 1.5 or .3, which
# the paper's rule (the character ".") would cut.
_CUT = re.compile(r"(?:\.(?=\s|\Z)|\n)\s*")


def split_steps(text: str) -> list[Piece]:
    r"""Cut a rationale after full stops and line breaks; the pieces tile it.

    >>> text = "A tape costs $1.5. So 2 cost\n3. "
    >>> [text[start:end] for start, end in split_steps(text)]
    ['A tape costs $1.5. ', 'So 2 cost\n', '3. ']
    """
    ends = [match.end() for match in _CUT.finditer(text)]
    if text and (not ends or ends[-1] < len(text)):
        ends.append(len(text))
    return [Piece(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def step_ends(record: EncodedRecord) -> np.ndarray:
    """Return where the steps of the rationale end in the chain's ids, int32 [K]; the answer
    follows. A step without a token of its own belongs to the one before it. Raises UserError if
    there is no answer sentence, or the rationale or the answer has no tokens.
    """
    text, rationale = record.chain.text, record.record.rationale.rstrip()
    if not record.record.answer or len(text) <= len(rationale):
        raise UserError(
            f"record {record.record.id}: KPOD needs an answer sentence to predict; set "
            "data.answer_template and give every record an answer"
        )
    pieces = [*split_steps(rationale), Piece(len(rationale), len(text))]
    piece = record.chain.piece_of_tokens(pieces)
    n_rationale = int((piece < len(pieces) - 1).sum())
    if not 0 < n_rationale < len(piece):
        raise UserError(
            f"record {record.record.id}: the rationale {rationale[:60]!r} or its answer comes to "
            "no tokens in this vocabulary; fix the record or leave it out"
        )
    ends = np.flatnonzero(np.diff(piece[:n_rationale])) + 1
    return np.append(ends, n_rationale).astype(np.int32)
