"""Foreign tasks and mixtures as examples."""

import numpy as np
import pytest

seqio = pytest.importorskip("seqio")

import tensorflow as tf  # noqa: E402

from asesjax.config import load_plugin  # noqa: E402
from asesjax.core.errors import UserError  # noqa: E402
from asesjax.tasks.load import examples_from_task  # noqa: E402

MODULE = """
import functools, seqio, tensorflow as tf

def rows(split, shuffle_files=False, seed=None, word="cat"):
    texts = [f"{word} {i}" for i in range(20)]
    return tf.data.Dataset.from_tensor_slices({"inputs": texts, "targets": texts[::-1]})

feature = seqio.Feature(seqio.ByteVocabulary())
for word in ("cat", "dog"):
    seqio.TaskRegistry.remove("foreign_" + word)
    seqio.TaskRegistry.add(
        "foreign_" + word, seqio.FunctionDataSource(functools.partial(rows, word=word), ["train"]),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features={"inputs": feature, "targets": feature},
    )
seqio.MixtureRegistry.remove("foreign_mix")
seqio.MixtureRegistry.add("foreign_mix", [("foreign_cat", 3.0), ("foreign_dog", 1.0)])
"""


@pytest.fixture(scope="module", autouse=True)
def registered(tmp_path_factory):
    path = tmp_path_factory.mktemp("module") / "foreign.py"
    path.write_text(MODULE)
    load_plugin(str(path))


def text(ids):
    assert ids[-1] == 1
    return seqio.ByteVocabulary().decode(ids[:-1].tolist())


def test_examples_of_a_task_keep_its_order():
    found = examples_from_task("foreign_cat", "train")
    assert [text(e.inputs) for e in found] == [f"cat {i}" for i in range(20)]
    assert [text(e.targets) for e in found] == [f"cat {i}" for i in range(20)][::-1]
    assert all((e.weights == 1).all() and e.weights.dtype == np.float32 for e in found)
    assert found[3].id == "foreign_cat/train/3" and found[3].inputs.dtype == np.int32


def test_a_mixture_is_read_whole_or_by_rates():
    whole = [text(e.inputs) for e in examples_from_task("foreign_mix", "train")]
    assert sorted(whole) == sorted(f"{word} {i}" for word in ("cat", "dog") for i in range(20))
    drawn = examples_from_task("foreign_mix", "train", n_examples=400, seed=1)
    n_cats = sum(text(e.inputs).startswith("cat") for e in drawn)
    assert len(drawn) == 400 and 265 < n_cats < 335  # 300 expected, 4 standard deviations
    again = examples_from_task("foreign_mix", "train", n_examples=400, seed=1)
    assert [e.inputs.tolist() for e in drawn] == [e.inputs.tolist() for e in again]


def add(name, row, dtype=tf.int32, **features):
    source = seqio.FunctionDataSource(
        lambda split, shuffle_files=False, seed=None: tf.data.Dataset.from_tensors(row), ["train"]
    )
    vocab = seqio.PassThroughVocabulary(9)
    known = {key: seqio.Feature(vocab, dtype=value.dtype) for key, value in row.items()}
    seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add(name, source, preprocessors=[], output_features=known | features)


def test_weights_of_a_foreign_task():
    row = {
        "inputs": tf.constant([3], tf.int64), "targets": tf.constant([4, 5]),
        "targets_weights": tf.constant([0.25, 0.0]),
    }  # fmt: skip
    add("weighted", row)
    [found] = examples_from_task("weighted", "train")
    assert found.weights.tolist() == [0.25, 0.0] and found.inputs.dtype == np.int32


def test_errors_say_what_to_change(tmp_path):
    with pytest.raises(UserError, match="unknown task or mixture 'foreign_cta'; did you mean 'for"):
        examples_from_task("foreign_cta", "train")
    with pytest.raises(UserError, match="unknown split of foreign_cat: 'test'.*Valid: train"):
        examples_from_task("foreign_cat", "test")
    add("targets_only", {"targets": tf.constant([4])})
    with pytest.raises(UserError, match=r"1-D feature 'inputs'.*it has targets \(int32, rank 1\)"):
        examples_from_task("targets_only", "train")
    add("padded", {"inputs": tf.constant([4, 0]), "targets": tf.constant([4])})
    with pytest.raises(UserError, match="padded/train/0: .* the id 0, which is padding"):
        examples_from_task("padded", "train")
    add("negative", {"inputs": tf.constant([4]), "targets": tf.constant([4]),
                     "targets_weights": tf.constant([-1.0])})  # fmt: skip
    with pytest.raises(UserError, match="negative/train/0: weights must be 0 or more"):
        examples_from_task("negative", "train")
    with pytest.raises(UserError, match="none.py does not exist"):
        load_plugin(str(tmp_path / "none.py"))
    with pytest.raises(UserError, match="no module no_such_module"):
        load_plugin("no_such_module")
