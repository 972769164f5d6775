"""Tasks of a run: the same examples, batches and metrics as without seqio."""

import numpy as np
import pytest

seqio = pytest.importorskip("seqio")

import jax  # noqa: E402

from asesjax.config import base_config, finish  # noqa: E402
from asesjax.core.errors import UserError  # noqa: E402
from asesjax.data.batching import batch_at, make_plan  # noqa: E402
from asesjax.data.sources import read_records  # noqa: E402
from asesjax.data.vocab import load_saved, with_symbols  # noqa: E402
from asesjax.data.vocab_training import train_vocabulary  # noqa: E402
from asesjax.jobs.training import role_examples  # noqa: E402
from asesjax.methods.method import make_method  # noqa: E402
from asesjax.models.t5_config import T5Config  # noqa: E402
from asesjax.run import Run  # noqa: E402
from asesjax.sharding.mesh import make_mesh  # noqa: E402
from asesjax.tasks import register  # noqa: E402
from asesjax.tasks.features import (  # noqa: E402
    WeightedEncDecFeatureConverter,
    output_features,
    seqio_vocabulary,
)
from asesjax.tasks.load import examples_from_task  # noqa: E402
from asesjax.training.loop import train  # noqa: E402

TASKS = [
    ("small_direct", "direct", "main"),
    ("small_answer_only", "answer_only", "main"),
    ("small_usm", "usm", "main"),
    ("small_dsm_es", "dsm", "es"),
    ("small_dsm_as", "dsm", "as"),
]


def ours(run, method, role, split="train"):
    return role_examples(run, make_method(method, run.config), split)[role]


def assert_equal(left, right):
    assert len(left) == len(right) > 0
    for a, b in zip(left, right, strict=True):
        assert a.id == b.id
        for side in ("inputs", "targets", "weights"):
            x, y = getattr(a, side), getattr(b, side)
            assert x.dtype == y.dtype and x.tobytes() == y.tobytes()


@pytest.mark.parametrize("task, method, role", TASKS)
def test_examples_equal_those_of_the_run(run, task, method, role):
    for split in ("train", "validation"):
        found = examples_from_task(f"asesjax_{task}", split)
        assert_equal(found, ours(run, method, role, split))
    if method == "usm":
        weights = np.concatenate([example.weights for example in found])
        assert set(weights.tolist()) == {1.0, float(np.float32(0.37))}


def test_batches_equal_those_of_the_run(run):
    theirs, mine = examples_from_task("asesjax_small_usm", "train"), ours(run, "usm", "main")
    for packed_length in (0, 256):
        plans = [
            make_plan(e, 8, (64, 128), (16, 80), seed=3, packed_length=packed_length)
            for e in (theirs, mine)
        ]
        for step in range(plans[0].epoch_start(2)):
            a, b = (batch_at(p, e, step) for p, e in zip(plans, (theirs, mine), strict=True))
            assert a.keys() == b.keys()
            for name in a:
                assert a[name].dtype == b[name].dtype and a[name].tobytes() == b[name].tobytes()


@pytest.mark.slow
def test_training_is_the_same_to_the_last_bit(run, tmp_path):
    fields = {"train.source_buckets": "(128,)", "train.target_buckets": "(80,)"}
    config = finish(base_config(), fields)
    model = T5Config(vocab_size=384, d_model=16, d_kv=8, d_ff=32, n_heads=2, n_encoder_layers=1,
                     n_decoder_layers=1)  # fmt: skip
    sources = {
        "seqio": examples_from_task("asesjax_small_usm", "train"), "run": ours(run, "usm", "main")
    }  # fmt: skip
    results = [
        train(config.train, model, examples, [], tmp_path / name, 0, n_steps=3,
              mesh=make_mesh(devices=jax.devices()[:1]))
        for name, examples in sources.items()
    ]
    left, right = (jax.tree.leaves(result.params) for result in results)
    assert all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def test_text_is_tokenised_as_by_our_vocabulary(run):
    for split in ("train", "test"):
        found = examples_from_task("asesjax_small_text", split)
        expected = ours(run, "direct", "main", split)
        for a, b in zip(found, expected, strict=True):
            assert a.inputs.tolist() == b.inputs.tolist()
            assert a.targets.tolist() == b.targets.tolist()
            assert a.weights.tolist() == [1.0] * len(a.targets)


def test_text_in_bytes_and_with_escapes(prepared):
    for name, fields in (
        ("bytes", {"vocab__kind": "byte"}),
        ("escapes", {"vocab__symbols": "true", "vocab__size": "400"}),
    ):
        run = prepared(**fields)
        register.register_run(run, name, ("direct",))
        found = examples_from_task(f"asesjax_{name}_text", "validation")
        expected = examples_from_task(f"asesjax_{name}_direct", "validation")
        for a, b in zip(found, expected, strict=True):
            assert a.inputs.tolist() == b.inputs.tolist()
            assert a.targets.tolist() == b.targets.tolist()


def test_vocabularies_agree_on_any_text(tmp_path):
    texts = ["Amy has 5 < 6 apples.", "naïve ﬁx\nｆｕｌｌ", "  two  spaces ", "", "3 + 4 = 7"]
    vocab = train_vocabulary(texts * 3, 120, extra_ids=5)
    for mine in (vocab, with_symbols(train_vocabulary([*texts, register_alphabet()], 200))):
        mine.save(tmp_path)
        theirs = seqio_vocabulary(mine, tmp_path)
        assert theirs.vocab_size == mine.size
        assert (theirs.eos_id, theirs.unk_id, theirs.pad_id) == (1, 2, 0)
        for text in texts:
            ids = mine.encode(text).tolist()
            assert list(theirs.encode(text)) == theirs.encode_tf(text).numpy().tolist() == ids
            assert theirs.decode(ids) == mine.decode(ids)
            assert theirs.decode_tf(np.int32(ids)).numpy().decode() == mine.decode(ids)


def register_alphabet():
    from asesjax.data.symbols import ALPHABET

    return ALPHABET


def test_mixture_of_roles_in_proportion(run):
    parts = [len(examples_from_task(f"asesjax_small_dsm_{r}", "train")) for r in ("es", "as")]
    whole = examples_from_task("asesjax_small_dsm", "train")
    assert len(whole) == sum(parts)
    mixture = seqio.MixtureRegistry.get("asesjax_small_dsm")
    rates = {task.name: mixture.get_rate(task) for task in mixture.tasks}
    assert rates == {"asesjax_small_dsm_es": parts[0], "asesjax_small_dsm_as": parts[1]}


def test_registering_twice_replaces(run):
    before = seqio.TaskRegistry.names()
    names = register.register_run(run, "small")
    assert seqio.TaskRegistry.names() == before
    assert names[0] == "asesjax_small_text" and names[-1] == "asesjax_small_usm"


def test_errors_name_what_the_run_lacks(run, tmp_path):
    with pytest.raises(UserError, match="vocab/vocab.json does not exist; run 'asesjax"):
        register.register_run(Run(run.config, tmp_path))


def test_tfds_is_constructed_without_a_network(run):
    folder = run / "vocab"
    features = output_features(seqio_vocabulary(load_saved(folder), folder))
    config = finish(base_config(), {"data.source": "gsm8k"})
    name = register.register_tfds("asesjax_tfds_gsm8k", "gsm8k:1.0.0", config, features)
    task = seqio.TaskRegistry.get(name)
    assert isinstance(task.source, seqio.TfdsDataSource)
    assert task.source.tfds_dataset.name == "gsm8k:1.0.0"


@pytest.mark.parametrize("task", ["small_text", "small_direct"])
def test_evaluator_of_seqio_calls_our_metrics(run, task):
    vocab = load_saved(run / "vocab")
    records = read_records(run / "data/validation.jsonl")
    evaluator = seqio.Evaluator(
        f"asesjax_{task}", WeightedEncDecFeatureConverter(pack=False), eval_split="validation",
        async_compute_metrics=False,
    )  # fmt: skip
    wrong = [*vocab.encode("The answer is 99999."), vocab.eos_id, *[0] * 200]

    def predict(dataset):
        """Right for all questions but the first three."""
        rows = []
        for i, row in dataset.as_numpy_iterator():
            assert vocab.decode(row["encoder_input_tokens"]) == records[i].question
            target = row["decoder_target_tokens"]
            rows.append((int(i), np.resize(wrong, len(target)) if i < 3 else target))
        return rows

    metrics, _ = evaluator.evaluate(compute_metrics=True, step=0, predict_fn=predict)
    found = metrics.result()[f"asesjax_{task}"] if hasattr(metrics, "result") else metrics
    found = found.get(f"asesjax_{task}", found)
    assert found["accuracy"] == pytest.approx(75.0)
    assert 50 < found["bleu"] < 100
