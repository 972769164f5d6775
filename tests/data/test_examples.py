"""Texts of chains, and examples put together from runs of ids."""

import numpy as np
import pytest

from asesjax.core.errors import UserError
from asesjax.core.types import Record
from asesjax.data.examples import answer_sentence, chain_text, make_example
from asesjax.data.vocab import ByteVocabulary

TEMPLATE = "The answer is {answer}."


def test_chain_text():
    record = Record("r", "How many?", "Ben has 5 + 3 = 8.", "8")
    assert chain_text(record, TEMPLATE) == "Ben has 5 + 3 = 8. The answer is 8."
    assert chain_text(record, "") == record.rationale
    report = Record("1", "q", "Impression. ", "")
    assert chain_text(report, TEMPLATE) == "Impression. "
    assert chain_text(Record("1", "q", "r \n", "a{answer}"), "So {answer}") == "r So a{answer}"
    with pytest.raises(UserError, match=r"data.answer_template must hold \{answer\}, got 'Done'"):
        answer_sentence(record, "Done")


def test_make_example_joins_runs_of_ids():
    vocab = ByteVocabulary(3)
    example = make_example(vocab, "r/1", [[5], [], np.array([6, 7])], [[8], [9]], "es", 11,
                           weights=np.array([1, 2, 3]))  # fmt: skip
    assert (example.id, example.kind) == ("r/1", "es")
    assert example.inputs.tolist() == [5, 6, 7, vocab.eos_id]
    assert example.targets.tolist() == [8, 9, 11] and example.weights.tolist() == [1, 2, 3]
    plain = make_example(vocab, "r", [], [[8]])
    assert plain.inputs.tolist() == [vocab.eos_id] and plain.targets.tolist() == [8, vocab.eos_id]
    for one in (example, plain):
        assert one.inputs.dtype == one.targets.dtype == np.int32
        assert one.weights.dtype == np.float32
    assert plain.weights.tolist() == [1.0, 1.0]
