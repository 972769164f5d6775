"""Rows with segment fields of their own: which stages they share, and what labels them."""

from pathlib import Path

import numpy as np
import pytest

from asesjax.cli.main import main
from asesjax.config import load_config
from asesjax.core.errors import UserError
from asesjax.core.files import read_json, read_jsonl
from asesjax.data.corpus import read_corpus
from asesjax.data.vocab import load_saved
from asesjax.experiment import make_stages, open_run
from asesjax.jobs.training import role_examples
from asesjax.methods.ases.scoring import score_records
from asesjax.methods.ases.stages import (
    PLAIN,
    load_scorer,
    segment_pieces,
    segment_report,
    warn_of_turns,
)
from asesjax.methods.method import make_method
from asesjax.run import Run, role_folder
from asesjax.segmentation.records import read_segments
from asesjax.training.checkpoint import read_cursor

pytestmark = pytest.mark.long

SMOKE = str(Path(__file__).resolve().parents[2] / "configs/smoke.py")
STRATEGIES = ("location", "entropy", "loss", "bleu", "rouge")


def table():
    """The fields of the paper's table: five scores, two paths, one workdir."""
    fields = {}
    for strategy in STRATEGIES:
        for path in ("usm", "dsm"):
            fields[f"variants.{path}_{strategy}.method"] = path
            fields[f"variants.{path}_{strategy}.segment.strategy"] = strategy
    names = [f"{path}_{strategy}" for strategy in STRATEGIES for path in ("usm", "dsm")]
    return fields | {"methods": ",".join(["direct", *names])}


def stages(tmp_path, fields):
    return {stage.name: stage for stage in make_stages(Run(load_config(SMOKE, fields), tmp_path))}


def test_the_table_of_scores_has_one_score_stage_and_a_labelling_for_each_score(tmp_path):
    found = stages(tmp_path, table())
    assert [name for name in found if name.startswith("score")] == ["score"]
    labellings = [name for name in found if name.startswith("segment")]
    assert len(labellings) == len({found[name].outputs for name in labellings}) == 5
    for strategy in STRATEGIES:
        (own,) = (name for name in labellings if name.startswith(f"segment-{strategy}-"))
        assert found[own].reads["segment.strategy"] == strategy
        assert found[own].needs == ("score",)
        for path in ("usm", "dsm"):
            assert own in found[f"train-{path}_{strategy}"].needs


def test_rows_without_fields_of_their_own_have_the_plain_names(tmp_path):
    fields = {"methods": "usm,other", "variants.other.method": "usm",
              "variants.other.train.learning_rate": "0.01"}  # fmt: skip
    assert {"score", "segment"} <= stages(tmp_path, fields).keys()
    assert not [name for name in stages(tmp_path, fields) if name.startswith("segment-")]


def test_a_score_without_a_model_trains_no_scorer_unless_another_row_asks_one(tmp_path):
    fields = {"methods": "usm,other", "variants.other.method": "usm",
              "variants.usm.segment.strategy": "location"}  # fmt: skip
    found = stages(tmp_path, fields | {"variants.other.segment.strategy": "bleu"})
    assert found["score"].needs == ("data",) and "train-direct" not in found
    found = stages(tmp_path, fields | {"variants.other.segment.strategy": "loss"})
    assert found["score"].needs == ("data", "train-direct")


def test_a_row_that_learns_from_segments_scores_for_none(tmp_path):
    fields = {"methods": "usm,other", "variants.other.method": "usm",
              "variants.other.segment.scorer": "usm"}  # fmt: skip
    with pytest.raises(UserError, match="segment.scorer is usm, which itself learns"):
        stages(tmp_path, fields)


def test_turns_of_roles_that_the_labels_do_not_take_are_said(tmp_path):
    labels = [["ES", "ES", "AS"], ["ES", "AS"]]
    for methods, merged, share in (("dsm", "false", 33), ("usm", "false", 0), ("dsm", "true", 0)):
        config = load_config(SMOKE, {"methods": methods, "segment.merge_adjacent": merged})
        said = []
        warn_of_turns(Run(config, tmp_path, said.append), labels, PLAIN)
        assert bool(said) == bool(share)
        assert not said or f"the roles of dsm take turns in decoding, and after {share}%" in said[0]


@pytest.fixture(scope="module")
def segmented(tmp_path_factory):
    """Rows by four labellings, with scorers trained and nothing else."""
    workdir = tmp_path_factory.mktemp("labellings") / "run"
    fields = {
        "methods": "direct,usm,usm_location,dsm_location,usm_other,usm_bleu,usm_folds",
        "variants.usm_folds.method": "usm", "variants.usm_folds.segment.folds": "3",
        "variants.usm_location.method": "usm", "variants.usm_location.segment.strategy": "location",
        "variants.dsm_location.method": "dsm", "variants.dsm_location.segment.strategy": "location",
        "variants.usm_bleu.method": "usm", "variants.usm_bleu.segment.strategy": "bleu",
        "variants.usm_bleu.segment.beta": "1.4",
        "variants.usm_other.method": "usm", "variants.usm_other.segment.scorer": "slow",
        "variants.slow.method": "direct", "variants.slow.train.learning_rate": "0.001",
    }  # fmt: skip
    command = ["segment", "--config", SMOKE, "--workdir", str(workdir)]
    assert main([*command, *(f"--config.{name}={value}" for name, value in fields.items())]) == 0
    return open_run(None, workdir)


def test_each_row_learns_from_its_own_labels(segmented):
    by_row = {}
    for name in ("usm", "usm_location", "dsm_location", "usm_other"):
        row = make_method(name, segmented.config)
        by_row[name] = read_segments(segmented / f"{row.labelling.segments}/train.jsonl")[1]
        n_examples = sum(map(len, role_examples(segmented, row, "train").values()))
        ends = [1 + sum(a != b for a, b in zip(one.labels, one.labels[1:], strict=False))
                for one in by_row[name]]  # fmt: skip
        assert n_examples == sum(ends)
    assert by_row["usm_location"] == by_row["dsm_location"]
    for one in by_row["usm_location"]:
        assert one.labels == tuple(("ES", "AS")[i % 2] for i in range(len(one.pieces)))
    assert by_row["usm"] != by_row["usm_other"]  # another scorer
    assert {one.strategy for one in by_row["usm"]} == {"entropy"}


def test_folds_score_nothing_that_they_saw(segmented):
    row = make_method("usm_folds", segmented.config)
    vocab = load_saved(segmented / "vocab")
    records = {split: read_corpus(segmented.workdir, split, segmented.config.data.answer_template)
               for split in ("train", "validation")}  # fmt: skip
    scored = {split: {one["id"]: one["scores"]["loss"] for _, one in
                      read_jsonl(segmented / f"{row.labelling.scores}/{split}.jsonl")}
              for split in records}  # fmt: skip
    assert list(scored["train"]) == [one.record.id for one in records["train"]]
    folds = [make_method(f"direct-fold{i}of3", segmented.config) for i in range(3)]
    unseen: list[str] = []
    for i, fold in enumerate(folds):
        seen = {one.id for one in role_examples(segmented, fold, "train")["main"]}
        own = [one for one in records["train"] if one.record.id not in seen]
        unseen += [one.record.id for one in own]
        assert len(seen) + len(own) == len(records["train"])
        assert read_json(role_folder(segmented, fold.name, "main") / "result.json")["examples"] \
            == len(seen)  # fmt: skip
        own += records["validation"] if i == 0 else []
        score, facts = load_scorer(segmented, fold, vocab)
        assert facts["row"] == fold.name
        again = score_records(own, row.config, vocab, score)
        everything = scored["train"] | scored["validation"]
        for one in again:
            np.testing.assert_allclose(everything[one.id], one.scores["loss"], rtol=1e-4)
    assert sorted(unseen) == sorted(scored["train"])
    scorers = segment_report(segmented).facts["labellings"][row.labelling.segments]["scorers"]
    assert [one["row"] for one in scorers] == [fold.name for fold in folds]


def test_a_fold_of_a_scorer_that_needs_more_is_refused(tmp_path):
    fields = {"methods": "usm", "segment.scorer": "kpod", "segment.folds": "2",
              "train.normalize": "examples"}  # fmt: skip
    with pytest.raises(UserError, match="segment.folds asks for a scorer that learns from the rec"):
        stages(tmp_path, fields)


def test_the_report_says_what_labelled_what(segmented):
    part = segment_report(segmented)
    at = {name: make_method(name, segmented.config).labelling.segments for name in
          ("usm", "usm_location", "usm_bleu", "usm_other")}  # fmt: skip
    own = part.facts["labellings"]
    assert own[at["usm_location"]]["rows"] == ["usm_location", "dsm_location"]
    assert own[at["usm_location"]]["agreement"]["location"]["macro_f1"] == 1.0
    assert part.columns["dsm_location"] == {"segm. F1": 1.0}
    assert (own[at["usm_bleu"]]["as_share"], own[at["usm_bleu"]]["both_share"]) == (0.0, 0.0)
    assert at["usm"] == "segments" and part.facts["beta"] == 1.0
    for name, scorer in (("usm", "direct"), ("usm_other", "slow")):
        (facts,) = own[at[name]]["scorers"]
        # The best by validation loss of those kept.
        evaluated = read_cursor(role_folder(segmented, scorer, "main"))["evaluations"]
        best = min(evaluated, key=lambda row: row["validation_loss"])
        assert facts == {"row": scorer, "step": best["step"],
                         "validation_loss": best["validation_loss"]}  # fmt: skip
    text = "\n".join(part.lines)
    assert "Segments of usm_location, dsm_location: location" in text
    assert "scored by slow at step" in text and "0.0% of the pieces AS" in text


def test_a_lopsided_labelling_is_said_where_it_is_made(segmented, capsys):
    row = make_method("usm_bleu", segmented.config)
    summary = read_json(segmented / f"{row.labelling.segments}/summary.json")
    assert summary["beta"] == 1.4
    segment_pieces(Run(row.config, segmented.workdir), row.labelling)
    assert "WARNING: 0.0% of all pieces are AS" in capsys.readouterr().out
