"""Data sets of TFDS and tasks of seqio as the data of a run, from the command line."""

import functools
import io
import json
from collections import Counter

import pytest
import sentencepiece

seqio = pytest.importorskip("seqio")

from asesjax.cli.main import main  # noqa: E402
from asesjax.config import base_config  # noqa: E402
from asesjax.core.errors import UserError  # noqa: E402
from asesjax.data.corpus import read_corpus  # noqa: E402
from asesjax.data.sources import load_records, read_records  # noqa: E402
from asesjax.experiment import execute, open_run  # noqa: E402
from asesjax.tasks.load import examples_from_task  # noqa: E402
from asesjax.tasks.records import task_vocabulary  # noqa: E402

TASK = """
import seqio, tensorflow as tf

def rows(split, shuffle_files=False, seed=None):
    n = {"train": 40, "test": 100}[split]
    texts = {"inputs": [f"What is {i}+1?" for i in range(n)],
             "targets": [f"It is {i}+1={i+1}. The answer is {i+1}." for i in range(n)]}
    return tf.data.Dataset.from_tensor_slices(texts)

feature = seqio.Feature(seqio.ByteVocabulary())
for name, kept in (("my_texts", True), ("my_ids", False)):
    def drop(ds, kept=kept):
        return ds if kept else ds.map(lambda row: {key: row[key] for key in ("inputs", "targets")})
    seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add(
        name, seqio.FunctionDataSource(rows, ["train", "test"]),
        preprocessors=[seqio.preprocessors.tokenize, drop, seqio.preprocessors.append_eos],
        output_features={"inputs": feature, "targets": feature},
    )
def few(split, shuffle_files=False, seed=None):
    return rows(split).take(10).map(lambda row: row | {"inputs": "1" + row["inputs"]})

seqio.TaskRegistry.remove("my_few")
seqio.TaskRegistry.add(
    "my_few", seqio.FunctionDataSource(few, ["train", "test"]),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features={"inputs": feature, "targets": feature},
)
for name, rates in (("my_mix", {"my_texts": 1.0}), ("my_rates", {"my_texts": 3.0, "my_few": 1.0})):
    seqio.MixtureRegistry.remove(name)
    seqio.MixtureRegistry.add(name, list(rates.items()))
"""

BUILDER = """
import tensorflow_datasets as tfds

class MySums(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
            "problem": tfds.features.Text(), "even": tfds.features.ClassLabel(names=["no", "yes"]),
            "choices": tfds.features.Sequence(tfds.features.Text()),
        }))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(40), "extra": self._generate_examples(100)}

    def _generate_examples(self, n=0):
        for i in range(n):
            yield i, {"problem": f"Is {i} even?", "even": int(i % 2 == 0), "choices": ["a", "b"]}
"""


def settings_of(source, **changed):
    data = base_config().data
    data.update(source=source, n_train=0, n_validation=0, n_test=0, **changed)
    return data


def changed(data, fields):
    other = data.copy_and_resolve_references()
    other.update(fields)
    return other


def everything(data, rationales=True):
    return {split: load_records(data, split, 0, None, rationales)[0]
            for split in ("train", "validation", "test")}  # fmt: skip


@pytest.mark.parametrize("task", ["my_texts", "my_ids", "my_mix"])
def test_a_task_of_seqio(tmp_path, task):
    (tmp_path / "my_tasks.py").write_text(TASK)
    data = settings_of("seqio", module=str(tmp_path / "my_tasks.py"), task=task)
    found = everything(data)
    assert len(found["train"]) + len(found["validation"]) == 40 and len(found["test"]) == 100
    assert {(r.question, r.rationale, r.answer) for r in found["test"]} == {
        (f"What is {i}+1?", f"It is {i}+1={i + 1}. The answer is {i + 1}.", "") for i in range(100)
    }
    drawn = everything(changed(data, {"n_drawn": 200}))
    assert len(drawn["train"]) + len(drawn["validation"]) == 200
    assert drawn["test"] == found["test"]
    data.split = "test"
    assert sum(map(len, everything(data).values())) == 100
    with pytest.raises(UserError, match="unknown task or mixture 'my_txt'; did you mean"):
        everything(changed(data, {"task": "my_txt"}))
    with pytest.raises(UserError, match="data.task is empty"):
        everything(changed(data, {"task": ""}))


def test_a_data_set_of_tfds(tmp_path, monkeypatch):
    import tensorflow_datasets

    there = functools.partial(tensorflow_datasets.builder, data_dir=tmp_path / "tfds")
    monkeypatch.setattr(tensorflow_datasets, "builder", there)
    (tmp_path / "my_sums.py").write_text(BUILDER)
    fields = {"question_field": "problem", "answer_field": "even", "options_field": "choices"}
    data = settings_of("tfds", path="my_sums", module=str(tmp_path / "my_sums.py"), **fields)
    found = everything(data, False)
    assert sum(map(len, found.values())) == 40 and min(map(len, found.values()))
    assert {(r.question, r.answer) for own in found.values() for r in own} == {
        (f"Is {i} even?\n(A) a\n(B) b", "no" if i % 2 else "yes") for i in range(40)
    }
    for split, n in (("extra", 100), ("extra[:70]", 70)):
        assert sum(map(len, everything(changed(data, {"split": split}), False).values())) == n
    folder = next(path.parent for path in (tmp_path / "tfds").rglob("dataset_info.json"))
    again = everything(changed(data, {"path": str(folder), "module": ""}), False)
    assert again == found
    with pytest.raises(UserError, match="split tset of my_sums cannot be read"):
        everything(changed(data, {"split": "tset"}), False)
    with pytest.raises(UserError, match="data set no_such_sums cannot be read"):
        everything(changed(data, {"path": "no_such_sums"}), False)


def test_from_the_command_line(tmp_path):
    (tmp_path / "my_tasks.py").write_text(TASK)
    workdir = tmp_path / "run"
    fields = {"data.module": str(tmp_path / "my_tasks.py"), "data.task": "my_texts"}
    command = ["data", "--config", "finetune:seqio", "--workdir", str(workdir)]
    assert main([*command, *(f"--config.{name}={value}" for name, value in fields.items())]) == 0
    assert len(read_records(workdir / "data/test.jsonl")) == 100
    counts = json.loads((workdir / "data/counts.json").read_text())
    assert counts["skipped"] == {} and sum(counts["records"].values()) == 140


def test_with_the_vocabulary_of_the_task_a_run_learns_its_ids(tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(f"What is {i}+1? It is {i}. The answer is {i}={i}."
                               for i in range(100)),
        model_writer=model, vocab_size=60, hard_vocab_limit=False, character_coverage=1.0,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2, num_threads=1,
    )  # fmt: skip
    (tmp_path / "my.model").write_bytes(model.getvalue())
    own = f"SentencePieceVocabulary({str(tmp_path / 'my.model')!r}, 10)"
    tasks = TASK.replace("ByteVocabulary()", own)
    (tmp_path / "my_tasks.py").write_text(tasks)
    fields = {"data.module": str(tmp_path / "my_tasks.py"), "vocab.kind": "task"}

    def ours(task, **more):
        """Data of a run from one split; a task's examples all come into one of its three."""
        execute(open_run("finetune:seqio", tmp_path / task, fields | {"data.task": task} | more),
                ("data",))  # fmt: skip
        return Counter(((*one.question.ids.tolist(), 1), (*one.chain.ids.tolist(), 1))
                       for split in ("train", "validation", "test")
                       for one in read_corpus(tmp_path / task, split, "The answer is {answer}."))

    def theirs(task, n=0):
        return Counter((tuple(one.inputs.tolist()), tuple(one.targets.tolist()))
                       for one in examples_from_task(task, "train", n))  # fmt: skip

    for task in ("my_texts", "my_ids"):
        found = ours(task, **{"data.split": "train"})
        assert found == theirs(task) and len(found) == 40
    found = ours("my_rates", **{"data.split": "train", "data.n_drawn": 400})
    assert found == theirs("my_rates", 400)
    questions = [record.question for split in ("train", "validation", "test")
                 for record in read_records(tmp_path / f"my_rates/data/{split}.jsonl")]  # fmt: skip
    assert len(questions) == 400 and 80 <= sum(text[0] == "1" for text in questions) <= 120
    own = own.replace("10)", "10, reverse_extra_ids=False)")
    (tmp_path / "others.py").write_text(TASK.replace("ByteVocabulary()", own))
    with pytest.raises(UserError, match="an order of sentinels that T5 has not"):
        ours("my_mix", **{"data.module": str(tmp_path / "others.py")})
    with pytest.raises(UserError, match="vocab.kind=task .* data.task, which is empty"):
        task_vocabulary(settings_of("tfds"), 10)
    (tmp_path / "bytes.py").write_text(TASK)  # tasks without sentinels
    vocab = task_vocabulary(settings_of("", task="my_ids", module=str(tmp_path / "bytes.py")), 10)
    assert (vocab.kind, vocab.extra_ids) == ("byte", 10)
