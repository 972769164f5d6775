"""Chunk-wise training and skip-thinking (Chen et al. 2025, "Skip-Thinking").

A rationale is cut into M chunks of whole sentences (M_i, where it has fewer). Chunk-wise training
makes each an example of its own, marked by its stage:

    [m] question chunks before m -> chunk m          [answer] question all chunks -> answer sentence

Skip-thinking continues with the chunks that the answer needs (see ``skip_data.py``):

    [skip] question -> kept chunks, answer sentence

What each update consists of decides whether this is chunk-wise training: the share of a chunk's
tokens in an update rises only where other stages have no part in it. So a batch holds examples of
one stage, and the loss is the mean over them of the mean of each one's tokens; skip-thinking and
its control, which mix chunk-wise examples in, count their own marks as stages of their own
(``chunk.batches``; "mixed" is the usual batch of anything, each token with the same weight).

The marks are sentinels; what this text does not say is ours. A rationale of fewer than M chunks
ends its last with ``[answer]`` instead of end of sequence.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from asesjax.core.errors import UserError
from asesjax.core.options import Config
from asesjax.core.types import Example
from asesjax.data.corpus import EncodedRecord
from asesjax.data.examples import Ids, make_example
from asesjax.data.vocab import Vocabulary
from asesjax.methods.skip_thinking.options import ChunkOptions
from asesjax.segmentation.pieces import Piece, split_sentences

Boundaries = tuple[int, ...]  # 0 = b_0 < b_1 < ... < b_Mi = sentences; chunk m is [b_m-1, b_m)


class Marks(NamedTuple):
    """Ids that say what is to be written."""

    stages: tuple[int, ...]  # of each chunk, M ids
    answer: int  # of the answer sentence
    skip: int  # of the kept chunks
    full: int  # of the whole chain


class Sentences(NamedTuple):
    """The sentences of a rationale, as runs of the chain's ids."""

    ids: np.ndarray  # [N] int32, of rationale and answer sentence
    # [L + 1], where each sentence ends in ``ids``, the first 0; the answer sentence follows
    ends: tuple[int, ...]
    text_ends: tuple[int, ...]  # [L + 1], the same in the characters of the rationale

    def __len__(self) -> int:
        """L, sentences of the rationale."""
        return len(self.ends) - 1

    @property
    def answer(self) -> np.ndarray:
        """Ids of the answer sentence."""
        return self.ids[self.ends[-1] :]

    def run(self, start: int, end: int) -> np.ndarray:
        """Ids of the sentences [start, end)."""
        return self.ids[self.ends[start] : self.ends[end]]


def check_chunks(config: Config) -> None:
    """Raise UserError for a search that never happens, too few sentinels for the marks, or packed
    stages.
    """
    chunk, most = config.chunk, config.vocab.extra_ids
    if chunk.batches == "by_stage" and config.train.packed_length:
        raise UserError(
            "chunk.batches=by_stage needs batches of one stage, which are not packed; set "
            "train.packed_length=0 (or chunk.batches=mixed)"
        )
    if chunk.chunking == "search" and not chunk.refreshes:
        raise UserError("chunk.chunking=search needs chunk.refreshes of at least 1; or set average")
    last = chunk.mark_from + chunk.n_chunks + 3
    if last > most:
        raise UserError(
            f"chunk.n_chunks={chunk.n_chunks} takes the sentinels {chunk.mark_from} to {last - 1} "
            f"for its marks, and vocab.extra_ids is {most}; set it to at least {last}"
        )


def make_marks(chunk: ChunkOptions, vocab: Vocabulary) -> Marks:
    """Return the ids of the marks."""
    n = chunk.n_chunks
    ids = [vocab.sentinel(chunk.mark_from + k) for k in range(n + 3)]
    return Marks(tuple(ids[:n]), *ids[n:])


def find_sentences(record: EncodedRecord) -> Sentences:
    """Find the sentences of a record's rationale. A sentence without a token of its own joins the
    one before it. Raises UserError for a missing answer sentence or a text without tokens.
    """
    chain, own = record.chain, record.record
    rationale = own.rationale.rstrip()
    if not own.answer or len(chain.text) <= len(rationale):
        raise UserError(
            f"record {own.id} has no answer sentence, which chunk-wise training ends with; give "
            "it an answer, set data.answer_template, or take cwt, skip_thinking and full_thinking "
            "out of methods"
        )
    pieces = split_sentences(rationale)
    first = chain.cuts([*pieces, Piece(len(rationale), len(chain.text))])[:-1].tolist()
    if not pieces or not first[-1] or first[-1] == len(chain.ids):
        what = "answer sentence" if pieces and first[-1] else "rationale"
        raise UserError(
            f"record {own.id}: the {what} comes to no tokens in this vocabulary; fix the record or "
            "leave it out"
        )
    ends, text_ends = [0], [0]
    for piece, at, after in zip(pieces, first, first[1:], strict=False):
        if at < after:
            ends.append(after)
            text_ends.append(piece.end)
        elif len(ends) > 1:
            text_ends[-1] = piece.end
    return Sentences(chain.ids, tuple(ends), tuple(text_ends))


def average_boundaries(n_sentences: int, n_chunks: int) -> Boundaries:
    """Cut evenly (section "average chunking"): b_m is m L / M_i, rounded, halves up.

    >>> average_boundaries(7, 4), average_boundaries(2, 4)
    ((0, 2, 4, 5, 7), (0, 1, 2))
    """
    n = min(n_chunks, n_sentences)
    return tuple((2 * m * n_sentences + n) // (2 * n) for m in range(n + 1))


def chunk_example(
    vocab: Vocabulary,
    marks: Marks,
    name: str,
    question: np.ndarray,
    sentences: Sentences,
    stage: int,
    start: int,
    end: int,
) -> Example:
    """Make the example of a stage (from 0): the sentences [start, end), given those before."""
    early = end == len(sentences) and stage < len(marks.stages) - 1
    context: list[Ids] = [[marks.stages[stage]], question, sentences.run(0, start)]
    return make_example(
        vocab, name, context, [sentences.run(start, end)], "chunk", marks.answer if early else None
    )


def chunk_examples(
    vocab: Vocabulary,
    marks: Marks,
    record: EncodedRecord,
    sentences: Sentences,
    boundaries: Boundaries,
) -> list[Example]:
    """Make the M_i + 1 examples of chunk-wise training, with ids ``record/1``, ..."""
    name, question = record.record.id, record.question.ids
    examples = [
        chunk_example(vocab, marks, f"{name}/{stage + 1}", question, sentences, stage, start, end)
        for stage, (start, end) in enumerate(zip(boundaries, boundaries[1:], strict=False))
    ]
    context: list[Ids] = [[marks.answer], question, sentences.run(0, len(sentences))]
    answer = make_example(vocab, f"{name}/answer", context, [sentences.answer], "answer")
    return [*examples, answer]


def skip_examples(
    vocab: Vocabulary,
    marks: Marks,
    record: EncodedRecord,
    sentences: Sentences,
    boundaries: Boundaries,
    kept: Sequence[int],
    how: str,
) -> list[Example]:
    """Make the examples that teach to write the kept chunks (numbers from 0, rising) alone.

    "one_pass" makes everything one target. With "stages" (ours) ``[skip]`` alone is followed by the
    mark of the first kept stage, and each chunk ends with the mark of the next, so that a target is
    never longer than a chunk; the contexts begin with both marks, unlike those of chunk-wise
    training. Ids are ``record/skip`` or ``record/skip-i``.
    """
    name, question = record.record.id, record.question.ids
    runs = [sentences.run(boundaries[m], boundaries[m + 1]) for m in kept]
    if how == "one_pass":
        target = [*runs, sentences.answer]
        return [make_example(vocab, f"{name}/skip", [[marks.skip], question], target, "skip")]
    own = [*(marks.stages[m] for m in kept), marks.answer]  # of each segment behind the first
    leads = [[marks.skip], *([marks.skip, mark] for mark in own)]
    targets: list[Ids] = [[], *runs, sentences.answer]
    return [
        make_example(vocab, f"{name}/skip-{i}", [lead, question, *runs[: max(i - 1, 0)]], [target],
                     "skip", end)
        for i, (lead, target, end) in enumerate(
            zip(leads, targets, [*own, vocab.eos_id], strict=True)
        )
    ]  # fmt: skip


def by_stage(marks: Marks, examples: Sequence[Example]) -> list[Example]:
    """Give examples a group by the marks that they begin with, and each the weight 1 in all: a
    batch is of one stage, and its loss a mean over examples of the mean over tokens.
    """
    known = {*marks.stages, *marks[1:]}
    out = []
    for one in examples:
        lead = itertools.takewhile(known.__contains__, one.inputs.tolist())
        weights = one.weights / np.float32(len(one.targets))
        out.append(dataclasses.replace(one, weights=weights, group=" ".join(map(str, lead))))
    return out


def some_of(examples: Sequence[Example], share: float) -> list[Example]:
    """Return a share of some examples, chosen by their ids: the same in every run."""
    most = share * 2.0**64

    def number(name: str) -> int:
        return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())

    return [one for one in examples if number(one.id) < most]
