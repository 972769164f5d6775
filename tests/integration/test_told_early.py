"""What is known at the start is told at the start: before any training, and before any work."""

import dataclasses
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from asesjax.aot.programs import train_program
from asesjax.aot.topology import CPU, Slice
from asesjax.cli.main import main
from asesjax.config import load_config
from asesjax.core.errors import UserError
from asesjax.core.stages import run_stages
from asesjax.core.types import Example
from asesjax.data.corpus import read_corpus
from asesjax.data.vocab import load_saved
from asesjax.evals.runner import decode_spec
from asesjax.experiment import all_rows, check_run, execute, make_stages
from asesjax.jobs import memory
from asesjax.jobs.lengths import check_rows
from asesjax.jobs.training import role_examples
from asesjax.methods.method import make_method
from asesjax.models import t5
from asesjax.models.presets import configured
from asesjax.run import Run, role_folder, student_run, with_lengths
from asesjax.training.checkpoint_files import steps

CONFIG = """
from asesjax.config import base_config

def get_config(arg=""):
    c = base_config()
    c.methods = ("direct", "usm")
    c.data.n_train, c.data.n_validation, c.data.n_test = 20, 5, 5
    c.train.tokens, c.train.steps, c.train.batch_size = 0, 2, 8
    c.model.d_model, c.model.d_ff, c.model.n_heads, c.model.d_kv = 8, 16, 2, 4
    c.model.n_encoder_layers = c.model.n_decoder_layers = 1
    return c
"""
LATE = "methods=direct,late"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def make(tmp_path):
    (tmp_path / "c.py").write_text(CONFIG)

    def make(*fields, said=None):
        config = load_config(str(tmp_path / "c.py"), dict(field.split("=", 1) for field in fields))
        return Run(config, tmp_path / "run", (lambda line: None) if said is None else said.append)

    return make


def late(method, *fields):
    return [LATE, f"variants.late.method={method}", *(f"variants.late.{own}" for own in fields)]


@pytest.mark.parametrize(
    "fields, told",
    [
        (["vocab.extra_ids=0"], "0 sentinels, no <extra_id_0>; set vocab.extra_ids"),
        (["methods=direct,cwt", "chunk.mark_from=95"], "sentinels 95 to"),
        (["model.vocab_rows=100"], "model.vocab_rows is 100, fewer than the"),
        (late("direct", "train.source_buckets=(8,)"), r"train.source_buckets \(8,\)"),
        # A scorer labels: the longest that can come of it is told.
        (late("usm", "train.source_buckets=(64,)"), "row late: example .* source .*may come to"),
        (late("usm", "train.packed_length=16"), "row late: .* rows of train.packed_length 16"),
        # These labels are known.
        (late("usm", "segment.strategy=location", "train.source_buckets=(64,)"),
         "row late: example [^;]*; add a bucket of at least [0-9]* to train.source_buckets$"),
        (late("kpod", "train.normalize=examples", "train.target_buckets=(16,)"), "row late: .*16"),
        (late("usm", "segment.strategy=location", "ases.token_weights=kpod",
              "train.target_buckets=(24,)"), "row late: example .* target tokens"),
        (["methods=in_context", "in_context.shots=20"], "in_context.shots is 20, but .* only 19"),
        # Rows that are trained for others.
        (["methods=usm", "variants.direct.train.target_buckets=(8,)"], "row direct: example"),
        (["methods=skip_thinking", "variants.cwt.train.target_buckets=(8,)"], "row cwt: example"),
        (late("direct", "decode.prefix=§"), "row late: decode.prefix: the vocabulary cannot"),
        (late("direct", "decode.question_buckets=(8,)"), "row late: record .*question_buckets"),
        (late("direct", "train.batch_size=6"), "row late: train.batch_size 6 .* multiple of 8"),
    ],
)  # fmt: skip
def test_what_a_row_lacks_is_told_before_any_row_is_trained(make, fields, told):
    run = make(*fields)
    with pytest.raises(UserError, match=told):
        execute(run)
    assert not (run / "roles").exists()
    execute(make("data.n_train=25"), ("data",))  # the corrected command needs no redo


# What needs each optional package.
NEEDED = {
    "sacrebleu": ("the report", ""), "matplotlib": ("the report", ""), "jinja2": ("the report", ""),
    "math-verify": ("evaluate.metric=math", "evaluate.metric=math"),
    "wandb": ("log.trackers: wandb", "log.trackers=wandb"),
    "pyarrow": ("reading x.parquet", "data.source=file,data.path=x.parquet"),
    "fsspec": ("memory://x/y cannot be opened", "data.source=file,data.path=memory://x/y"),
    "gcsfs": ("gs://x/y cannot be opened", "data.source=file,data.path=gs://x/y"),
    "s3fs": ("s3://x/y cannot be opened", "data.source=file,data.path=s3://x/y"),
    "seqio": ("seqio and TensorFlow", "data.source=seqio,data.task=x"),
    "tensorflow-datasets": ("seqio and TensorFlow", "data.source=tfds,data.path=x"),
    "huggingface_hub": ("from the hub", "data.source=huggingface,data.path=a/b"),
}


@pytest.mark.parametrize("package", NEEDED)
def test_a_missing_package_is_asked_for_before_any_training(make, monkeypatch, tmp_path, package):
    what, fields = NEEDED[package]
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)  # cannot be imported
    for module in [name for name in sys.modules if name.startswith("asesjax.tasks")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.parquet").touch()
    for start in (execute, check_run):
        with pytest.raises(UserError, match=f"{what}.*pip install"):
            start(make(*filter(None, fields.split(","))))
    assert not (make() / "roles").exists()


def test_a_selection_by_bleu_needs_its_package_without_a_report(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(UserError, match="train.keep_best=bleu needs sacrebleu.*pip install"):
        execute(make("train.keep_best=bleu"), ("train-direct",))


def test_every_optional_package_that_a_run_imports_is_asked_for():
    text = (ROOT / "setup.py").read_text()
    extras = text[text.index("EXTRAS = {"):text.index('"tpu":')]
    named = {re.match(r"[\w-]+", one)[0] for one in re.findall(r'"([\w-]+[>=][^"]*)"', extras)}
    # seqio brings these; transformers reads what was exported, outside of runs.
    assert named - {"tensorflow", "tensorflow-text", "transformers"} <= NEEDED.keys()


def test_a_check_says_what_is_chosen_and_keeps_nothing(make, capsys, tmp_path):
    make()
    command = ["run", "--config", str(tmp_path / "c.py"), "--workdir", str(tmp_path / "run"),
               "--check"]  # fmt: skip
    student = ["--config.pretrain.method=direct", "--config.pretrain.train.steps=3",
               "--config.pretrain.train.tokens=0"]  # fmt: skip
    assert main([*command, *student]) == 0
    out = capsys.readouterr().out
    for told in ("direct/main: 20 examples; longest source", "2 steps", "as training labels them",
                 "usm decodes questions of at most", "optimizer and gradients",
                 "data of the student", "nothing was trained"):  # fmt: skip
        assert told in out
    assert not (tmp_path / "run").exists()
    assert main([*command, *student, "--config.train.source_buckets=(8,)"]) == 2
    assert "row direct: example" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main([*command[:4], str(tmp_path / "file/run"), "--check"]) == 2
    assert f"file/run: {tmp_path}/file is a file; give a folder" in capsys.readouterr().err
    assert main([*command[:4], "/proc/run", "--check"]) == 2
    assert "cannot write to workdir /proc/run: " in capsys.readouterr().err
    # Results of another configuration would be refused.
    execute(make(), ("data",))
    assert main([*command, "--config.data.n_train=21"]) == 2
    assert "stage data: data.n_train: 20 -> 21" in capsys.readouterr().err


def test_what_cannot_fit_a_device_is_refused_with_the_parts_that_would(make, monkeypatch):
    said = []
    check_run(make("methods=direct", "train.batch_size=64", said=said))
    (whole,) = [float(found[1]) for line in said
                if (found := re.search("takes about ([0-9.]+) MiB of", line))]  # fmt: skip
    limits = {1.2: None, 1 / 1.2: "microbatches=2 computes", 1 / 1.7: "microbatches=2 computes",
              1 / 400: "smaller model"}  # fmt: skip
    for share, advice in limits.items():
        monkeypatch.setattr(memory, "device_memory", lambda share=share: share * whole * 2**20)
        said.clear()
        told = said
        if share < 1 / memory._SURE:
            with pytest.raises(UserError, match="row direct: training takes.*it does not fit") as e:
                execute(make("methods=direct", "train.batch_size=64"))
            told = [str(e.value)]
        else:
            check_run(make("methods=direct", "train.batch_size=64", said=said))
        assert ("fit: " in " ".join(told)) is bool(advice) and (advice or "") in " ".join(told)


def test_a_step_is_computed_in_the_parts_that_fit(make, monkeypatch):
    monkeypatch.setattr(memory, "device_memory", lambda: 2**40)
    said = []
    few = ["methods=direct", "train.batch_size=64", "train.microbatches=0"]
    check_run(make(*few, said=said))
    assert "parts" not in " ".join(said)
    (whole,) = [float(found[1]) for line in said
                if (found := re.search("takes about ([0-9.]+) MiB of", line))]  # fmt: skip
    monkeypatch.setattr(memory, "device_memory", lambda: whole * 2**20 / 1.2)
    said.clear()
    run = make(*few, said=said)
    execute(run, ("train-direct",))
    assert "a step is computed in 2 parts" in " ".join(said)
    (row,) = make_method("direct", run.config).roles
    monkeypatch.setattr(memory, "device_memory", lambda: 1)  # chosen once
    assert with_lengths(run, make_method("direct", run.config)).config.train.microbatches == 2
    assert steps(role_folder(run, "direct", row) / "checkpoints")


def test_memory_told_is_near_what_the_compiler_takes(make):
    config = make("train.source_buckets=(96,)", "train.target_buckets=(64,)", "model.dropout=0.1",
                  "train.batch_size=32").config  # fmt: skip
    program = train_program(config, Slice("cpu:1", CPU, tuple(jax.devices()[:1])), 256)
    found = program.lower().compile().memory_analysis()
    taken = found.argument_size_in_bytes + found.temp_size_in_bytes
    model = configured(config.model, 256)
    params = jax.eval_shape(lambda key: t5.init(model, key), jax.random.key(0))
    batch = memory.batch_shapes(32, 96, 64, False)
    kept = memory._kept(model, config.train, params, batch)
    assert 0.9 < (kept + program.state + program.weights) / taken < memory._SURE


def test_no_student_is_trained_for_rows_that_would_be_refused(make):
    run = make("pretrain.method=direct", "pretrain.train.steps=3", "pretrain.train.tokens=0",
               "train.target_buckets=(8,)")  # fmt: skip
    with pytest.raises(UserError, match="row direct: example"):
        execute(run)
    student = student_run(run)
    assert (student / "vocab").exists() and not (student / "roles").exists()


def test_bounds_of_decoding_hold_the_longest_of_the_data_and_more(make):
    said = []
    run = make("methods=answer_only,plain,usm,dsm,socratic,in_context", "in_context.shots=2",
               "segment.strategy=location", "variants.plain.method=direct",
               "variants.plain.decode.max_chain_tokens=33", said=said)  # fmt: skip
    execute(run, ("data",))
    vocab, rows = load_saved(run / "vocab"), {row.name: row for row in all_rows(run)}
    check_rows(run, list(rows.values()))
    own = {name: with_lengths(run, row).config.decode for name, row in rows.items()}
    records = [one for split in ("train", "validation", "test")
               for one in read_corpus(run.workdir, split, "The answer is {answer}.")]  # fmt: skip
    question = max(len(one.question.ids) for one in records)
    chain = max(len(one.chain.ids) for one in records[:25]) + 1
    answer = len(vocab.encode("The answer is 10.")) + 1
    assert all(1.5 * question <= max(d.question_buckets) < 1.5 * question + 8
               for d in own.values())  # fmt: skip
    assert 1.5 * answer <= own["answer_only"].max_chain_tokens < 3 * answer
    assert own["plain"].max_chain_tokens == 33
    n = sum(len(one.chain.ids) > 33 for one in records[25:])
    assert f"chains of at most 33; {n} of the 5 test chains are longer" in "".join(said) and n
    for name in ("usm", "dsm"):
        assert 1.5 * chain <= own[name].max_chain_tokens < 1.5 * chain + 8
        assert own[name].max_segment_tokens < own[name].max_chain_tokens
    assert own["socratic"].max_chain_tokens > own["usm"].max_chain_tokens
    # Each is enough for every example that decoding has to write.
    execute(run, ("segment",))
    for name in ("usm", "dsm", "socratic"):
        row = rows[name]
        limits = decode_spec(with_lengths(run, row), vocab)[1]
        roles = role_examples(dataclasses.replace(run, config=row.config), row, "train")
        longest = max(len(one.targets) for examples in roles.values() for one in examples)
        assert longest < limits.max_segment_tokens
        per_record = sum(map(len, roles.values())) / 20
        assert per_record < limits.max_rounds
    assert any("usm decodes questions of at most" in line for line in said)


@pytest.mark.parametrize("name", [
    "data", "train-direct", "score", "segment", "train-usm", "decode-usm", "in_context",
    "train-kpod-weights", "kpod-weights", "kpod-difficulty", "schedule-kpod", "skip-data", "report",
])  # fmt: skip
def test_a_stage_that_failed_leaves_nothing_that_asks_for_redo(make, name):
    run = make("methods=direct,usm,in_context,kpod,cwt,skip_thinking", "train.normalize=examples")

    def stage(rate, work):
        found = next(one for one in make_stages(run) if one.name == name)
        return dataclasses.replace(found, run=work, reads=dict(found.reads) | {"x": rate}, needs=())

    def fails():
        for output in found.outputs:
            (run / output).mkdir(parents=True)
            np.save(run / output / "half.npy", np.zeros(2))
        raise UserError("wrong")

    found = stage(1, print)
    with pytest.raises(UserError, match="wrong"):
        run_stages([stage(1, fails)], run.workdir)
    ran = []
    run_stages([stage(2, lambda: ran.append(name))], run.workdir)
    assert ran == [name] and not any((run / output).exists() for output in found.outputs)


@pytest.mark.parametrize(
    "roles, n_weights, told",
    [(["mian"], 3, "nothing in the training rationales is for role main"),
     (["main", "mian"], 3, "makes examples for role mian, and its roles are main"),
     (["main"], 2, "example e has 2 weights for 3 targets")],
)  # fmt: skip
def test_examples_of_a_plug_in_are_checked(make, monkeypatch, roles, n_weights, told):
    run = make("methods=direct")
    ids = np.array([2, 3, 1], np.int32)
    make_one = lambda: Example("e", ids, ids, np.ones(n_weights, np.float32))  # noqa: E731
    monkeypatch.setattr(type(make_method("direct", run.config)), "examples",
                        lambda self, record, vocab: {role: [make_one()] for role in roles})
    with pytest.raises(UserError, match=told):
        execute(run, ("train-direct",))
