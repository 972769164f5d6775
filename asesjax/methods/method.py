"""What a method is: the one class by which the rest of the package knows methods.

A method is a class, registered under its name where it is defined. It supplies options, examples
for each role and a decode plan; most need no more.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from asesjax.core.errors import UserError, unknown
from asesjax.core.options import Config, reads
from asesjax.core.registry import Registry
from asesjax.core.stages import Stage
from asesjax.core.types import Example, Params, Record
from asesjax.data.corpus import EncodedRecord
from asesjax.data.vocab import Vocabulary
from asesjax.decode.spec import DecodePlan, Limits
from asesjax.models.t5_config import T5Config

if TYPE_CHECKING:
    from asesjax.run import Run


class ReportPart(NamedTuple):
    """What a method adds to a run's report."""

    name: str  # of the part; methods of one room that return the same name share one part
    columns: dict[str, dict[str, Any]] = {}  # row of the table to values by heading
    facts: dict[str, Any] = {}  # JSON values, in ``report.json`` under the name
    lines: Sequence[str] = ()  # Markdown below the table
    figures: Sequence[Path] = ()  # pictures that were drawn, below the workdir


class Method:
    """One way to learn from rationales: a row of the results table with its options."""

    Options: Any = None  # section of the configuration that the method reads
    learns_rationales: bool = True  # whether it needs records that have one
    roles: tuple[str, ...] = ("main",)  # parameter sets; they share a budget of tokens evenly
    needs: tuple[str, ...] = ()  # stages that its training comes after, besides the data
    start_from: str = ""  # method whose first role all roles start from, or the run's start
    annotations: tuple[str, ...] = ()  # files whose arrays its records get (``data.corpus``)
    writes_rationales: bool = True  # otherwise its chains are no more than answers
    outputs: tuple[str, ...] = ()  # what its training writes below the workdir, besides its roles
    train: "Callable[[Run], None] | None" = None  # in place of ``jobs.training``
    # (i, k): training records i, i + k, i + 2 k, ... are left out
    fold: tuple[int, int] | None = None

    def __init__(self, name: str, config: Config):
        """Make a row; ``config`` has the row's own options. Raises UserError if they conflict."""
        self.name, self.config = name, config

    @property
    def options(self) -> Any:
        """The method's section."""
        return getattr(self.config, self.Options.section)

    def prepare(self, records: list[EncodedRecord]) -> None:
        """See all training records, before the examples of any split are made of them."""

    def examples(self, record: EncodedRecord, vocab: Vocabulary) -> dict[str, list[Example]]:
        """Return the examples of one record for each role."""
        raise NotImplementedError

    def foreseen(
        self, records: Sequence[EncodedRecord], vocab: Vocabulary
    ) -> Iterator[list[dict[str, list[Example]]]]:
        """Yield for each record, before anything is trained, its examples in every way in which
        its stages may annotate it, as far as lengths are concerned; nothing where that is not
        known. Roles that the method has not stand for what its stages train and never pack.
        """
        if not self.annotations and type(self).examples is not Method.examples:
            for record in records:
                yield [self.examples(record, vocab)]

    def recall(self, workdir: Path) -> None:
        """See what its stages wrote, before it decodes."""

    def decode_plan(self, vocab: Vocabulary) -> DecodePlan:
        """Return who writes what, from which prompt, until which mark."""
        return DecodePlan()

    def prepare_requests(
        self, trained: "TrainedMethod", request: "Request", generate_fn: "GenerateFn"
    ) -> "Request":
        """Return questions as they are decoded."""
        return request

    def reference(self, record: Record) -> Record:
        """Return a record whose rationale and answer are the chain that the method is taught."""
        return record

    def stages(self, run: "Run") -> list[Stage]:
        """Return stages of its own, beside training and decoding; the same for rows that share.
        The configuration of ``run`` is that of all rows, ``self.config`` has the row's own options.
        """
        return []

    def report(self, run: "Run", rows: Sequence[dict[str, Any]]) -> ReportPart | None:
        """Return what it adds to the report of ``rows``."""
        return None

    def reads(self, kind: str) -> dict[str, Any]:
        """Return the fields of its section that change one kind of stage."""
        return reads(self.config, f"{self.Options.section}:{kind}") if self.Options else {}


METHODS: Registry[type[Method]] = Registry("method")


def method_class(name: str, config: Config) -> type[Method]:
    """Return the class of a row, for a variant its method's. Raises UserError for unknown names."""
    kind = config.variants.get(name, {}).get("method")
    if kind is not None and kind not in METHODS:
        raise unknown(f"variants.{name}.method", kind, METHODS)
    if kind is None and name not in METHODS:
        if name in config.variants:
            raise UserError(
                f"{name} is no method, and variants.{name}.method is not set; set it to one of "
                f"{', '.join(METHODS)}"
            )
        raise unknown("method", name, [*METHODS, *config.variants])
    return METHODS.get(kind or name)


def make_method(name: str, config: Config) -> Method:
    """Return a row of the results table: a method, or a variant of one with its own options. A name
    of ``fold_rows`` is the row whose training leaves out a part of the records.
    """
    fold = None if name in config.variants else re.fullmatch(r"(.+)-fold(\d+)of(\d+)", name)
    row = fold[1] if fold else name
    own = {key: value for key, value in config.variants.get(row, {}).items() if key != "method"}
    method = method_class(row, config)(name, config.changed(own) if own else config)
    if fold:
        method.fold = int(fold[2]), int(fold[3])
    return method


def fold_rows(name: str, n_folds: int) -> list[str]:
    """Return the names of rows that are like one but leave out the first, second, ... of so many
    parts of the training records; the row itself for fewer than two.
    """
    return [f"{name}-fold{i}of{n_folds}" for i in range(n_folds)] if n_folds > 1 else [name]


def check_all_records(config: Config, what: str) -> None:
    """Refuse a row that trains on a part of the records where ``what`` is made from all of them."""
    if config.train.records:
        raise UserError(
            f"train.records is {config.train.records}, and {what} come from all training records, "
            "which would tell the row of others than its own; set data.n_train instead"
        )


class TrainedMethod(NamedTuple):
    """What it takes to answer with a method."""

    method: Method  # what trained the parameters
    model: T5Config  # their shape
    params: dict[str, Params]  # by role
    vocab: Vocabulary  # the run's
    # reads the run's training records, for methods that show some of them
    corpus: Callable[[], list[EncodedRecord]] = list


class Request(NamedTuple):
    """Questions, and what some of them bring of their own."""

    questions: Sequence[np.ndarray]  # int32 ids each, without end of sequence
    rows: np.ndarray  # [N] int, the place of each in the whole input; what is drawn depends on it
    # [N] and [N, segments] as in ``spec.Limits``; the configuration's when None
    limits: Limits | None = None
    # int32 ids each chain (or a list: each segment) begins with; ``decode.prefix`` when None
    forced: Sequence[np.ndarray] | Sequence[Sequence[np.ndarray]] | None = None
    # int32 ids each, see ``spec.Prompt``; none when None
    extra_inputs: Sequence[np.ndarray] | None = None
    # what is known of each, for methods that are given a part of it (an oracle)
    records: Sequence[Record] | None = None

    def part(self, places: Sequence[int]) -> "Request":
        """Some of the questions."""

        def cut(values):
            if isinstance(values, np.ndarray):
                return values[np.asarray(places, np.int64)]
            return None if values is None else [values[i] for i in places]

        limits = self.limits and Limits(*map(cut, self.limits))
        return Request._make(limits if name == "limits" else cut(value)
                             for name, value in self._asdict().items())  # fmt: skip


# ``generate_fn(role, questions)`` returns the ids of one segment that a role writes for each.
GenerateFn = Callable[[str, Sequence[np.ndarray]], list[np.ndarray]]
