"""A pretrained student: made once, the start of every row, kept for other budgets and seeds."""

import numpy as np
import pytest

from asesjax.config import base_config, finish
from asesjax.core.errors import UserError
from asesjax.core.files import read_json, read_jsonl
from asesjax.data.vocab import ByteVocabulary
from asesjax.decode.spec import DecodePlan
from asesjax.experiment import execute, make_stages
from asesjax.methods.method import make_method
from asesjax.run import Run, load_role, student_run
from asesjax.seeds import execute_seeds
from asesjax.training.checkpoint_files import steps

pytestmark = pytest.mark.long


def config(**fields):
    c = base_config()
    c.methods = ("start", "direct", "direct_4")
    c.variants.direct_4 = {"method": "direct", "train": {"records": 4}}
    c.model.d_model, c.model.d_ff, c.model.n_heads, c.model.d_kv = 8, 16, 2, 4
    c.model.n_encoder_layers = c.model.n_decoder_layers = 1
    c.data.n_train, c.data.n_validation, c.data.n_test = 12, 4, 4
    c.data.max_steps, c.decode.curve_questions = 2, 0
    c.train.tokens, c.train.epochs, c.train.batch_size = 0, 2.0, 8
    c.train.source_buckets, c.train.target_buckets = (96,), (64,)
    c.pretrain.method = "direct"
    c.pretrain.data = {"min_steps": 1, "max_steps": 1, "n_train": 40}
    c.pretrain.train = {"tokens": 0, "steps": 3, "batch_size": 8, "source_buckets": (96,),
                        "target_buckets": (64,)}  # fmt: skip
    return finish(c, fields)


def weights(run, row):
    params = load_role(run, make_method(row, run.config), "main")
    return np.asarray(params["token_embedder"]["embedding"])


def test_every_row_starts_from_one_student(tmp_path):
    said = []
    run = Run(config(), tmp_path / "run", said.append)
    execute(run)
    student = student_run(run)
    # Its own data, and the run's vocabulary.
    problems = [row for _, row in read_jsonl(student / "data/train.jsonl")]
    assert len(problems) == 40 and all(row["rationale"].count("=") == 1 for row in problems)
    pieces = [(one / "vocab/spiece.model").read_bytes() for one in (student, run)]
    assert pieces[0] == pieces[1]
    # "start" is the student to the bit, and the others went on from it.
    assert (weights(run, "start") == weights(student, "direct")).all()
    assert 0 < abs(weights(run, "direct") - weights(student, "direct")).max() < 0.5
    result = {row: read_json(run / f"roles/{row}/main/result.json") for row in run.config.methods}
    assert [result[row]["examples"] for row in run.config.methods] == [0, 12, 4]
    assert [result[row]["steps"] for row in run.config.methods] == [0, 3, 1]
    report = read_json(run / "report.json")
    assert [row["train_tokens"] > 0 for row in report["rows"]] == [False, True, True]
    assert [row["train_passes"] for row in report["rows"]] == [0, 2, 2]
    assert report["student"]["folder"] == student.workdir.name and report["student"]["seed"] == 0
    assert "Rows start from a student, direct on problems" in (run / "report.md").read_text()
    trained = read_json(student / "roles/direct/main/result.json")
    part = {"name": "pretraining", "tokens": trained["tokens"], "seconds": trained["seconds"]}
    assert [row["before"] for row in report["rows"]] == [[part]] * 3 and part["tokens"] > 0

    # Another budget and another seed find it; what makes it makes another.
    made = (student / "stages/train-direct.json").read_bytes()
    longer = Run(config(**{"train.epochs": "3.0", "pretrain.seed": "0", "seed": "1"}),
                 tmp_path / "run", said.append)  # fmt: skip
    assert student_run(longer).workdir == student.workdir
    # So does a run of another name that decodes otherwise.
    renamed = {"name": "other", "decode.max_rounds": "3", "pretrain.seed": "0"}
    execute(student_run(Run(config(**renamed), tmp_path / "run", said.append)))
    other = Run(config(**{"pretrain.train.steps": "4"}), tmp_path / "run", said.append)
    assert student_run(other).workdir != student.workdir
    with pytest.raises(UserError, match="stage data: pretrain: 'direct-"):
        execute(other)
    assert (student / "stages/train-direct.json").read_bytes() == made


def test_seeds_share_a_student_of_one_seed(tmp_path):
    c = config(**{"seeds": "0,1", "pretrain.seed": "5", "methods": "start",
                  "students": str(tmp_path / "kept")})  # fmt: skip
    execute_seeds(Run(c, tmp_path / "run", lambda line: None))
    assert len(list((tmp_path / "kept").iterdir())) == 1
    own = [tmp_path / f"run/seed-{seed}/roles/start/main/checkpoints" for seed in (0, 1)]
    assert [steps(folder) for folder in own] == [[0], [0]]


def test_a_checkpoint_takes_the_students_place(tmp_path):
    run = Run(config(**{"pretrain.method": "answer_only"}), tmp_path / "run", print)
    assert student_run(run).workdir.name.startswith("answer_only-")
    c = run.config.changed({"model.init_from": "somewhere"})
    assert student_run(Run(c, tmp_path, print)) is None


def test_the_student_writes_as_its_method_does():
    vocab = ByteVocabulary(extra_ids=8)
    for kind, turns in (("direct", 1), ("usm", 0)):
        c = config(**{"pretrain.method": kind})
        assert make_method("start", c).decode_plan(vocab).n_turns == turns
    c = c.changed({"model.init_from": "somewhere"})
    assert make_method("start", c).decode_plan(vocab) == DecodePlan()


@pytest.mark.parametrize("name", ["model.d_model", "vocab.size", "d_model"])
def test_fields_that_a_student_cannot_have_are_refused(name):
    with pytest.raises(UserError, match=f"pretrain.{name}: the student has the run's model"):
        config(**{f"pretrain.{name}": "5"})


@pytest.mark.parametrize("method", ["kpod", "in_context"])
def test_rows_that_look_at_all_records_take_no_part_of_them(tmp_path, method):
    fields = {"methods": method, "train.records": "4", "train.normalize": "examples"}
    with pytest.raises(UserError, match="come from all training records.*data.n_train"):
        make_stages(Run(config(**fields), tmp_path))


def test_a_stage_that_is_none_is_named(tmp_path):
    with pytest.raises(UserError, match="unknown stage 'train-usm'.*Valid: data, "):
        execute(Run(config(), tmp_path), ("train-usm",))
