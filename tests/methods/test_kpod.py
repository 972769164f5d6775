"""What KPOD's student is trained on, and where that is what the direct method is trained on."""

import dataclasses

import jax
import numpy as np
import pytest

from asesjax.config import base_config, finish
from asesjax.core.errors import UserError
from asesjax.core.types import LABELS, Record, Segment
from asesjax.data.batching import batch_at, make_plan
from asesjax.data.corpus import encode_record
from asesjax.data.vocab import ByteVocabulary
from asesjax.data.vocab_training import train_vocabulary
from asesjax.methods.kpod.clusters import cluster, word_vectors
from asesjax.methods.kpod.steps import split_steps, step_ends
from asesjax.methods.method import make_method
from asesjax.models.t5_config import T5Config
from asesjax.run import Run
from asesjax.sharding.mesh import make_mesh
from asesjax.training.loop import train

RECORD = Record(
    "r1",
    "Amy has 5 apples. Ben has 3 more apples than Amy. How many apples does Ben have?",
    "Ben has 3 more apples than Amy. Ben has 5 + 3 = 8 apples.",
    "8",
)
SEGMENTS = (
    Segment("Ben has 3 more apples than Amy. ", "ES"),
    Segment("Ben has 5 + 3 = 8 apples. ", "AS"),
    Segment("The answer is 8.", "ES"),
)


@pytest.fixture(scope="module")
def vocab():
    texts = [RECORD.question, RECORD.rationale, "The answer is 8."] * 4
    return train_vocabulary(texts, 120, extra_ids=4)


def config(**overrides):
    overrides = {name.replace("__", "."): str(value) for name, value in overrides.items()}
    return finish(base_config(), {"train.normalize": "examples"} | overrides)


def encoded(vocab, record=RECORD, template="The answer is {answer}.", **notes):
    notes = {name: np.array(values) for name, values in notes.items()}
    return encode_record(vocab, record, template, notes)


def notes_of(vocab, record=RECORD, weights=None, given=(0, 0)):
    own = encoded(vocab, record)
    if weights is None:
        weights = np.ones(len(own.chain.ids))
    return {"weights": np.float32(weights), "ends": step_ends(own), "given": given}


def made(name, vocab, notes=None, record=RECORD, **overrides):
    method = make_method(name, config(**overrides))
    return method.examples(encoded(vocab, record, **(notes or {})), vocab)["main"]


@pytest.mark.parametrize(
    "text, steps",
    [
        ("One. Two.", ["One. ", "Two."]),
        ("It costs $1.5. So .3 of 2.5 is left", ["It costs $1.5. ", "So .3 of 2.5 is left"]),
        ("One\n\nTwo.\nThree", ["One\n\n", "Two.\n", "Three"]),
        ("Is it 3? Yes! So 4.", ["Is it 3? Yes! So 4."]),
        ("Wait... then 2.", ["Wait... ", "then 2."]),
        ("", []),
    ],
)
def test_steps_end_at_full_stops_and_line_breaks(text, steps):
    assert [text[start:end] for start, end in split_steps(text)] == steps


def test_steps_are_runs_of_the_chains_ids(vocab):
    own = encoded(vocab)
    ends = step_ends(own)
    text = f"{RECORD.rationale} The answer is 8."
    np.testing.assert_array_equal(own.chain.ids, vocab.encode(text))
    tokens = own.chain.token_texts()
    assert "".join(tokens) == text and len(tokens) == len(own.chain.ids)
    cuts = [0, *ends, len(tokens)]
    texts = ["".join(tokens[a:b]).strip() for a, b in zip(cuts, cuts[1:], strict=False)]
    assert texts == [segment.text.strip() for segment in SEGMENTS]
    # White space goes with what follows it, as everywhere: bytes of line breaks with the next step.
    lines = encoded(ByteVocabulary(4), Record("r2", "q", "1 m.\n\n 2 m.", "3"))
    assert step_ends(lines).tolist() == [4, 11]
    with pytest.raises(UserError, match="needs an answer sentence"):
        step_ends(encoded(vocab, template=""))
    with pytest.raises(UserError, match="comes to no tokens"):
        step_ends(encoded(vocab, Record("r3", "q", " ", "3")))


def test_weights_and_steps_of_the_students_example(vocab):
    chain, (first, n) = encoded(vocab).chain, step_ends(encoded(vocab)).tolist()
    own = np.linspace(0.1, 0.9, n).round(3).tolist() + [1.0] * (len(chain.ids) - n)
    # Both steps are given at first; the second is a target from stage 2 of 5, the first from 4.
    notes = notes_of(vocab, weights=own, given=(2, 2, 1, 1, 0, 0))
    (example,) = made("kpod", vocab, notes)
    np.testing.assert_allclose(example.weights, [*own, 1.0], rtol=1e-6)
    want = [0.3] * first + [0.1] * (n - first) + [0] * (len(chain.ids) + 1 - n)
    np.testing.assert_allclose(example.loss_from, want, atol=1e-7)

    def targets(progress):
        return np.flatnonzero(example.at(progress)[2])[0]

    places = [targets(progress) for progress in (0, 0.099, 0.1, 0.299, 0.3, 1)]
    assert places == [n, n, first, first, 0, 0]
    plain = made("kpod", vocab, notes, kpod__weighted_loss=False)[0]
    assert set(plain.weights.tolist()) == {1.0}
    np.testing.assert_array_equal(plain.loss_from, example.loss_from)


def test_given_steps_may_go_to_the_encoder(vocab):
    """By hand: question, given steps, end of sequence -> the other steps and the answer."""
    notes = notes_of(vocab, given=(2, 2, 1, 1, 0, 0))
    (example,) = made("kpod", vocab, notes, kpod__given="encoder")
    question, chain = vocab.encode(RECORD.question), encoded(vocab).chain
    ends = step_ends(encoded(vocab))
    for progress, given in ((0.0, 2), (0.1, 1), (0.3, 0), (1.0, 0)):
        cut = int([0, *ends][given])
        inputs, targets, weights = example.at(progress)
        assert inputs.tolist() == [*question, *chain.ids[:cut], vocab.eos_id]
        assert targets.tolist() == [*chain.ids[cut:], vocab.eos_id]
        assert len(weights) == len(targets) and (weights == 1).all()
    assert vocab.decode(example.at(0.1)[0]).endswith("than Amy.")


def test_unit_weights_and_nothing_given_train_as_the_direct_method(vocab, tmp_path):
    """The same examples, batches and trained parameters, to the last bit."""
    records = [
        Record(f"r{i}", f"Amy has {i} apples.", f"Ben has {i} + 3. Ben has {i + 3}.", str(i + 3))
        for i in range(12)
    ]
    notes = [notes_of(vocab, record) for record in records]
    of = {
        name: [made(name, vocab, note, r)[0] for r, note in zip(records, notes, strict=True)]
        for name in ("direct", "kpod")
    }
    for ours, direct in zip(of["kpod"], of["direct"], strict=True):
        assert ours.loss_from is None
        for name in ("inputs", "targets", "weights"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(direct, name))
    # Starts of 0 are no other than none.
    with_zeros = [
        dataclasses.replace(example, loss_from=np.zeros(len(example.targets), np.float32))
        for example in of["kpod"]
    ]
    model = T5Config(vocab.size, 16, 8, 16, 2, 1, 1)
    train_section = config(
        train__batch_size=4, train__steps=6, train__tokens=0, train__normalize="examples",
        train__source_buckets="(32,)", train__target_buckets="(48,)",
    ).train  # fmt: skip
    got = [
        train(train_section, model, examples, [], tmp_path / str(i), 0, n_steps=6,
              mesh=make_mesh(devices=jax.devices()[:1])).params
        for i, examples in enumerate((of["direct"], with_zeros))
    ]  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, *got)


def test_stages_change_neither_shapes_nor_programs(vocab, tmp_path):
    examples = [
        made("kpod", vocab, notes_of(vocab, given=(2, 2, 2, 1, 1, 0, 0)))[0] for _ in range(8)
    ]
    train_section = config(
        train__batch_size=4, train__steps=12, train__tokens=0, train__source_buckets="(48,)",
        train__target_buckets="(48,)", train__normalize="examples",
    ).train  # fmt: skip
    plan = make_plan(examples, 4, (48,), (48,), 0, n_steps=12)
    batches = [batch_at(plan, examples, step) for step in range(12)]
    assert len({tuple(x.shape for x in batch.values()) for batch in batches}) == 1
    n_targets = [int((batch["decoder_loss_weights"] > 0).sum()) for batch in batches]
    assert n_targets == sorted(n_targets) and len(set(n_targets)) == 3
    result = train(
        train_section, T5Config(vocab.size, 16, 8, 16, 2, 1, 1), examples, [], tmp_path, 0,
        n_steps=12, mesh=make_mesh(devices=jax.devices()[:1]),
    )  # fmt: skip
    assert result.n_programs == 1


def test_a_variant_reads_its_own_options_and_files():
    fields = {"methods": "x", "kpod__beta": 7.0, "variants__x__method": "kpod",
              "variants__x__kpod__weighted_loss": "false"}  # fmt: skip
    base = make_method("kpod", config(kpod__beta=7.0))
    own = make_method("x", config(**fields))
    assert own.options == dataclasses.replace(base.options, weighted_loss=False)
    assert base.needs == ("kpod-weights", "schedule-kpod")
    assert own.needs == ("kpod-weights", "schedule-x")
    assert own.annotations[1] == "kpod/x/{split}.npz" != base.annotations[1]
    for kind, changed in (("train", {"kpod.weighted_loss": False}), ("schedule", {})):
        assert own.reads(kind) == base.reads(kind) | changed


def test_a_loss_divided_by_the_weights_is_refused():
    with pytest.raises(UserError, match="kpod needs train.normalize=examples, .*variants.kpod"):
        make_method("kpod", config(train__normalize="weights"))
    own = {"variants__kpod__train__normalize": "examples"}
    make_method("kpod", config(train__normalize="weights", **own))


@pytest.mark.parametrize("fields", [
    dict(kpod__predictor_shape="(8, 8, 8)"),
    dict(kpod__predictor_shape="(8, 8, 8, 1, 1)", kpod__predictor_from="x"),
])  # fmt: skip
def test_half_a_predictor_is_refused(fields, tmp_path):
    own = config(**fields)
    with pytest.raises(UserError, match="kpod.predictor_shape must be d_model, d_ff, d_kv, heads"):
        make_method("kpod", own).stages(Run(own, tmp_path))


def test_annotations_of_another_chain_are_refused(vocab):
    for other in ({"weights": [1.0]}, {"ends": [1, 2]}):
        with pytest.raises(UserError, match="record r1: .* run again with --redo"):
            made("kpod", vocab, notes_of(vocab) | other)


def test_weights_act_on_segments_of_as_es(vocab):
    chain = encoded(vocab).chain
    n = len(chain.ids)
    own = np.linspace(0.1, 1.0, n).astype(np.float32)
    ends = np.cumsum([len(segment.text) for segment in SEGMENTS])
    notes = {"pieces": np.ravel([[0, *ends[:-1]], ends], order="F"),
             "labels": [LABELS.index(segment.label) for segment in SEGMENTS]}  # fmt: skip
    weighted = notes | {"weights": own}
    plain = made("usm", vocab, notes, ases__gamma=2.0)
    with_weights = made("usm", vocab, weighted, ases__gamma=2.0, ases__token_weights="kpod")
    place = 0
    for before, after, segment in zip(plain, with_weights, SEGMENTS, strict=True):
        for name in ("inputs", "targets", "kind"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
        closing = 2 if before.kind == "answer" else 1
        size = len(before.targets) - closing
        gamma = 2.0 if segment.label == "AS" else 1.0
        np.testing.assert_allclose(after.weights[:size], gamma * own[place : place + size])
        assert (after.weights[size:] == gamma).all()
        place += size
    assert place == n
    dual = make_method("dsm", config(ases__token_weights="kpod"))
    assert dual.needs == ("segment", "kpod-weights") and len(dual.annotations) == 2
    examples = dual.examples(encoded(vocab, **weighted), vocab)
    assert [example.id for example in examples["es"]] == ["r1/1", "r1/3"]
    assert examples["as"][0].weights[0] == with_weights[1].weights[0] / 2
    with pytest.raises(UserError, match=f"weights for {n - 1} tokens and its chain has {n}"):
        made("usm", vocab, notes | {"weights": own[:-1]})


def test_clusters_separate_distant_groups():
    random = np.random.default_rng(0)
    vectors = np.concatenate([random.normal(10 * i, 1, (20, 3)) for i in range(4)])
    labels = cluster(vectors, 4, seed=0)
    groups = [set(labels[20 * i : 20 * i + 20].tolist()) for i in range(4)]
    assert all(len(group) == 1 for group in groups) and len(set.union(*groups)) == 4
    np.testing.assert_array_equal(labels, cluster(vectors, 4, seed=0))
    assert cluster(np.ones((5, 2)), 3, 0).tolist() == [0] * 5
    assert set(cluster(np.eye(3), 9, 0).tolist()) == {0, 1, 2}


def test_word_vectors_are_means_over_known_words(tmp_path):
    path = tmp_path / "glove.txt"
    path.write_text("the 0 0\nben 1 2\n. . 5 5\napples 3 4\n5 9 9\n", encoding="utf-8")
    vectors, unknown = word_vectors(path, ["Ben's Ben? apples", "5 apples", "nothing known"])
    np.testing.assert_allclose(vectors, [[2, 3], [6, 6.5], [0, 0]])
    assert unknown == 1
    with pytest.raises(UserError, match="knows no word"):
        word_vectors(path, ["xyz"])
    with pytest.raises(UserError, match="there is no file"):
        word_vectors(tmp_path / "none.txt", ["Ben"])
    path.write_text("the 0 0\nben 1 2\napples 3 x\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"glove.txt:3: not a word and 2 numbers: 'apples 3 x'"):
        word_vectors(path, ["Ben", "apples"])
    path.write_text("# no vectors here\n", encoding="utf-8")
    with pytest.raises(UserError, match="glove.txt:1"):
        word_vectors(path, ["Ben"])
