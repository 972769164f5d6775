"""What methods make of a record, asserted as text, and how training contexts meet decoding's."""

import numpy as np
import pytest

from asesjax.config import base_config, finish
from asesjax.core.errors import UserError
from asesjax.core.types import LABELS, Record, Segment
from asesjax.data.corpus import encode_record
from asesjax.data.vocab import train_vocabulary
from asesjax.methods.method import METHODS, make_method

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


def made(name, vocab, overrides=None, segments=SEGMENTS):
    config = finish(base_config(), overrides or {})
    ends = np.cumsum([len(segment.text) for segment in segments])
    notes = {"pieces": np.ravel([[0, *ends[:-1]], ends], order="F"),
             "labels": np.array([LABELS.index(segment.label) for segment in segments])}  # fmt: skip
    record = encode_record(vocab, RECORD, config.data.answer_template, notes)
    return make_method(name, config).examples(record, vocab)


def text(vocab, ids):
    assert ids[-1] == vocab.eos_id
    return vocab.decode(ids)


def pairs(vocab, examples):
    return [(text(vocab, e.inputs), text(vocab, e.targets)) for e in examples]


def test_methods_are_made_by_name():
    config = finish(base_config(), {"methods": ",".join(METHODS)})
    for name in METHODS:
        method = make_method(name, config)
        assert method.name == name and type(method) is METHODS.get(name)
        assert len(set(method.roles)) == len(method.roles)
    with pytest.raises(UserError, match="unknown method 'usmm'; did you mean 'usm'"):
        make_method("usmm", config)


def test_baselines(vocab):
    q = RECORD.question
    assert pairs(vocab, made("answer_only", vocab)["main"]) == [(q, "The answer is 8.")]
    chain = f"{RECORD.rationale} The answer is 8."
    assert pairs(vocab, made("direct", vocab)["main"]) == [(q, chain)]


def test_unified_path(vocab):
    q = RECORD.question
    first, second, third = (s.text.strip() for s in SEGMENTS)
    assert pairs(vocab, made("usm", vocab)["main"]) == [
        (q, first),
        (f"{q} {first}", second),
        (f"{q} {first} {second}", f"{third} <extra_id_0>"),
    ]


def test_dual_path_divides_the_unified_examples_by_label(vocab):
    unified = made("usm", vocab)["main"]
    dual = made("dsm", vocab)
    assert [e.id for e in dual["es"]] == [unified[0].id, unified[2].id]
    assert [e.id for e in dual["as"]] == [unified[1].id]
    np.testing.assert_array_equal(dual["as"][0].inputs, unified[1].inputs)


def test_gamma_weighs_as_tokens_and_nothing_else(vocab):
    plain = made("usm", vocab)["main"]
    weighted = made("usm", vocab, {"ases.gamma": "2.5"})["main"]
    for before, after, segment in zip(plain, weighted, SEGMENTS, strict=True):
        np.testing.assert_array_equal(before.targets, after.targets)
        assert set(before.weights.tolist()) == {1.0}
        assert set(after.weights.tolist()) == {2.5 if segment.label == "AS" else 1.0}
    with pytest.raises(UserError, match="ases.gamma"):
        made("usm", vocab, {"ases.gamma": "-1"})


def test_stop_text_variant_has_no_sentinel(vocab):
    last = made("usm", vocab, {"ases.end_of_chain": "stop_text"})["main"][-1]
    assert text(vocab, last.targets) == "The answer is 8."


def test_a_context_is_what_encoding_its_text_gives(vocab):
    # Ids are joined, never text encoded again; here the tokenizer allows both to agree.
    for example in made("usm", vocab)["main"]:
        again = vocab.encode(text(vocab, example.inputs))
        np.testing.assert_array_equal(again, example.inputs[:-1])
