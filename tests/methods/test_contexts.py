"""Joined ids against re-tokenised text, on GSM8K with T5's vocabulary: on how many contexts."""

import numpy as np
import pytest

from asesjax.config import base_config, finish
from asesjax.core.types import LABELS
from asesjax.data.corpus import encode_record
from asesjax.data.sources import load_records
from asesjax.data.vocab import load_vocabulary
from asesjax.methods.ases.scoring import score_records, segment_scored
from asesjax.methods.method import make_method
from asesjax.segmentation.label import merge_segments

pytestmark = pytest.mark.data


def test_contexts_are_those_of_their_text(data_folder):
    fields = {"data.source": "gsm8k", "data.path": str(data_folder / "gsm8k"), "data.n_test": "0"}
    config = finish(base_config(), fields)
    vocab = load_vocabulary("sentencepiece", str(data_folder / "t5_vocab/spiece.model"))
    records, _ = load_records(config.data, "test", 0)
    rows = segment_scored(score_records(records, config), "rouge", 1.0)
    usm = make_method("usm", config)
    equal = total = 0
    for record, row in zip(records, rows, strict=True):
        segments = tuple(merge_segments(row.texts, row.labels))
        notes = {"pieces": np.ravel(row.pieces), "labels": np.array(
            [LABELS.index(label) for label in row.labels])}  # fmt: skip
        own = encode_record(vocab, record, config.data.answer_template, notes)
        for i, example in enumerate(usm.examples(own, vocab)["main"]):
            written = "".join(segment.text for segment in segments[:i])
            text = f"{record.question} {written}".strip()
            total += 1
            equal += np.array_equal(vocab.encode(text), example.inputs[:-1])
    print(f"{equal} of {total} contexts are to the id what encoding their text gives")
    assert len(records) == 1319
    assert equal == total == 4606
