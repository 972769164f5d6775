"""Chunk-wise training, skip-thinking and its control as rows of the results table."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from asesjax.core.options import Config, reads
from asesjax.core.stages import Stage
from asesjax.core.types import Example
from asesjax.data.corpus import EncodedRecord
from asesjax.data.examples import Ids, make_example
from asesjax.data.vocab import Vocabulary
from asesjax.decode.spec import DecodePlan, Prompt, Turn
from asesjax.methods.method import METHODS, Method, ReportPart
from asesjax.methods.skip_thinking.chunks import (
    average_boundaries,
    by_stage,
    check_chunks,
    chunk_examples,
    find_sentences,
    make_marks,
    skip_examples,
    some_of,
)
from asesjax.methods.skip_thinking.options import ChunkOptions
from asesjax.methods.skip_thinking.report import skipping_report
from asesjax.methods.skip_thinking.skip_data import SKIP_DATA, skip_data_stage
from asesjax.methods.skip_thinking.training import CHUNKS, STUDENT, chunk_folder, train_in_phases
from asesjax.run import Run


class _Chunks(Method):
    """What the three share."""

    Options = ChunkOptions

    def __init__(self, name: str, config: Config):
        super().__init__(name, config)
        check_chunks(config)

    def chunked(self, record: EncodedRecord, vocab: Vocabulary) -> list[Example]:
        """Return the chunk-wise examples of a record."""
        boundaries = tuple(record.annotations["boundaries"].tolist())
        marks = make_marks(self.options, vocab)
        return chunk_examples(vocab, marks, record, find_sentences(record), boundaries)

    def items(self, record: EncodedRecord, vocab: Vocabulary) -> list[Example]:
        """Return the examples of a record, each of its tokens with weight 1."""
        raise NotImplementedError

    def examples(self, record: EncodedRecord, vocab: Vocabulary) -> dict[str, list[Example]]:
        """The items, in batches of one stage unless ``chunk.batches`` is "mixed"."""
        items = self.items(record, vocab)
        if self.options.batches == "by_stage":
            items = by_stage(make_marks(self.options, vocab), items)
        return {"main": items}

    def foreseen(
        self, records: Sequence[EncodedRecord], vocab: Vocabulary
    ) -> Iterator[list[dict[str, list[Example]]]]:
        """The first chunks, and with a search, each of them once as long as it can become."""
        for one in records:
            n = len(find_sentences(one))
            even = average_boundaries(n, self.options.n_chunks)
            m = len(even) - 1
            ways = [even]
            if self.options.chunking == "search":  # chunk k has all sentences but m - 1
                ways += [(*range(k + 1), *range(n - m + k + 1, n + 1)) for k in range(m)]
            notes = ({"boundaries": np.array(way), "kept": np.arange(m)} for way in ways)
            yield [self.examples(one._replace(annotations=own), vocab) for own in notes]

    def report(self, run: Run, rows: Sequence[dict[str, Any]]) -> ReportPart:
        """Return what is left out, in the data and in what is written."""
        return skipping_report(run, rows)


@METHODS.register("cwt")
class ChunkWise(_Chunks):
    """A chunk at a time, then the answer; the chunks change while it is trained."""

    def __init__(self, name: str, config: Config):
        super().__init__(name, config)
        self.outputs = (chunk_folder(name),)
        self.annotations = (f"{chunk_folder(name)}/{{split}}.npz",)

    def train(self, run: Run) -> None:
        """Train in phases, between which cuts move."""
        train_in_phases(run, self)

    def items(self, record: EncodedRecord, vocab: Vocabulary) -> list[Example]:
        """One example a chunk, and one for the answer."""
        return self.chunked(record, vocab)

    def decode_plan(self, vocab: Vocabulary) -> DecodePlan:
        """The answer's mark leads there from any chunk."""
        marks = make_marks(self.options, vocab)
        turns = [Turn(prompt=Prompt((mark,))) for mark in (*marks.stages, marks.answer)]
        turns[-1] = turns[-1]._replace(mark=marks.answer)
        return DecodePlan(tuple(turns), n_turns=len(turns))


@METHODS.register("skip_thinking")
class SkipThinking(_Chunks):
    """From chunk-wise training: the chunks that the answer needs, then the answer."""

    start_from = STUDENT
    needs = ("skip-data",)
    annotations = (CHUNKS, SKIP_DATA)

    def stages(self, run: Run) -> list[Stage]:
        """Return the stage that finds the needed chunks."""
        return [skip_data_stage(run, self.config)]

    def reads(self, kind: str) -> dict[str, Any]:
        """Return the fields of both sections."""
        return reads(self.config, f"chunk:{kind}", f"skip:{kind}")

    def items(self, record: EncodedRecord, vocab: Vocabulary) -> list[Example]:
        """The kept chunks, and some of the chunk-wise examples."""
        notes, skip = record.annotations, self.config.skip
        own = skip_examples(
            vocab, make_marks(self.options, vocab), record, find_sentences(record),
            tuple(notes["boundaries"].tolist()), notes["kept"].tolist(), skip.write,
        )  # fmt: skip
        return own + some_of(self.chunked(record, vocab), skip.mix)

    def decode_plan(self, vocab: Vocabulary) -> DecodePlan:
        """At once, or turn by turn, each naming the next."""
        marks = make_marks(self.options, vocab)
        first = Turn(prompt=Prompt((marks.skip,)))
        if self.config.skip.write == "one_pass":
            return DecodePlan((first,))
        named = (*marks.stages, marks.answer)
        turns = (first, *(Turn(prompt=Prompt((marks.skip, mark)), mark=mark) for mark in named))
        return DecodePlan(turns, n_turns=len(turns))


@METHODS.register("full_thinking")
class FullThinking(_Chunks):
    """The control: all of the rationale at once, from the same start."""

    start_from = STUDENT
    annotations = (CHUNKS,)

    def reads(self, kind: str) -> dict[str, Any]:
        """Return the fields of both sections."""
        return reads(self.config, f"chunk:{kind}", f"skip:{kind}")

    def items(self, record: EncodedRecord, vocab: Vocabulary) -> list[Example]:
        """The whole chain, and some of the chunk-wise examples."""
        context: list[Ids] = [[make_marks(self.options, vocab).full], record.question.ids]
        own = make_example(vocab, f"{record.record.id}/full", context, [record.chain.ids], "full")
        return [own, *some_of(self.chunked(record, vocab), self.config.skip.mix)]

    def decode_plan(self, vocab: Vocabulary) -> DecodePlan:
        """Written at once."""
        return DecodePlan((Turn(prompt=Prompt((make_marks(self.options, vocab).full,))),))
