"""Pieces of the chains, their scores and labels: the stages "score" and "segment"."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from asesjax.core.errors import UserError, unknown
from asesjax.core.files import read_json, read_jsonl, write_json, write_jsonl
from asesjax.core.options import Config, reads
from asesjax.core.ragged import Ragged, write_annotations
from asesjax.core.stages import Stage
from asesjax.core.types import LABELS
from asesjax.data.corpus import read_corpus
from asesjax.data.sources import read_records
from asesjax.data.vocab import load_saved
from asesjax.decode.score import score_examples
from asesjax.methods.ases.scoring import ScoredRecord, score_records, segment_scored
from asesjax.methods.method import METHODS, Method, ReportPart, make_method
from asesjax.run import Run, load_role, model_config
from asesjax.segment.label import f1_from_counts, segmentation_f1
from asesjax.segment.pieces import Piece
from asesjax.segment.records import write_segments
from asesjax.segment.score import SCORES

SEGMENTS = "segments/{split}.npz"  # arrays: pieces [2 P] offsets, labels [P] places in LABELS
_SPLITS = ("train", "validation")


def segment_stages(run: Run, config: Config) -> list[Stage]:
    """Return the stages that cut, score and label; a scorer is trained where the score asks one."""
    name = config.segment.scorer
    # A row that is trained anyway scores too, for the comparison with gold labels.
    has_scorer = SCORES.get(config.segment.strategy).needs_model or name in config.methods
    if has_scorer and name not in (*METHODS, *config.variants):
        raise unknown("segment.scorer", name, [*METHODS, *config.variants])
    # With the configuration of all rows, not the options of the row that learns from scores.
    scorer = make_method(name, run.config) if has_scorer else None
    if scorer is not None and "segment" in scorer.needs:
        raise UserError(
            f"segment.scorer is {name}, which itself learns from segments; set it to a method "
            "that does not, such as direct"
        )
    own = dataclasses.replace(run, config=config)
    return [
        Stage("score", lambda: score_pieces(own, scorer),
              reads(config, "segment:score") | {"evaluate.language": config.evaluate.language},
              ("data", f"train-{name}") if has_scorer else ("data",), outputs=("scores",)),
        Stage("segment", lambda: segment_pieces(own), reads(config, "segment"), ("score",),
              outputs=("segments",)),
    ]  # fmt: skip


def score_pieces(run: Run, scorer: Method | None = None) -> None:
    """Cut the chains of training and validation into pieces and score them by every score; those
    that ask a model need a trained ``scorer``.
    """
    config = run.config
    vocab, score = load_saved(run / "vocab"), None
    if scorer is not None:
        own = dataclasses.replace(run, config=scorer.config)
        params, model = load_role(own, scorer, scorer.roles[0]), model_config(own, vocab)
        buckets = own.config.train.source_buckets, own.config.train.target_buckets
        score = lambda examples: score_examples(model, params, examples, *buckets)  # noqa: E731
    for split in _SPLITS:
        records = read_corpus(run.workdir, split, config.data.answer_template)
        rows = score_records(records, config, vocab, score)
        write_jsonl(run / f"scores/{split}.jsonl", map(dataclasses.asdict, rows))


def segment_pieces(run: Run) -> None:
    """Label the pieces by the chosen score, and compare every score with gold labels."""
    options = run.config.segment
    agreement: dict[str, dict[str, float]] = {}
    for split in _SPLITS:
        scored = [
            ScoredRecord(**row | {"pieces": tuple(Piece(*pair) for pair in row["pieces"])})
            for _, row in read_jsonl(run / f"scores/{split}.jsonl")
        ]
        rows = segment_scored(scored, options.strategy, options.beta)
        write_segments(run / f"segments/{split}.jsonl", rows, reads(run.config, "segment"))
        write_annotations(
            run / SEGMENTS.format(split=split), [row.id for row in rows],
            pieces=Ragged.of([np.ravel(row.pieces) for row in rows], np.int32),
            labels=Ragged.of([[LABELS.index(label) for label in row.labels] for row in rows],
                             np.int8),
        )  # fmt: skip
        gold = [record.gold for record in read_records(run / f"data/{split}.jsonl")]
        if split == "train" and all(gold):
            agreement = _agreement(scored, gold, options.beta)
    write_json(run / "segments/agreement.json", agreement)
    for name, scores in agreement.items():
        chosen = " (chosen)" if name == options.strategy else ""
        run.say(
            f"  {name:9} F1 against gold: {scores['macro_f1']:.3f} "
            f"(ES {scores['es_f1']:.3f}, AS {scores['as_f1']:.3f}), "
            f"with beta 1: {scores['macro_f1_at_beta_1']:.3f}{chosen}"
        )


def segment_report(run: Run, config: Config, rows: Sequence[str]) -> ReportPart:
    """Return the agreement with gold labels, for the rows that learn from segments."""
    options, agreement = config.segment, read_json(run / "segments/agreement.json")
    part = {"strategy": options.strategy, "beta": options.beta, "agreement": agreement}
    if not agreement:
        return ReportPart("segmentation", facts=part)
    f1 = ", ".join(
        f"{name} {scores['macro_f1']:.3f} ({scores['macro_f1_at_beta_1']:.3f})"
        for name, scores in agreement.items()
    )
    line = f"Segmentation F1 against gold labels, beta {options.beta:g} (and 1): {f1}."
    column = {"segm. F1": agreement[options.strategy]["macro_f1"]}
    return ReportPart("segmentation", dict.fromkeys(rows, column), part, [line])


def _agreement(scored: list[ScoredRecord], gold: list, beta: float) -> dict[str, dict]:
    """F1 of the labels of each score against gold ones, at the configured beta and at 1."""

    def f1(strategy: str, beta: float) -> dict[str, float]:
        rows = zip(segment_scored(scored, strategy, beta), gold, strict=True)
        return f1_from_counts(
            np.sum([segmentation_f1(row.pieces, row.labels, g) for row, g in rows], axis=0)
        )

    return {
        name: f1(name, beta) | {"macro_f1_at_beta_1": f1(name, 1.0)["macro_f1"]}
        for name in scored[0].scores
    }
