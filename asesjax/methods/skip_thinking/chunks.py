"""Chunk-wise training and skip-thinking (Chen et al. 2025, "Skip-Thinking").

A rationale is cut into M chunks of whole sentences (M_i, where it has fewer). Chunk-wise training
(CWT, section "chunk-wise training") makes each an item of its own, marked by its stage:

    [m] question chunks before m -> chunk m          [answer] question all chunks -> answer sentence

Skip-thinking training goes on from there with the chunks that the answer needs (``jobs.chunks``
finds out which), and a control that asks for them:

    [skip] question -> kept chunks, answer sentence

The marks are sentinels; where they stand and all that is not in this text are ours. A rationale of
fewer than M chunks ends its last with ``[answer]`` instead of end of sequence, and goes there.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from asesjax.core.errors import UserError
from asesjax.core.types import Example, Record
from asesjax.data.examples import answer_sentence, chain_text, context_ids, encode_chain
from asesjax.data.vocab import Vocabulary
from asesjax.decode.spec import Frame
from asesjax.methods.method import Method, Prepared, Shape
from asesjax.segment.pieces import Piece, split_sentences

Boundaries = tuple[int, ...]  # 0 = b_0 < b_1 < ... < b_Mi = sentences; chunk m is [b_m-1, b_m)


class Marks(NamedTuple):
    """Ids that say what is to be written.

    Attributes:
      stages: of each chunk, M ids.
      answer: of the answer sentence.
      skip: of the kept chunks.
      full: of the whole chain.
    """

    stages: tuple[int, ...]
    answer: int
    skip: int
    full: int


class Chain(NamedTuple):
    """A chain in ids.

    Attributes:
      ids: [N] int32, of rationale and answer sentence.
      ends: [L + 1], where each sentence of the rationale ends in ``ids``, the first 0; the answer
        sentence follows.
      text_ends: [L + 1], the same in the characters of the rationale.
    """

    ids: np.ndarray
    ends: tuple[int, ...]
    text_ends: tuple[int, ...]

    @property
    def n_sentences(self) -> int:
        """L, sentences of the rationale."""
        return len(self.ends) - 1

    @property
    def answer(self) -> np.ndarray:
        """Ids of the answer sentence."""
        return self.ids[self.ends[-1] :]

    def run(self, start: int, end: int) -> np.ndarray:
        """Ids of the sentences [start, end)."""
        return self.ids[self.ends[start] : self.ends[end]]


def check_chunks(config: ConfigDict) -> None:
    """Refuse a section ``chunk`` that cannot work, before anything is trained.

    Raises:
      UserError: a number out of its range, or too few sentinels for the marks.
    """
    chunk, most = config.chunk, config.vocab.extra_ids
    for name, least in {"n_chunks": 1, "refreshes": 0, "threshold": 0, "mark_from": 0}.items():
        if chunk[name] < least:
            raise UserError(f"chunk.{name} must be at least {least}, got {chunk[name]}")
    if not 0 <= chunk.mix <= 1:
        raise UserError(f"chunk.mix must be from 0 to 1, got {chunk.mix}")
    if chunk.chunking == "search" and not chunk.refreshes:
        raise UserError("chunk.chunking=search needs chunk.refreshes of at least 1; or set average")
    last = chunk.mark_from + chunk.n_chunks + 3
    if last > most:
        raise UserError(
            f"chunk.n_chunks={chunk.n_chunks} takes the sentinels {chunk.mark_from} to {last - 1} "
            f"for its marks, and vocab.extra_ids is {most}; set it to at least {last}"
        )


def make_marks(config: ConfigDict, vocab: Vocabulary) -> Marks:
    """Return the ids of the marks."""
    n = config.chunk.n_chunks
    ids = [vocab.sentinel(config.chunk.mark_from + k) for k in range(n + 3)]
    return Marks(tuple(ids[:n]), *ids[n:])


def encode_sentences(vocab: Vocabulary, record: Record, answer_template: str) -> Chain:
    """Encode a record's chain once and find the sentences of its rationale.

    A sentence without a token of its own goes with the one before it.

    Raises:
      UserError: no answer sentence, or a text that comes to no tokens.
    """
    if not answer_sentence(record, answer_template):
        raise UserError(
            f"record {record.id} has no answer sentence, which chunk-wise training ends with; give "
            "it an answer, set data.answer_template, or take cwt, skip_thinking and full_thinking "
            "out of methods"
        )
    text = chain_text(record, answer_template)
    rationale = record.rationale.rstrip()
    pieces = split_sentences(rationale)
    ids, piece = encode_chain(vocab, text, [*pieces, Piece(len(rationale), len(text))])
    first = np.searchsorted(piece, np.arange(len(pieces) + 1)).tolist()  # token of each piece
    if not pieces or not first[-1] or first[-1] == len(ids):
        what = "answer sentence" if pieces and first[-1] else "rationale"
        raise UserError(
            f"record {record.id}: the {what} comes to no tokens in this vocabulary; mend the "
            "record or leave it out"
        )
    has_tokens = [at < after for at, after in zip(first, first[1:], strict=False)]
    ends, text_ends = [0], [0]
    for piece_at, after, full in zip(pieces, first[1:], has_tokens, strict=True):
        if full:
            ends.append(after)
            text_ends.append(piece_at.end)
        elif len(ends) > 1:
            text_ends[-1] = piece_at.end
    return Chain(ids, tuple(ends), tuple(text_ends))


def average_boundaries(n_sentences: int, n_chunks: int) -> Boundaries:
    """Cut evenly (section "average chunking"): b_m is m L / M_i, rounded, halves up.

    Example:
      >>> average_boundaries(7, 4), average_boundaries(2, 4)
      ((0, 2, 4, 5, 7), (0, 1, 2))
    """
    n = min(n_chunks, n_sentences)
    return tuple((2 * m * n_sentences + n) // (2 * n) for m in range(n + 1))


def boundaries_of(prepared: Prepared, chain: Chain, config: ConfigDict) -> Boundaries:
    """Return a record's boundaries: those of its notes, or even ones."""
    noted = prepared.notes.get("boundaries")
    return tuple(noted) if noted else average_boundaries(chain.n_sentences, config.chunk.n_chunks)


def item(
    vocab: Vocabulary,
    name: str,
    lead: Sequence[int],
    question_ids: np.ndarray,
    before: Sequence[np.ndarray],
    target: Sequence[np.ndarray],
    end: int,
    kind: str = "chunk",
) -> Example:
    """Put an item together, as decoding puts its contexts together."""
    question = np.concatenate([np.asarray(lead, np.int32), question_ids])
    chain = np.concatenate([np.zeros(0, np.int32), *before])
    targets = np.concatenate([*target, [end]]).astype(np.int32)
    weights = np.ones(len(targets), np.float32)
    return Example(name, context_ids(vocab, question, chain), targets, weights, kind)


def chunk_item(
    vocab: Vocabulary,
    marks: Marks,
    name: str,
    question_ids: np.ndarray,
    chain: Chain,
    stage: int,
    start: int,
    end: int,
) -> Example:
    """Make the item of a stage (from 0): the sentences [start, end), given those before."""
    early = end == chain.n_sentences and stage < len(marks.stages) - 1
    return item(
        vocab, name, marks.stages[stage : stage + 1], question_ids, [chain.run(0, start)],
        [chain.run(start, end)], marks.answer if early else vocab.eos_id,
    )  # fmt: skip


def chunk_items(
    vocab: Vocabulary,
    marks: Marks,
    record_id: str,
    question_ids: np.ndarray,
    chain: Chain,
    boundaries: Boundaries,
) -> list[Example]:
    """Make the M_i + 1 items of chunk-wise training; item m has the id ``record_id/m``, from 1."""
    spans = list(zip(boundaries, boundaries[1:], strict=False))
    items = [
        chunk_item(vocab, marks, f"{record_id}/{stage + 1}", question_ids, chain, stage, *span)
        for stage, span in enumerate(spans)
    ]
    answer = item(
        vocab, f"{record_id}/answer", [marks.answer], question_ids,
        [chain.run(0, chain.n_sentences)], [chain.answer], vocab.eos_id, "answer",
    )  # fmt: skip
    return [*items, answer]


def skip_items(
    vocab: Vocabulary,
    marks: Marks,
    record_id: str,
    question_ids: np.ndarray,
    chain: Chain,
    boundaries: Boundaries,
    kept: Sequence[int],
    how: str,
) -> list[Example]:
    """Make the items that teach to write the kept chunks alone.

    Args:
      vocab: the run's.
      marks: from ``make_marks``.
      record_id: item i has the id ``record_id/skip`` or ``record_id/skip-i``.
      question_ids: without end of sequence.
      chain: of the record.
      boundaries: of its chunks.
      kept: numbers of chunks, from 0, rising.
      how: "one_pass": everything is one target. "stages" (ours): ``[skip]`` alone is followed by
        the mark of the first kept stage, and each chunk ends with the mark of the next, so that a
        target is never longer than a chunk; the contexts begin with both marks, which tells them
        from those of chunk-wise training.
    """
    runs = [chain.run(boundaries[m], boundaries[m + 1]) for m in kept]
    if how == "one_pass":
        target = [*runs, chain.answer]
        return [item(vocab, f"{record_id}/skip", [marks.skip], question_ids, [], target,
                     vocab.eos_id, "skip")]  # fmt: skip
    own = [*(marks.stages[m] for m in kept), marks.answer]  # of each segment behind the first
    leads = [[marks.skip], *([marks.skip, mark] for mark in own)]
    targets = [np.zeros(0, np.int32), *runs, chain.answer]
    return [
        item(vocab, f"{record_id}/skip-{i}", lead, question_ids, runs[: max(i - 1, 0)], [target],
             end, "skip")
        for i, (lead, target, end) in enumerate(
            zip(leads, targets, [*own, vocab.eos_id], strict=True)
        )
    ]  # fmt: skip


def some_of(items: Sequence[Example], share: float) -> list[Example]:
    """Return a share of some items, chosen by their ids: the same in every run."""
    most = share * 2.0**64

    def number(name: str) -> int:
        return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())

    return [one for one in items if number(one.id) < most]


def _cwt(prepared: Prepared, config: ConfigDict, vocab: Vocabulary) -> dict[str, list[Example]]:
    return {"main": _chunk_items(prepared, config, vocab)}


def _skip(prepared: Prepared, config: ConfigDict, vocab: Vocabulary) -> dict[str, list[Example]]:
    chain = encode_sentences(vocab, prepared.record, config.data.answer_template)
    boundaries = boundaries_of(prepared, chain, config)
    own = skip_items(
        vocab, make_marks(config, vocab), prepared.record.id, prepared.question_ids, chain,
        boundaries, prepared.notes["kept"], config.chunk.skip,
    )  # fmt: skip
    return {"main": own + some_of(_chunk_items(prepared, config, vocab), config.chunk.mix)}


def _full(prepared: Prepared, config: ConfigDict, vocab: Vocabulary) -> dict[str, list[Example]]:
    chain = encode_sentences(vocab, prepared.record, config.data.answer_template)
    own = item(
        vocab, f"{prepared.record.id}/full", [make_marks(config, vocab).full],
        prepared.question_ids, [], [chain.ids], vocab.eos_id, "full",
    )  # fmt: skip
    return {"main": [own, *some_of(_chunk_items(prepared, config, vocab), config.chunk.mix)]}


def _chunk_items(prepared: Prepared, config: ConfigDict, vocab: Vocabulary) -> list[Example]:
    chain = encode_sentences(vocab, prepared.record, config.data.answer_template)
    return chunk_items(
        vocab, make_marks(config, vocab), prepared.record.id, prepared.question_ids, chain,
        boundaries_of(prepared, chain, config),
    )  # fmt: skip


def _cwt_shape(config: ConfigDict, vocab: Vocabulary) -> Shape:
    marks = make_marks(config, vocab)
    n = len(marks.stages)
    frames = tuple(Frame((mark,)) for mark in (*marks.stages, marks.answer))
    return Shape(n_stages=n + 1, frames=frames, jump_ids=(-1,) * n + (marks.answer,))


def _skip_shape(config: ConfigDict, vocab: Vocabulary) -> Shape:
    marks = make_marks(config, vocab)
    if config.chunk.skip == "one_pass":
        return Shape(frames=(Frame((marks.skip,)),))
    named = (*marks.stages, marks.answer)
    frames = (Frame((marks.skip,)), *(Frame((marks.skip, mark)) for mark in named))
    return Shape(n_stages=len(frames), frames=frames, jump_ids=(-1, *named))


def _full_shape(config: ConfigDict, vocab: Vocabulary) -> Shape:
    return Shape(frames=(Frame((make_marks(config, vocab).full,)),))


_MARKS = ("chunk.n_chunks", "chunk.mark_from")
_SEARCH = ("chunk.chunking", "chunk.refreshes", "chunk.threshold", "chunk.objective")
# A chunk at a time, then the answer. ``jobs.chunks`` trains it: its chunks change on the way.
CWT = Method("cwt", _cwt, shape=_cwt_shape, train_fields=(*_MARKS, *_SEARCH), decode_fields=_MARKS)
# The chunks that the answer needs, then the answer.
SKIP_THINKING = Method(
    "skip_thinking", _skip, shape=_skip_shape, start_from="cwt", notes=("skip/{split}.jsonl",),
    needs=("skip-data",), train_fields=(*_MARKS, "chunk.skip", "chunk.mix"),
    decode_fields=(*_MARKS, "chunk.skip"),
)  # fmt: skip
# The control: all of the rationale at once, from the same start.
FULL_THINKING = Method(
    "full_thinking", _full, shape=_full_shape, start_from="cwt", notes=("chunks/{split}.jsonl",),
    train_fields=(*_MARKS, "chunk.mix"), decode_fields=_MARKS,
)  # fmt: skip
