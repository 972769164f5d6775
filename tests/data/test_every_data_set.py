"""Every data set: records -> pieces and labels -> examples -> batches, and nothing gets lost.

Counts are those of the files. In every step what comes out is compared with what went in: chains
with their segments, ids of chains with the targets, examples with the rows of an epoch.
"""

import functools
from collections import Counter

import numpy as np
import pytest

from asesjax.config import base_config, finish
from asesjax.core.types import LABELS
from asesjax.data.batching import batch_at, make_plan
from asesjax.data.corpus import encode_record
from asesjax.data.examples import chain_text
from asesjax.data.sources import SPLITS, WRONG_CHAIN, load_records
from asesjax.data.vocab import load_vocabulary, with_symbols
from asesjax.data.vocab_training import train_vocabulary
from asesjax.evals.answers import is_correct
from asesjax.methods.ases.scoring import ScoredRecord, segment_scored
from asesjax.methods.method import make_method
from asesjax.segmentation.pieces import split_pieces

pytestmark = pytest.mark.data

NOT_THERE = "what the rule comes to is not among the choices"
OTHER = "the rule comes to another answer than the file gives"
EQUATION = "field 'Equation' does not come to field 'Answer'"
REPORTS = {"rationale_field": "answer", "answer_field": "", "id_field": "qid", "split_by": "id",
           "answer_template": ""}  # fmt: skip
# Source, path, metric, records of each split, skipped rows by reason, changed fields of data, and
# the segments that location makes of the training chains, as counted once.
CASES = {
    "gsm8k": ("gsm8k", "numeric", (6732, 741, 1319), {}, {}, 35161),
    "gsm8k_socratic": ("gsm8k", "numeric", (6732, 741, 1319), {}, {}, 35161),
    "svamp": ("svamp", "numeric", (810, 96, 93), {EQUATION: 1}, {"max_skipped_share": 0.001}, 1821),
    "strategyqa": ("strategyqa", "exact", (1888, 173, 229), {}, {}, 7114),
    "palm_svamp": ("palm_rationales/svamp", "numeric", (536, 57, 200), {WRONG_CHAIN: 207},
                   {"only_right_chains": True}, 2417),
    "palm_cqa": ("palm_rationales/cqa", "exact", (6595, 739, 1221), {WRONG_CHAIN: 2407},
                 {"only_right_chains": True}, 26422),
    "coin_flip": ("symbolic", "exact", (313, 37, 150), {}, {}, 3130),
    "date_understanding": ("symbolic", "exact", (212, 28, 101), {NOT_THERE: 20, OTHER: 8},
                           {"max_skipped_share": 0.1}, 1174),
    "last_letter_concatenation": ("symbolic", "exact", (310, 31, 144), {OTHER: 15},
                                  {"max_skipped_share": 0.1}, 2170),
    "tracking_shuffled_objects": ("symbolic", "exact", (469, 56, 225), {}, {}, 5468),
    "csv": ("cpet/cpet.csv.gz", "exact", (8378, 1111, 1011), {}, REPORTS, 124699),
}  # fmt: skip
# Rows of the files, skipped ones and those that are left out included.
ROWS = {"gsm8k": 8792, "gsm8k_socratic": 8792, "svamp": 1000, "strategyqa": 2290,
        "palm_svamp": 1000, "palm_cqa": 10962, "coin_flip": 500, "date_understanding": 369,
        "last_letter_concatenation": 500, "tracking_shuffled_objects": 750,
        "csv": 10500}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("source", CASES)
def test_from_records_to_batches(data_folder, source):
    path, metric, sizes, reasons, changed, n_segments = CASES[source]
    config = base_config()
    config.data.update(source=source, path=str(data_folder / path), n_train=0, n_validation=0,
                       n_test=0, **changed)  # fmt: skip
    config = finish(config)
    is_right = functools.partial(is_correct, metric=metric)
    loaded = {split: load_records(config.data, split, 0, is_right) for split in SPLITS}
    skipped = dict(pair for _, pairs in loaded.values() for pair in pairs)
    assert tuple(len(loaded[split][0]) for split in SPLITS) == sizes
    assert Counter(skipped.values()) == reasons
    assert sum(sizes) + len(skipped) == ROWS[source]
    every = [record for split in SPLITS for record in loaded[split][0]]
    assert len({record.id for record in every}) == len(every)

    # References are right by their own measure, by the chain that is learned, too.
    template = config.data.answer_template
    for record in every:
        chain = chain_text(record, template)
        assert is_right(chain, record.answer or chain), record.id
        assert record.steps is None or all(all(pair) for pair in record.steps), record.id

    train = loaded["train"][0]
    chains = [chain_text(record, template) for record in train]
    scored = [
        ScoredRecord(record.id, chain, pieces, {"location": [i % 2 for i in range(len(pieces))]})
        for record, chain in zip(train, chains, strict=True)
        for pieces in [tuple(split_pieces(chain))]
    ]
    rows = segment_scored(scored, "location", 1.0)
    assert ["".join(row.texts) for row in rows] == chains

    vocab = vocabulary(data_folder, source, train[:500])
    usm = make_method("usm", config)
    examples = []
    for record, row in zip(train, rows, strict=True):
        labels = np.array([LABELS.index(label) for label in row.labels])
        notes = {"pieces": np.ravel(row.pieces), "labels": labels}
        examples += usm.examples(encode_record(vocab, record, template, notes), vocab)["main"]
    assert len({example.id for example in examples}) == len(examples) == n_segments
    assert not any((example.targets == vocab.unk_id).any() for example in examples)
    # A target ends with the end of sequence, the last of a chain with the sentinel before it.
    n_targets = sum(map(len, vocab.encode_batch(chains))) + len(examples) + len(train)
    assert sum(len(example.targets) for example in examples) == n_targets

    plan = make_plan(examples, 64, (128, 256, 512, 768, 1024), (32, 64, 128, 512), seed=0)
    seen = np.zeros(len(examples), np.int64)
    total = 0
    for step in range(-(-len(examples) // 64)):
        batch = batch_at(plan, examples, step)
        np.add.at(seen, batch["example_index"], 1)
        total += int((batch["decoder_target_tokens"] != 0).sum())
    assert seen.min() == 1 and seen.sum() == 64 * (step + 1)
    again = sum(len(examples[i].targets) for i in np.flatnonzero(seen > 1))
    assert total == n_targets + again


def vocabulary(data_folder, source, records):
    if source != "csv":
        t5 = load_vocabulary("sentencepiece", str(data_folder / "t5_vocab/spiece.model"))
        return with_symbols(t5)
    texts = [text for record in records for text in (record.question, record.rationale)]
    return train_vocabulary(texts, 4000, byte_fallback=True)
