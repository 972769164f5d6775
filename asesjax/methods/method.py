"""The seam between methods and the rest: examples and a decode plan are all a method supplies.

Every role is an ordinary run of the one training loop on its list of examples, and every method is
decoded by the one engine; what differs is data, weights and plan.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from asesjax.core.types import Example, Record, Segment
from asesjax.data.vocab import Vocabulary


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A record as methods see it.

    Attributes:
      record: question, rationale and answer.
      question_ids: [Q] int32 ids of the question, without end of sequence.
      segments: labelled segments of the chain (rationale and answer sentence), joined in order;
        None for methods that do not ask for them.
    """

    record: Record
    question_ids: np.ndarray
    segments: tuple[Segment, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to learn from rationales.

    Attributes:
      name: as in the configuration's ``methods``.
      roles: the parameter sets it trains. They share the training budget evenly. Decoding takes
        them in turns, a segment each, starting with the first.
      labels: the label of the segments each role writes, None where it writes any.
      segmented: whether examples are made from labelled segments.
      single_segment: whether decoding ends with the first segment.
      examples: ``(prepared, config, vocabulary) -> {role: examples}`` of one record.
    """

    name: str
    roles: tuple[str, ...]
    labels: tuple[str | None, ...]
    segmented: bool
    single_segment: bool
    examples: Callable[[Prepared, ConfigDict, Vocabulary], dict[str, list[Example]]]
