"""The package from Python: run an experiment, ask what it trained, cut a rationale.

    import asesjax

    report = asesjax.train("smoke", "runs/smoke")
    usm = asesjax.load("runs/smoke", "usm")
    for answer in usm.generate(["Amy has 5 apples. ..."], max_rounds=3):
        print(answer.answer, [(segment.label, segment.text) for segment in answer.segments])

The verbs of the command line are made of the same functions. All of them raise
``core.errors.UserError`` for what a user can fix.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from asesjax.config import base_config, finish
from asesjax.core.errors import UserError, unknown
from asesjax.core.files import read_json
from asesjax.core.options import Config
from asesjax.core.types import Example, Record, Segment
from asesjax.data.corpus import encode_record
from asesjax.data.rows import BadRow, checked_text
from asesjax.decode.score import score_examples
from asesjax.evals.predictions import prediction_row
from asesjax.evals.runner import (
    chain_examples,
    check_decode,
    check_question,
    make_decoder,
    stream_answers,
)
from asesjax.experiment import execute, open_run
from asesjax.methods.ases.scoring import score_records, segment_scored
from asesjax.methods.method import Request, TrainedMethod, make_method
from asesjax.run import (
    Run,
    keep_programs,
    load_method,
    one_seed,
    own_mesh,
    role_folder,
    trained,
)
from asesjax.seeds import execute_seeds
from asesjax.segmentation.label import merge_segments
from asesjax.segmentation.score import BEST_WITHOUT_MODEL
from asesjax.training.checkpoint_files import steps


def train(
    config: str | ConfigDict | Config | None,
    workdir: str | Path,
    fields: Mapping[str, Any] | None = None,
    *,
    until: str | Sequence[str] = "report",
    redo: bool = False,
) -> dict[str, Any]:
    """Run an experiment in a folder as ``asesjax run`` does, and return its report. The same call
    resumes and keeps what is finished.

    ``config`` is the name of a configuration that comes along, a file (``file.py:arg``), the object
    that such a file makes, or None for that of the folder; ``fields`` are changes to it by dotted
    names, such as ``{"data.path": "my.jsonl", "train.epochs": 3}``. ``until`` names the last stages
    to run, such as "data" or "segment"; ``redo`` moves results of another configuration aside. The
    report is the content of ``report.json``, with several seeds of ``compare.json``; nothing where
    ``until`` ends before it.
    """
    run = open_run(config, workdir, fields)
    if until != "report":
        execute(run, (until,) if isinstance(until, str) else tuple(until), redo=redo)
        return {}
    execute_seeds(run, redo=redo)
    return read_json(run / ("compare.json" if run.config.seeds else "report.json"))


def load(workdir: str | Path, row: str, **decode: Any) -> "LoadedRow":
    """Load a trained row of a finished run's table, to ask it. ``decode`` are fields of the section
    of that name (``asesjax config decode``) instead of the run's.
    """
    fields = _decode_fields(decode)
    run = row_run(open_run(None, workdir, fields), row, fields)
    return LoadedRow(run, load_method(run, row))


def segment(
    question: str, rationale: str, *, scorer: "LoadedRow | None" = None, language: str = "",
    **fields: Any,
) -> list[Segment]:  # fmt: skip
    """Cut a rationale into segments and label them ES or AS; their joined texts are the rationale,
    but for what ``short="drop"`` leaves out.

    ``fields`` are those of the section ``segment``, such as ``strategy`` or ``beta``. ``scorer`` is
    a loaded row that writes whole chains (``direct``), which the strategies "entropy" and "loss"
    ask; with one the defaults are those of its run, without one the strategy is "rouge".
    ``language`` is "en" or "zh".
    """
    if scorer is not None and not isinstance(scorer, LoadedRow):
        raise UserError(f"scorer is {scorer!r}; give what asesjax.load returns")
    config = scorer.run.config if scorer else finish(base_config())
    if scorer is None:
        fields = {"strategy": BEST_WITHOUT_MODEL} | fields
    changes = {f"segment.{name}": value for name, value in fields.items()}
    config = config.changed(changes | ({"evaluate.language": language} if language else {}))
    texts = _text(question, "the question"), _text(rationale, "the rationale")
    record = Record("of this call", *texts, "")
    if scorer is None:
        scored = score_records([record], config)
    else:
        scored = score_records(
            [encode_record(scorer.trained.vocab, record, "")], config, scorer.trained.vocab,
            scorer.score_whole,
        )  # fmt: skip
    options = config.segment
    (labelled,) = segment_scored(scored, options.strategy, options.beta)
    return merge_segments(labelled.texts, labelled.labels, options.merge_adjacent)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a row wrote for a question."""

    question: str
    chain: str  # the whole text: that of the segments joined
    answer: str | None  # as ``evaluate.metric`` reads it in the chain
    segments: tuple[Segment, ...]  # with the labels of the turns that wrote them
    finish_reason: str  # "end", or what cut it: "length", "repeated", "looping", "nonfinite"
    log_probability: float | None  # of the chain, nats; None where it was not finite
    tokens: int  # decoder steps, those of all samples
    votes: dict[str, int]  # answers of all samples, the winner first; empty for one sample
    tied: bool = False  # whether another answer had as many votes


@dataclasses.dataclass(frozen=True)
class ChainScores:
    """How probable a row finds a chain, segment by segment, in nats. The marks that end segments
    are tokens, too.
    """

    segments: tuple[Segment, ...]
    log_probabilities: tuple[np.ndarray, ...]  # float32 [T] each, of the tokens of a segment
    entropies: tuple[np.ndarray, ...]  # float32 [T] each, of the predictions of these tokens

    @property
    def log_probability(self) -> float:
        """Of the whole chain."""
        return float(sum(own.sum() for own in self.log_probabilities))


@dataclasses.dataclass(frozen=True)
class LoadedRow:
    """A trained row of a run's table, from ``load``."""

    run: Run  # with the configuration of the row
    trained: TrainedMethod

    def generate(
        self, questions: str | Sequence[str | Record], *, first: int = 0, **decode: Any
    ) -> list[Answer]:
        """Answer questions, all at once. ``decode`` are fields of the section of that name, such
        as ``max_rounds=3``, or ``sampler="sample", temperature=0.7, samples=5`` to let five chains
        vote. What is drawn for a question depends on ``seed`` and its place, counted from
        ``first``. Records are for rows that are shown a part of the reference.
        """
        using = self._with(decode)
        config, vocab = using.trained.method.config, using.trained.vocab
        check_decode(config)
        records = _records(questions)
        ids = [vocab.encode(record.question) for record in records]
        for record, own in zip(records, ids, strict=True):
            check_question(own, f"question {record.id}", config)
        # Padded as the longest that is possible, so that one program is compiled for all.
        longest = max(config.decode.question_buckets)
        request = Request(ids, first + np.arange(len(ids)), records=records)
        chains = dict(stream_answers(
            using.trained, request, make_decoder(config, (longest,)), own_mesh(using.run)
        ))  # fmt: skip
        rows = (prediction_row(record, chains[i], using.trained.method, vocab)
                for i, record in enumerate(records))  # fmt: skip
        return [
            Answer(
                segments=tuple(Segment(**part) for part in row["segments"]),
                votes=row.get("votes", {}), tied=row.get("tied", False),
                **{name: row[name] for name in ("question", "chain", "answer", "finish_reason",
                                                "log_probability", "tokens")},
            )
            for row in rows
        ]  # fmt: skip

    def score(
        self,
        questions: str | Sequence[str | Record],
        chains: Sequence[str | Sequence[str | Segment]],
    ) -> list[ChainScores]:
        """Return the probability of a given chain of each question and the entropy of each
        prediction on the way. A chain is one text, or the segments that are written in turn
        (``Answer.segments``, ``asesjax.segment``); of two roles, that of a segment's label writes
        it. A chain is encoded as a whole, as for training, and every segment is scored with its
        end mark, which one that a bound has cut was not given. Raises UserError for rows whose
        turns only the model itself knows.
        """
        records = _records(questions)
        if isinstance(chains, str) or len(chains) != len(records):
            got = "a text" if isinstance(chains, str) else f"a list of {len(chains)}"
            raise UserError(
                f"score needs a list of one chain a question, here of {len(records)}; got {got}"
            )
        given = [_segments(chain, i) for i, chain in enumerate(chains, 1)]
        parts = chain_examples(self.trained, records, given)
        found: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        for role in self.trained.method.roles:
            places = [(i, k) for i, own in enumerate(parts) for k, (name, _) in enumerate(own)
                      if name == role]  # fmt: skip
            examples = [parts[i][k][1] for i, k in places]
            found |= dict(zip(places, self._scores(role, examples), strict=True))
        out = []
        for i, own in enumerate(parts):
            nll, entropy = zip(*(found[i, k] for k in range(len(own))), strict=True)
            out.append(ChainScores(given[i], tuple(-one for one in nll), entropy))
        return out

    def score_whole(self, examples: Sequence[Example]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return negative log-likelihood and entropy of the targets of each example, float32 [T]
        each. Raises UserError for a row that does not write whole chains.
        """
        method = self.trained.method
        if method.decode_plan(self.trained.vocab).n_turns != 1:
            raise UserError(
                f"row {method.name} writes chains segment by segment, and the scorer of a "
                "segmentation writes them whole; load a row such as direct"
            )
        return self._scores(method.roles[0], examples)

    def _scores(self, role: str, examples: Sequence[Example]) -> list:
        if not examples:
            return []
        # Few shapes, so that calls share compiled programs.
        sides = zip(*((len(one.inputs), len(one.targets)) for one in examples), strict=True)
        source, target = ((-(-max(lengths) // 64) * 64,) for lengths in sides)
        rows = min(64, 1 << (len(examples) - 1).bit_length())
        params = self.trained.params[role]
        return score_examples(self.trained.model, params, examples, source, target, rows)

    def _with(self, decode: Mapping[str, Any]) -> "LoadedRow":
        if not decode:
            return self
        if decode.get("int8", self.run.config.decode.int8) != self.run.config.decode.int8:
            raise UserError("int8 decides how parameters are loaded; give it to asesjax.load")
        fields = _decode_fields(decode)
        name = self.trained.method.name
        run = dataclasses.replace(self.run, config=self.run.config.changed(fields))
        run = row_run(run, name, fields)
        method = make_method(name, run.config)
        return LoadedRow(run, trained(run, method, self.trained.params, self.trained.vocab))


def row_run(run: Run, row: str, changes: Mapping[str, Any]) -> Run:
    """Return a run with the configuration of a row of its table, for asking it. ``changes`` are the
    dotted fields that the caller has set, which go before those of the row.
    """
    one_seed(run)
    config = run.config
    if row not in config.methods:
        raise unknown("row of the run", row, config.methods)
    for name in ("temperature", "top_k", "top_p", "seed"):
        if f"decode.{name}" in changes and config.decode.sampler == "greedy":
            raise UserError(
                f"decode.{name} has no effect with decode.sampler=greedy; set "
                "decode.sampler=sample, too"
            )
    own = {f"variants.{row}.{name}": getattr(config.decode, name.removeprefix("decode."))
           for name in config.variants.get(row, ()) if name in changes}  # fmt: skip
    if own:
        config = config.changed(own)
    method = make_method(row, config)
    if not all(steps(role_folder(run, row, role) / "checkpoints") for role in method.roles):
        raise UserError(
            f"{row} is not trained yet in {run.workdir}: asesjax run --workdir {run.workdir} does"
        )
    run = dataclasses.replace(run, config=method.config)
    if os.access(run / "compiled", os.W_OK):
        keep_programs(run)  # the next start has the same programs, and sooner
    return run


def _decode_fields(decode: Mapping[str, Any]) -> dict[str, Any]:
    return {f"decode.{name}": value for name, value in decode.items()}


def _text(text: str, what: str) -> str:
    if not isinstance(text, str):
        raise UserError(f"{what} must be a text, got {type(text).__name__}")
    if not text.strip():
        raise UserError(f"{what} is empty; give a text, such as: How much is 2 + 3?")
    try:
        return checked_text(text, what)
    except BadRow as error:
        raise UserError(str(error)) from None


def _records(questions: str | Sequence[str | Record]) -> list[Record]:
    """Return records of questions, numbered from 1."""
    if isinstance(questions, str):
        return [Record("1", _text(questions, "the question"), "", "")]
    return [
        dataclasses.replace(one, id=str(i)) if isinstance(one, Record)
        else Record(str(i), _text(one, f"question {i}"), "", "")
        for i, one in enumerate(questions, 1)
    ]  # fmt: skip


def _segments(chain: str | Sequence[str | Segment], number: int) -> tuple[Segment, ...]:
    parts = [chain] if isinstance(chain, str | Segment) else chain
    out = tuple(part if isinstance(part, Segment) else Segment(part) for part in parts)
    for part in out:
        _text(part.text, f"chain {number}")
    if not out:
        raise UserError(f"chain {number} has no segments")
    return out
