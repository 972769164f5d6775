"""Worked examples before the question, in four formats (Fu et al. 2023, section 3)."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from asesjax.core.errors import UserError
from asesjax.core.options import Config, option, reads, section
from asesjax.core.ragged import Ragged, write_annotations
from asesjax.core.stages import Stage
from asesjax.core.types import Example
from asesjax.data.corpus import EncodedRecord, read_corpus
from asesjax.data.examples import join_ids
from asesjax.data.vocab import Vocabulary
from asesjax.methods.baselines.direct import answer_example, answer_text, direct_example
from asesjax.methods.baselines.marks import encode_marks
from asesjax.methods.method import (
    METHODS,
    GenerateFn,
    Method,
    Request,
    TrainedMethod,
    check_all_records,
)
from asesjax.run import Run


class Format(NamedTuple):
    """With worked examples or without, chain or answer."""

    few: bool
    chain: bool


FORMATS = {
    "few_chain": Format(few=True, chain=True),
    "few_answer": Format(few=True, chain=False),
    "zero_chain": Format(few=False, chain=True),
    "zero_answer": Format(few=False, chain=False),
}


@section("in_context")
class InContextOptions:
    """Formats, and how many worked examples are shown."""

    formats: tuple[str, ...] = option(
        tuple(FORMATS), "examples of each question: few or zero worked examples, chain or answer",
        choices=FORMATS,
    )  # fmt: skip
    ask: str = option("few_chain", "format of the questions that are decoded", choices=FORMATS,
                      changes="decode")  # fmt: skip
    shots: int = option(2, "worked examples before a question, all training records", least=0,
                        changes="choose", most=1000)  # fmt: skip
    chain_prompt: str = option("Let's think step by step.", "behind questions that ask for the "
                               "chain")  # fmt: skip
    answer_prompt: str = option("The answer:", "behind questions that ask for the answer")


@METHODS.register("in_context")
class InContext(Method):
    """Every format of a question is an example; one format is asked for in decoding."""

    Options = InContextOptions
    needs = ("in_context",)
    annotations = ("in_context/{split}.npz",)

    def __init__(self, name: str, config: Config):
        super().__init__(name, config)
        self._pool: list[EncodedRecord] = []
        check_all_records(config, "worked examples")
        if not self.options.formats:
            raise UserError(f"in_context.formats must name some of {', '.join(FORMATS)}")
        wanted = (*self.options.formats, self.options.ask)
        if self.options.shots < 1 and any(FORMATS[name].few for name in wanted):
            raise UserError(
                f"in_context.shots must be at least 1 for formats with worked examples, got "
                f"{self.options.shots}"
            )

    def stages(self, run: Run) -> list[Stage]:
        """Return the stage that chooses worked examples."""
        return [Stage("in_context", lambda: choose_examples(run, self.options.shots),
                      reads(self.config, "in_context:choose"), ("data",),
                      outputs=("in_context",))]  # fmt: skip

    def prepare(self, records: list[EncodedRecord]) -> None:
        """Keep the training records, which worked examples are chosen from."""
        self._pool = records

    def examples(self, record: EncodedRecord, vocab: Vocabulary) -> dict[str, list[Example]]:
        """Return every format of a question."""
        out = []
        for name in self.options.formats:
            how = FORMATS[name]
            plain = direct_example(record, vocab) if how.chain else answer_example(
                record, vocab, self.config.data.answer_template
            )
            shown = [self._pool[i] for i in record.annotations["shown"]] if how.few else []
            prompted = self.prompted(record.question.ids, shown, how, vocab)
            out.append(dataclasses.replace(
                plain, id=f"{record.record.id}/{name}", kind="" if how.chain else "answer",
                inputs=join_ids(prompted, plain.inputs[-1:]),
            ))  # fmt: skip
        return {"main": out}

    def foreseen(
        self, records: Sequence[EncodedRecord], vocab: Vocabulary
    ) -> Iterator[list[dict[str, list[Example]]]]:
        """Choose worked examples as the stage does."""
        pool = [one.question.ids for one in self._pool]
        asked = [one.question.ids for one in records]
        for one, shown in zip(
            records, worked_examples(asked, pool, self.options.shots), strict=True
        ):
            yield [self.examples(one._replace(annotations={"shown": np.asarray(shown)}), vocab)]

    def prepare_requests(
        self, trained: TrainedMethod, request: Request, generate_fn: GenerateFn
    ) -> Request:
        """Put worked examples of the training records and the prompt around every question."""
        how = FORMATS[self.options.ask]
        shown: list[list[EncodedRecord]] = [[] for _ in request.questions]
        if how.few:
            pool = trained.corpus()
            places = worked_examples(
                request.questions, [one.question.ids for one in pool], self.options.shots
            )
            shown = [[pool[place] for place in own] for own in places]
        questions = [
            self.prompted(ids, own, how, trained.vocab)
            for ids, own in zip(request.questions, shown, strict=True)
        ]
        return request._replace(questions=questions)

    def prompted(
        self,
        question: np.ndarray,
        shown: Sequence[EncodedRecord],
        how: Format,
        vocab: Vocabulary,
    ) -> np.ndarray:
        """Return ids of worked examples, the question and the prompt."""
        chain, answer = encode_marks(vocab, self.options, "chain_prompt", "answer_prompt")
        prompt, template = chain if how.chain else answer, self.config.data.answer_template
        pieces: list[np.ndarray] = []
        for one in shown:
            target = one.chain.ids if how.chain else vocab.encode(answer_text(one.record, template))
            pieces += [one.question.ids, prompt, target]
        return join_ids(*pieces, question, prompt)


def choose_examples(run: Run, shots: int) -> None:
    """Write which training records each training and validation question is shown."""
    template = run.config.data.answer_template
    pool = [one.question.ids for one in read_corpus(run.workdir, "train", template)]
    for split in ("train", "validation"):
        records = read_corpus(run.workdir, split, template)
        shown = worked_examples([one.question.ids for one in records], pool, shots)
        write_annotations(run / f"in_context/{split}.npz", [one.record.id for one in records],
                          shown=Ragged.of(shown, np.int32))  # fmt: skip


def worked_examples(
    questions: Sequence[np.ndarray], pool: Sequence[np.ndarray], shots: int
) -> list[list[int]]:
    """Choose ``shots`` places in the pool for each question, never one with the same question. The
    choice depends on the question's ids and the pool alone, so training and decoding agree. Raises
    UserError if the pool has fewer than ``shots`` other questions.
    """
    keys = [ids.astype("<i4").tobytes() for ids in pool]
    same = Counter(keys)
    out = []
    for question in questions:
        own = question.astype("<i4").tobytes()
        if len(pool) - same[own] < shots:
            raise UserError(
                f"in_context.shots is {shots}, but there are only {len(pool) - same[own]} other "
                "training questions to show; lower it, or raise data.n_train"
            )
        chosen: list[int] = []
        draw = 0
        while len(chosen) < shots:
            digest = hashlib.sha256(own + draw.to_bytes(4, "little")).digest()
            place = int.from_bytes(digest[:8], "little") % len(pool)
            if place not in chosen and keys[place] != own:
                chosen.append(place)
            draw += 1
        out.append(chosen)
    return out
