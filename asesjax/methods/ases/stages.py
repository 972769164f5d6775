"""Pieces of the chains, their scores and labels: the stages "score" and "segment".

Rows with ``segment`` fields of their own have stages and folders of their own, whose names end with
a hash of the fields; rows with the same fields share them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from asesjax.core.errors import UserError, unknown
from asesjax.core.files import read_json, write_json, write_jsonl
from asesjax.core.options import Config, fingerprint, reads
from asesjax.core.processes import is_first
from asesjax.core.ragged import Ragged, write_annotations
from asesjax.core.stages import Stage
from asesjax.core.types import LABELS, Example
from asesjax.data.batching import holding, token_counts
from asesjax.data.corpus import read_corpus
from asesjax.data.sources import read_records
from asesjax.data.vocab import Vocabulary, load_saved
from asesjax.decode.passes import by_itself
from asesjax.decode.score import score_examples
from asesjax.methods.ases.scoring import (
    ScoredRecord,
    Scorer,
    read_scores,
    score_records,
    segment_scored,
)
from asesjax.methods.method import METHODS, Method, ReportPart, fold_rows, make_method
from asesjax.run import Run, load_role, model_config, own_mesh, role_folder
from asesjax.segmentation.label import balance, f1_from_counts, lopsided, segmentation_f1
from asesjax.segmentation.records import write_segments
from asesjax.segmentation.score import SCORES
from asesjax.training.duration import best_step

_SPLITS = ("train", "validation")


class Labelling(NamedTuple):
    """The stages that score and label the pieces of a row, by the ends of their names."""

    of_scores: str = ""
    of_segments: str = ""

    @property
    def scores(self) -> str:
        """The folder of scores."""
        return f"scores{self.of_scores}"

    @property
    def segments(self) -> str:
        """The folder of labelled pieces."""
        return f"segments{self.of_segments}"

    @property
    def annotations(self) -> str:
        """The file of arrays: pieces [2 P] offsets, labels [P] places in ``LABELS``."""
        return f"{self.segments}/{{split}}.npz"


PLAIN = Labelling()


def labelling(row: str, config: Config) -> Labelling:
    """Return the labelling of a row; plain names without ``segment`` fields of its own."""
    own = {name for name in config.variants.get(row, {}) if name.startswith("segment.")}
    scores, labels = reads(config, "segment:score"), reads(config, "segment")
    return Labelling(
        f"-{fingerprint(scores)[:6]}" if own & set(scores) else "",
        f"-{config.segment.strategy}-{fingerprint(labels)[:6]}" if own else "",
    )


def labelled_rows(config: Config) -> list[Any]:
    """Return the rows of the results table that learn from segments."""
    rows = [make_method(name, config) for name in config.methods]
    return [row for row in rows if hasattr(row, "labelling")]


def segment_stages(run: Run, row: Any) -> list[Stage]:
    """Return the stages that cut, score and label for a row; a scorer is trained where the score of
    some row asks one.
    """
    config, at = row.config, row.labelling
    asks_scorer = SCORES.get(config.segment.strategy).needs_model
    name = config.segment.scorer
    sharing = [other.config.segment.strategy for other in (row, *labelled_rows(run.config))
               if other.labelling.scores == at.scores]  # fmt: skip
    rows = fold_rows(name, config.segment.folds)
    # A row that is trained anyway scores too, for the comparison with gold labels.
    has_scorer = rows[0] in run.config.methods or any(SCORES.get(s).needs_model for s in sharing)
    if has_scorer and name not in (*METHODS, *config.variants):
        raise unknown("segment.scorer", name, [*METHODS, *config.variants])
    # With the configuration of all rows, not the options of the row that learns from scores.
    scorers = [make_method(row, run.config) for row in rows] if has_scorer else []
    for scorer in scorers:
        if hasattr(scorer, "labelling"):
            raise UserError(
                f"segment.scorer is {name}, which itself learns from segments; set it to a method "
                "that does not, such as direct"
            )
        if scorer.fold and (
            scorer.train or scorer.needs or scorer.annotations or scorer.start_from
        ):
            raise UserError(
                f"segment.folds asks for a scorer that learns from the records alone, and "
                f"{name} needs more; set segment.scorer=direct, or segment.folds=0"
            )
    own = dataclasses.replace(run, config=config)
    return [
        Stage(f"score{at.of_scores}", lambda: score_pieces(own, scorers, at),
              reads(config, "segment:score") | {"evaluate.language": config.evaluate.language},
              ("data", *(f"train-{scorer.name}" for scorer in scorers)), outputs=(at.scores,),
              together=True),
        Stage(f"segment{at.of_segments}", lambda: segment_pieces(own, at),
              reads(config, "segment"), (f"score{at.of_scores}",), outputs=(at.segments,),
              without=() if asks_scorer else tuple(f"train-{row}" for row in rows)),
    ]  # fmt: skip


def score_pieces(run: Run, scorers: Sequence[Method] = (), at: Labelling = PLAIN) -> None:
    """Cut the chains of training and validation into pieces and score them by every score. Those
    that ask a model need trained ``scorers``: one, or one for each fold of the training records, of
    which the first scores validation.
    """
    config, vocab = run.config, load_saved(run / "vocab")
    train, held_out = (read_corpus(run.workdir, split, config.data.answer_template)
                       for split in _SPLITS)  # fmt: skip
    n, facts = max(len(scorers), 1), []
    rows: dict[str, list] = {"train": [None] * len(train)}
    for i in range(n):
        score = None
        if scorers:
            score, own = load_scorer(run, scorers[i], vocab)
            facts.append(own)
        with by_itself(own_mesh(run)):
            rows["train"][i::n] = score_records(train[i::n], config, vocab, score)
            if i == 0:
                rows["validation"] = score_records(held_out, config, vocab, score)
    if not is_first():
        return
    for split, scored in rows.items():
        write_jsonl(run / f"{at.scores}/{split}.jsonl", map(dataclasses.asdict, scored))
    write_json(run / f"{at.scores}/scorers.json", facts)


def load_scorer(run: Run, scorer: Method, vocab: Vocabulary) -> tuple[Scorer, dict[str, Any]]:
    """Load the checkpoint of a row that is the best by validation; return what scores with it, and
    its row, step and validation loss (absent without validation).
    """
    run, role = dataclasses.replace(run, config=scorer.config), scorer.roles[0]
    folder, train = role_folder(run, scorer.name, role), run.config.train
    result = read_json(folder / "result.json")
    evaluations = result["evaluations"]
    step = result["best_step"]
    if evaluations and not train.keep_best:
        step = best_step(evaluations, "validation_loss")
    params = load_role(run, scorer, role, step, decoding=True)
    model = model_config(run, vocab)
    facts = {"row": scorer.name, "step": step}
    for one in evaluations:
        if one["step"] == step:
            facts["validation_loss"] = one["validation_loss"]

    def score(examples: Sequence[Example]) -> list[tuple[np.ndarray, np.ndarray]]:
        source, needed = token_counts(examples).max(0).tolist()
        # Pieces are much shorter than the chains that the last bucket is for.
        longest = -(-needed // 16) * 16
        shorter = [length for length in train.target_buckets if length < longest]
        last = max(train.target_buckets, default=longest)
        targets = (*shorter, min(longest, last) if needed <= last else longest)
        # The scorer's own inputs may be the questions alone.
        sources = holding(train.source_buckets, source)
        return score_examples(model, params, examples, sources, targets, mesh=own_mesh(run))

    return score, facts


def segment_pieces(run: Run, at: Labelling = PLAIN) -> None:
    """Label the pieces by the chosen score, and compare every score with gold labels."""
    options = run.config.segment
    score = SCORES.get(options.strategy)
    summary: dict[str, Any] = {"strategy": options.strategy, "beta": options.beta or score.beta}
    for split in _SPLITS:
        scored = read_scores(run / f"{at.scores}/{split}.jsonl")
        records = read_records(run / f"data/{split}.jsonl")
        if [row.id for row in scored] != [record.id for record in records]:
            raise UserError(
                f"{run / at.scores}/{split}.jsonl is of other records than data/{split}.jsonl; run "
                "again with --redo"
            )
        rows = segment_scored(scored, options.strategy, options.beta)
        write_segments(run / f"{at.segments}/{split}.jsonl", rows, reads(run.config, "segment"))
        write_annotations(
            run / at.annotations.format(split=split), [row.id for row in rows],
            pieces=Ragged.of([np.ravel(row.pieces) for row in rows], np.int32),
            labels=Ragged.of([[LABELS.index(label) for label in row.labels] for row in rows],
                             np.int8),
        )  # fmt: skip
        if split == "train":
            labels = [row.labels for row in rows]
            summary |= balance(labels)
            run.say(f"  {options.strategy} at beta {summary['beta']:g}: {_shares(summary)}")
            if wrong := lopsided([row.scores or () for row in rows], labels, score.threshold):
                run.say(f"  WARNING: {wrong}")
            warn_of_turns(run, labels, at)
            gold = [record.gold for record in records]
            agreement = _agreement(scored, gold, options.beta) if all(gold) else {}
            summary["agreement"] = agreement
    write_json(run / f"{at.segments}/summary.json", summary)
    for name, own in agreement.items():
        chosen = " (chosen)" if name == options.strategy else ""
        run.say(
            f"  {name:9} F1 against gold: {own['macro_f1']:.3f} (ES {own['es_f1']:.3f}, AS "
            f"{own['as_f1']:.3f}), with beta 1: {own['macro_f1_at_beta_1']:.3f}{chosen}"
        )


def warn_of_turns(run: Run, labels: Sequence[Sequence[str]], at: Labelling) -> None:
    """Say where the roles of a row take turns and its segments do not."""
    in_turn = [row.name for row in labelled_rows(run.config)
               if row.labelling == at and len(row.roles) > 1]  # fmt: skip
    steps = [a == b for own in labels for a, b in zip(own, own[1:], strict=False)]
    if in_turn and any(steps) and not run.config.segment.merge_adjacent:
        run.say(
            f"  WARNING: the roles of {', '.join(in_turn)} take turns in decoding, and after "
            f"{np.mean(steps):.0%} of the segments follows one of the same label "
            "(segment.merge_adjacent=false)"
        )


def segment_report(run: Run) -> ReportPart:
    """Return what labelled what and how labels agree with gold ones, for all rows that learn from
    segments; the facts of the first labelling, and of each by the name of its folder.
    """
    found: dict[Labelling, list[str]] = {}
    for row in labelled_rows(run.config):
        found.setdefault(row.labelling, []).append(row.name)
    columns: dict[str, dict[str, Any]] = {}
    facts: dict[str, Any] = {}
    lines: list[str] = []
    for at, rows in found.items():
        own = read_json(run / f"{at.segments}/summary.json")
        own |= {"rows": rows, "scorers": read_json(run / f"{at.scores}/scorers.json", list)}
        facts[at.segments] = own
        line = f"Segments of {', '.join(rows)}: {own['strategy']}, beta {own['beta']:g}, "
        line += _shares(own)
        if SCORES.get(own["strategy"]).needs_model:
            line += "; scored by " + " and ".join(map(_scorer_text, own["scorers"]))
        lines.append(f"{line}.")
        if own["agreement"]:
            f1 = own["agreement"][own["strategy"]]["macro_f1"]
            columns |= {row: {"segm. F1": f1} for row in rows}
    by_scores = {at.scores: facts[at.segments]["agreement"] for at in found}
    for agreement in filter(None, by_scores.values()):
        f1 = ", ".join(f"{name} {own['macro_f1']:.3f} ({own['macro_f1_at_beta_1']:.3f})"
                       for name, own in agreement.items())  # fmt: skip
        lines.append(f"Segmentation F1 against gold labels (at beta 1): {f1}.")
    first = next(iter(facts.values()))
    return ReportPart("segmentation", columns, first | {"labellings": facts}, lines)


def _shares(summary: dict[str, Any]) -> str:
    share = summary["both_share"]
    both = "no rationale of several pieces"
    if share == share:  # not NaN
        both = f"{share:.0%} of the rationales with both labels"
    return (f"{summary['as_share']:.1%} of the pieces AS, {both}, "
            f"{summary['first_as_share']:.0%} begin with AS")  # fmt: skip


def _scorer_text(scorer: dict[str, Any]) -> str:
    loss = scorer.get("validation_loss")
    known = "" if loss is None else f" (validation loss {loss:.3f})"
    return f"{scorer['row']} at step {scorer['step']}{known}"


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
