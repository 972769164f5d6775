"""Records with their questions and chains in ids, encoded once by the data stage.

A folder holds flat memory-mapped arrays: the ids of all texts, and the character at which each
token starts. Segments, steps, sentences and chunks are spans over them; what a method's stages find
out about a record lies beside it as arrays (``core.ragged``).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from asesjax.core.errors import UserError
from asesjax.core.files import check_output, write_array, write_text
from asesjax.core.ragged import Ragged, read_annotations
from asesjax.core.signals import check_stop
from asesjax.core.types import Record
from asesjax.data.examples import chain_text
from asesjax.data.sources import read_records
from asesjax.data.vocab import Vocabulary
from asesjax.segmentation.pieces import Piece

_TEXTS = ("question", "chain")


class EncodedText(NamedTuple):
    """A text in ids."""

    text: str  # its characters
    ids: np.ndarray  # [N] int32, without end of sequence
    starts: np.ndarray  # [N] int32, the character at which each token starts; never falling

    def piece_of_tokens(self, pieces: Sequence[Piece]) -> np.ndarray:
        """Return the piece of each token, int32 [N]; -1 for tokens between pieces. A token belongs
        to the piece of its first character that is not white space. A token of white space alone
        goes with the character after it, at the end of the text with the one before.
        """
        if not len(self.ids) or not len(pieces):
            return np.full(len(self.ids), -1, np.int32)
        solid = np.flatnonzero([not character.isspace() for character in self.text])
        if not len(solid):
            return np.zeros(len(self.ids), np.int32)
        first = solid[np.minimum(np.searchsorted(solid, self.starts), len(solid) - 1)]
        piece = np.searchsorted([span.start for span in pieces], first, side="right") - 1
        ends = np.asarray([span.end for span in pieces])
        inside = (piece >= 0) & (first < ends[piece])
        return np.where(inside, piece, -1).astype(np.int32)

    def cuts(self, pieces: Sequence[Piece]) -> np.ndarray:
        """Return where the tokens of pieces that tile the text begin and end, int [P + 1]."""
        return np.searchsorted(self.piece_of_tokens(pieces), np.arange(len(pieces) + 1))

    def token_texts(self) -> list[str]:
        """Return the characters of each token, white space with the token after it."""
        cuts = [0, *self.starts[1:].tolist(), len(self.text)]
        return [self.text[start:end] for start, end in zip(cuts, cuts[1:], strict=False)]


class EncodedRecord(NamedTuple):
    """A record as methods see it."""

    record: Record  # question, rationale and answer
    question: EncodedText  # in ids
    chain: EncodedText  # rationale and answer sentence, in ids
    annotations: Mapping[str, np.ndarray] = {}  # what stages found out about it, arrays by name

    def rationale_and_answer(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of the rationale and those of the answer sentence, which may be none."""
        start = len(self.record.rationale.rstrip())
        n, end = len(self.chain.ids), len(self.chain.text)
        if start < end:
            n = self.chain.cuts([Piece(0, start), Piece(start, end)])[1]
        return self.chain.ids[:n], self.chain.ids[n:]


def encode_text(vocab: Vocabulary, text: str) -> EncodedText:
    """Encode a text once."""
    check_stop()
    return EncodedText(text, *vocab.encode_with_offsets(text)[:2])


def encode_record(
    vocab: Vocabulary, record: Record, answer_template: str, notes: Mapping[str, np.ndarray] = {}
) -> EncodedRecord:
    """Encode a record's question and chain."""
    question = encode_text(vocab, record.question)
    chain = encode_text(vocab, chain_text(record, answer_template))
    return EncodedRecord(record, question, chain, notes)


def write_corpus(folder: str | Path, encoded: Sequence[EncodedRecord]) -> None:
    """Write the ids of records; UserError for a question or chain that comes to no tokens."""
    for name in _TEXTS:
        texts = [getattr(one, name) for one in encoded]
        for one, text in zip(encoded, texts, strict=True):
            need_tokens(text.ids, one.record, name, text.text)
        for part in ("ids", "starts"):
            ragged = Ragged.of([getattr(text, part) for text in texts], np.int32)
            write_array(Path(folder) / f"{name}_{part}.npy", ragged.values)
        write_array(Path(folder) / f"{name}_ends.npy", ragged.ends)
    write_text(Path(folder) / "texts.sha256", _sha256(one.question.text + one.chain.text
                                                      for one in encoded))  # fmt: skip


def read_corpus(
    workdir: str | Path, split: str, answer_template: str, annotations: Iterable[str] = ()
) -> list[EncodedRecord]:
    """Read the records of a split with their ids, and with the arrays of the files ``annotations``,
    ``{split}`` in their names. Raises UserError for files that are missing or of other records.
    """
    workdir = Path(workdir)
    records = read_records(workdir / f"data/{split}.jsonl")
    ids = [record.id for record in records]
    chains = [chain_text(record, answer_template) for record in records]
    texts = (record.question + chain for record, chain in zip(records, chains, strict=True))
    check_output(workdir / f"corpus/{split}")
    digest = workdir / f"corpus/{split}/texts.sha256"
    if not digest.is_file() or digest.read_text() != _sha256(texts):
        raise UserError(f"{workdir}/corpus/{split} is of other records; run again with --redo")
    columns = {}
    for name in _TEXTS:
        ends = _mapped(workdir / f"corpus/{split}/{name}_ends.npy")
        for part in ("ids", "starts"):
            values = _mapped(workdir / f"corpus/{split}/{name}_{part}.npy")
            columns[name, part] = Ragged(values, ends).rows()
    notes: dict[str, Ragged] = {}
    for path in annotations:
        notes |= read_annotations(workdir / path.format(split=split), ids)
    own = [ragged.rows() for ragged in notes.values()]
    return [
        EncodedRecord(
            record, EncodedText(record.question, *parts[:2]), EncodedText(chain, *parts[2:4]),
            dict(zip(notes, parts[4:], strict=True)),
        )
        for record, chain, *parts in zip(records, chains, *columns.values(), *own, strict=True)
    ]  # fmt: skip


def need_tokens(ids: np.ndarray, record: Record, field: str, text: str) -> None:
    """Raise UserError where a text of a record has no tokens."""
    if not len(ids):
        raise UserError(
            f"record {record.id}: the {field} {text[:60]!r} comes to no tokens in this vocabulary; "
            "fix the record or leave it out"
        )


def _sha256(texts: Iterable[str]) -> str:
    total = "".join(f"{text}\0" for text in texts)
    return hashlib.sha256(total.encode(errors="surrogatepass")).hexdigest()


def _mapped(path: Path) -> np.ndarray:
    try:
        # A plain array over the map: slices of numpy's memmap class are five times as slow to make.
        return np.asarray(np.load(path, mmap_mode="r"))
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}); run the data stage again") from None
