"""The numbers of a file of predictions."""

import pytest

from asesjax.config import base_config, finish
from asesjax.evals.report import summary
from asesjax.viz.tables import results_table


def row(reference):
    return {"chain": "It is 3.", "segments": [], "tokens": 4, "reference_answer": "3",
            "reference_chain": reference}  # fmt: skip


def test_overlap_is_of_the_rows_that_have_a_reference_and_null_without_any():
    pytest.importorskip("sacrebleu")
    config = finish(base_config())
    none = summary([row(""), row("")], config)
    names = ("bleu", "rouge_1", "rouge_2", "rouge_l")
    assert [none[name] for name in names] == [None] * 4 and none["accuracy"] == 1
    assert "BLEU" not in results_table([none | {"method": "x"}])
    some, one = (summary(rows, config) for rows in ([row("It is 3."), row("")], [row("It is 3.")]))
    assert [some[name] for name in names] == [one[name] for name in names]
    assert one["rouge_l"] == 100
