"""Methods by name, and the plainest ones as text."""

import numpy as np
import pytest

from asesjax.config import base_config, finish
from asesjax.core.errors import UserError
from asesjax.core.types import Record
from asesjax.data.corpus import encode_record
from asesjax.data.vocab_training import train_vocabulary
from asesjax.methods.method import METHODS, make_method

RECORD = Record("r1", "Amy has 5. How many has Ben?", "Ben has 5 + 3 = 8.", "8")


@pytest.fixture(scope="module")
def vocab():
    texts = [RECORD.question, RECORD.rationale, "The answer is 8."] * 4
    return train_vocabulary(texts, 90, extra_ids=12)


def test_methods_are_made_by_name(vocab):
    fields = {"methods": ",".join(METHODS), "train.normalize": "examples"}
    config = finish(base_config(), fields)
    for name in METHODS:
        method = make_method(name, config)
        assert method.name == name and type(method) is METHODS.get(name)
        assert {turn.role for turn in method.decode_plan(vocab).turns} <= set(method.roles)
    with pytest.raises(UserError, match="unknown method 'usmm'; did you mean 'usm'"):
        make_method("usmm", config)


@pytest.mark.parametrize(
    "name, template, target",
    [
        ("answer_only", "The answer is {answer}.", "The answer is 8."),
        ("answer_only", "", "8"),
        ("direct", "The answer is {answer}.", f"{RECORD.rationale} The answer is 8."),
        ("direct", "", RECORD.rationale),
    ],
)
def test_plain_baselines(vocab, name, template, target):
    method = make_method(name, finish(base_config(), {"data.answer_template": template}))
    [example] = method.examples(encode_record(vocab, RECORD, template), vocab)["main"]
    assert example.id == "r1" and example.inputs[-1] == example.targets[-1] == vocab.eos_id
    assert vocab.decode(example.inputs) == RECORD.question
    assert vocab.decode(example.targets) == target
    assert example.weights.dtype == np.float32 and (example.weights == 1).all()


def test_answer_only_needs_an_answer(vocab):
    method = make_method("answer_only", finish(base_config()))
    unanswered = encode_record(vocab, Record("r-8", "q", "r", ""), "")
    with pytest.raises(UserError, match="record r-8 has no answer, .*answer_only.*out of methods"):
        method.examples(unanswered, vocab)
