"""The seam between methods and the rest: examples and a decode plan are all a method supplies.

Every role is an ordinary run of the one training loop on its list of examples, and every method is
decoded by the one engine; what differs is data, weights and plan.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from asesjax.core.types import Example, Params, Record, Segment
from asesjax.data.vocab import Vocabulary
from asesjax.decode.spec import Frame, Limits
from asesjax.models.t5_config import T5Config


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A record as methods see it.

    Attributes:
      record: question, rationale and answer.
      question_ids: [Q] int32 ids of the question, without end of sequence.
      segments: labelled segments of the chain (rationale and answer sentence), joined in order;
        None for methods that do not ask for them.
      notes: what the method's own stages found out about the record: its rows of ``Method.notes``.
    """

    record: Record
    question_ids: np.ndarray
    segments: tuple[Segment, ...] | None = None
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Shape(NamedTuple):
    """How the chains of a method are written; see ``decode.spec.DecodeSpec``.

    Attributes:
      n_stages: stages of a chain; 1 where it is written at once, 0 where it ends by itself.
      frames: what a stage reads, in turn.
      jump_ids: end marks that name the next stage.
      sentinel: whether sentinel 0 ends a chain.
      stop_text: ends a chain with the segment that holds it; empty for none.
    """

    n_stages: int = 1
    frames: tuple[Frame, ...] = (Frame(),)
    jump_ids: tuple[int, ...] = ()
    sentinel: bool = False
    stop_text: str = ""


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to learn from rationales.

    Attributes:
      name: as in the configuration's ``methods``.
      examples: ``(prepared, config, vocabulary) -> {role: examples}`` of one record.
      roles: the parameter sets it trains. They share the training budget evenly.
      labels: what the segments of a chain are called, in turn; None for no name.
      phases: the roles that write segments in turn, starting with the first; all when empty.
      segmented: whether examples are made from labelled segments.
      shape: ``(config, vocabulary) -> Shape``.
      ask: ``(trained, config, asked, write) -> asked``: what becomes of questions before they are
        decoded. ``write(role, questions)`` has a role write one segment for each list of ids, to
        its end mark.
      start_from: the method whose (first) role all roles start from, instead of the run's start.
      notes: files in the workdir with a row for each record of a split (``{split}`` in their
        names), whose fields become ``Prepared.notes``.
      needs: stages that training comes after, besides the data.
      train_fields: fields or sections of the configuration that its examples depend on.
      decode_fields: those that its decoding depends on.
      adapt: ``(method, config) -> method``, for one whose roles the configuration decides.
      reference: ``(record, config) -> record`` with the chain that the method is taught as its
        rationale and no answer, where it is not rationale and answer sentence.
    """

    name: str
    examples: Callable[[Prepared, ConfigDict, Vocabulary], dict[str, list[Example]]]
    roles: tuple[str, ...] = ("main",)
    labels: tuple[str | None, ...] = (None,)
    phases: tuple[str, ...] = ()
    segmented: bool = False
    shape: Callable[[ConfigDict, Vocabulary], Shape] = lambda config, vocab: Shape()
    ask: "Callable[[Trained, ConfigDict, Asked, Write], Asked] | None" = None
    start_from: str = ""
    notes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    train_fields: tuple[str, ...] = ()
    decode_fields: tuple[str, ...] = ()
    adapt: "Callable[[Method, ConfigDict], Method] | None" = None
    reference: Callable[[Record, ConfigDict], Record] | None = None

    def examples_by_role(
        self, prepared: Iterable[Prepared], config: ConfigDict, vocab: Vocabulary
    ) -> dict[str, list[Example]]:
        """Return the examples of many records, those of each role together, in order."""
        out: dict[str, list[Example]] = {role: [] for role in self.roles}
        for one in prepared:
            for role, items in self.examples(one, config, vocab).items():
                out[role] += items
        return out


class Trained(NamedTuple):
    """What it takes to answer with a method.

    Attributes:
      method: what trained the parameters.
      model: their shape.
      params: one tree for each role, in the roles' order.
      vocab: the run's.
      examples: reads the run's training records, for methods that show some of them.
    """

    method: Method
    model: T5Config
    params: tuple[Params, ...]
    vocab: Vocabulary
    examples: Callable[[], list[Record]] = list

    def of(self, role: str) -> Params:
        """Return the parameters of a role."""
        return self.params[self.method.roles.index(role)]

    @property
    def by_phase(self) -> tuple[Params, ...]:
        """The parameters that write segments in turn."""
        return tuple(self.of(role) for role in self.method.phases or self.method.roles)


class Asked(NamedTuple):
    """Questions, and what some of them bring of their own.

    Attributes:
      questions: int32 ids each, without end of sequence.
      rows: [N] int, the place of each in the whole input; what is drawn depends on it.
      limits: [N] and [N, segments] as in ``spec.Limits``; the configuration's when None.
      forced: int32 ids each chain begins with, or a list of such for its segments; of
        ``decode.prefix`` when None.
      hints: int32 ids each, see ``spec.Frame``.
      stages: [N] int32, the first stage of each; 0 when None.
      records: what is known of each, for methods that are given a part of it (an oracle).
    """

    questions: Sequence[np.ndarray]
    rows: np.ndarray
    limits: Limits | None = None
    forced: Sequence[np.ndarray] | Sequence[Sequence[np.ndarray]] | None = None
    hints: Sequence[np.ndarray] | None = None
    stages: np.ndarray | None = None
    records: Sequence[Record] | None = None

    def part(self, start: int, end: int) -> "Asked":
        """Some questions that follow each other."""

        def cut(values):
            return None if values is None else values[start:end]

        limits = self.limits and Limits(*map(cut, self.limits))
        others = (self.forced, self.hints, self.stages, self.records)
        return Asked(cut(self.questions), cut(self.rows), limits, *map(cut, others))


Write = Callable[[str, Sequence[np.ndarray]], list[np.ndarray]]
