"""Pieces of the chains, their scores and labels."""

import dataclasses

import numpy as np

from asesjax.core.config import STRATEGIES, flatten
from asesjax.core.files import read_jsonl, write_json, write_jsonl
from asesjax.data.sources import read_records
from asesjax.data.vocab import load_saved
from asesjax.decode.score import score_examples
from asesjax.methods.ases.scoring import ScoredRecord, score_records, segment_scored
from asesjax.methods.registry import get_method
from asesjax.run import Run, load_role, model_config
from asesjax.segment.label import f1_from_counts, segmentation_f1
from asesjax.segment.pieces import Piece
from asesjax.segment.records import write_segments


def score_pieces(run: Run, has_scorer: bool) -> None:
    """Cut the chains of training and validation into pieces and score them by every strategy."""
    config = run.config
    vocab = load_saved(run / "vocab")
    scorer = None
    if has_scorer:
        direct = get_method("direct")
        params, model = load_role(run, direct, "main"), model_config(run, vocab)
        buckets = config.train.source_buckets, config.train.target_buckets
        scorer = lambda examples: score_examples(model, params, examples, *buckets)  # noqa: E731
    for split in ("train", "validation"):
        records = read_records(run / f"data/{split}.jsonl")
        rows = score_records(records, config, vocab, scorer)
        write_jsonl(run / f"scores/{split}.jsonl", map(dataclasses.asdict, rows))


def segment_pieces(run: Run) -> None:
    """Label the pieces by the chosen strategy, and compare every strategy with gold labels."""
    s = run.config.segment
    provenance = {k: v for k, v in flatten(run.config).items() if k.startswith("segment.")}
    agreement: dict[str, dict[str, float]] = {}
    for split in ("train", "validation"):
        scored = [
            ScoredRecord(**row | {"pieces": tuple(Piece(*pair) for pair in row["pieces"])})
            for _, row in read_jsonl(run / f"scores/{split}.jsonl")
        ]
        rows = segment_scored(scored, s.strategy, s.beta)
        write_segments(run / f"segments/{split}.jsonl", rows, provenance)
        gold = [record.gold for record in read_records(run / f"data/{split}.jsonl")]
        if split == "train" and all(gold):
            agreement = _agreement(scored, gold, s.beta)
    write_json(run / "segments/agreement.json", agreement)
    for name, scores in agreement.items():
        chosen = " (chosen)" if name == s.strategy else ""
        run.say(
            f"  {name:9} F1 against gold: {scores['macro_f1']:.3f} "
            f"(ES {scores['es_f1']:.3f}, AS {scores['as_f1']:.3f}), "
            f"with beta 1: {scores['macro_f1_at_beta_1']:.3f}{chosen}"
        )


def _agreement(scored: list[ScoredRecord], gold: list, beta: float) -> dict[str, dict]:
    """F1 of each strategy's labels against gold ones, at the configured beta and at 1."""

    def f1(strategy: str, beta: float) -> dict[str, float]:
        rows = zip(segment_scored(scored, strategy, beta), gold, strict=True)
        return f1_from_counts(
            np.sum([segmentation_f1(row.pieces, row.labels, g) for row, g in rows], axis=0)
        )

    return {
        name: f1(name, beta) | {"macro_f1_at_beta_1": f1(name, 1.0)["macro_f1"]}
        for name in STRATEGIES
        if name == "location" or name in scored[0].scores
    }
