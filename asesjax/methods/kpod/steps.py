"""A rationale in ids, cut into the steps that KPOD's difficulty and schedule count."""

import re
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from asesjax.core.errors import UserError
from asesjax.core.types import Record
from asesjax.data.examples import answer_sentence, chain_text, encode_chain
from asesjax.data.vocab import Vocabulary
from asesjax.segment.pieces import Piece

# A full stop before white space or the end, or a line break: never the point of 1.5 or .3, which
# the paper's rule (the character ".") would cut.
_CUT = re.compile(r"(?:\.(?=\s|\Z)|\n)\s*")


class Chain(NamedTuple):
    """A chain in ids.

    Attributes:
      ids: int32 [C], the whole chain without end of sequence, as ``vocab.encode`` gives it.
      tokens: the characters of each token, white space with the token after it; joined, the chain.
      ends: int32 [K], where the steps of the rationale end; ``ids[ends[-1]:]`` is the answer
        sentence.
    """

    ids: np.ndarray
    tokens: list[str]
    ends: np.ndarray

    @property
    def n_rationale(self) -> int:
        """Tokens of the rationale."""
        return int(self.ends[-1])


def split_steps(text: str) -> list[Piece]:
    r"""Cut a rationale after full stops and line breaks; the pieces tile it.

    Example:
      >>> text = "A tape costs $1.5. So 2 cost\n3. "
      >>> [text[start:end] for start, end in split_steps(text)]
      ['A tape costs $1.5. ', 'So 2 cost\n', '3. ']
    """
    ends = [match.end() for match in _CUT.finditer(text)]
    if text and (not ends or ends[-1] < len(text)):
        ends.append(len(text))
    return [Piece(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def encode_steps(vocab: Vocabulary, record: Record, config: ConfigDict) -> Chain:
    """Encode a record's chain once and cut its rationale into steps.

    A step without a token of its own belongs to the one before it.

    Raises:
      UserError: no answer sentence, or a rationale or answer without tokens.
    """
    template = config.data.answer_template
    if not answer_sentence(record, template):
        raise UserError(
            f"record {record.id}: KPOD needs an answer sentence to predict; set "
            "data.answer_template and give every record an answer"
        )
    text = chain_text(record, template)
    rationale = record.rationale.rstrip()
    ids, starts, _ = vocab.encode_with_offsets(text)
    pieces = [*split_steps(rationale), Piece(len(rationale), len(text))]
    _, piece = encode_chain(vocab, text, pieces)
    n_rationale = int((piece < len(pieces) - 1).sum())
    if not 0 < n_rationale < len(ids):
        raise UserError(
            f"record {record.id}: the rationale {rationale[:60]!r} or its answer comes to no "
            "tokens in this vocabulary; mend the record or leave it out"
        )
    ends = np.flatnonzero(np.diff(piece[:n_rationale])) + 1
    cuts = [0, *starts[1:].tolist(), len(text)]
    tokens = [text[start:end] for start, end in zip(cuts, cuts[1:], strict=False)]
    return Chain(ids, tokens, np.append(ends, n_rationale).astype(np.int32))
