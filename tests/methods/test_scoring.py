"""Scores of pieces: pooled by hand on a record, and every strategy's labels."""

import functools

import jax
import numpy as np
import pytest

from asesjax.config import base_config, finish
from asesjax.core.errors import UserError
from asesjax.core.types import Record
from asesjax.data.corpus import encode_record
from asesjax.data.vocab_training import train_vocabulary
from asesjax.decode.score import score_examples
from asesjax.methods.ases.scoring import score_records, segment_scored
from asesjax.models import t5
from asesjax.models.t5_config import T5Config

RECORD = Record(
    "r", "Amy has 5 big apples here.", "Amy has 5 big apples. So she has 5 + 3 = 8.", "8"
)


@pytest.fixture(scope="module")
def vocab():
    return train_vocabulary([RECORD.question, RECORD.rationale, "The answer is 8."] * 4, 90)


class Scorer:
    """Gives token i of an example the loss i and the entropy 10 i, and remembers the examples."""

    def __call__(self, examples):
        self.examples = list(examples)
        lengths = [np.arange(len(e.targets), dtype=np.float32) for e in examples]
        return [(n, 10 * n) for n in lengths]


def config(**fields):
    return finish(base_config(), {f"segment.{k}": str(v) for k, v in fields.items()})


def scores(vocab, scorer, **fields):
    c = config(**fields)
    (row,) = score_records([encode_record(vocab, RECORD, c.data.answer_template)], c, vocab, scorer)
    return row


def test_given_the_question_the_chain_is_one_target(vocab):
    scorer = Scorer()
    row = scores(vocab, scorer, given="question")
    assert row.text == RECORD.rationale + " The answer is 8."
    (example,) = scorer.examples
    assert vocab.decode(example.inputs) == RECORD.question
    assert vocab.decode(example.targets) == row.text
    # Every token of the chain belongs to a piece; the end of sequence to none.
    n = len(example.targets) - 1
    assert sum(row.scores["loss"]) == sum(range(n))
    assert row.scores["entropy"] == [10 * x for x in row.scores["loss"]]
    assert len(row.scores["loss"]) == len(row.pieces) == 3


def test_given_the_prefix_every_piece_is_a_target(vocab):
    scorer = Scorer()
    row = scores(vocab, scorer, given="prefix")
    targets = [vocab.decode(e.targets) for e in scorer.examples]
    assert targets == ["Amy has 5 big apples.", "So she has 5 + 3 = 8.", "The answer is 8."]
    inputs = [vocab.decode(e.inputs) for e in scorer.examples]
    assert inputs[2] == f"{RECORD.question} {targets[0]} {targets[1]}"
    sizes = [len(e.targets) - 1 for e in scorer.examples]
    assert row.scores["loss"] == [sum(range(n)) for n in sizes]


def test_by_default_each_piece_is_scored_alone_as_the_model_run_piece_by_piece_has_it(vocab):
    model = T5Config(vocab.size, 16, 8, 32, 2, n_encoder_layers=1, n_decoder_layers=1)
    params = jax.tree.map(lambda x: 3 * x, t5.init(model, jax.random.key(1)))
    scorer = functools.partial(score_examples, model, params, source_buckets=(32,),
                               target_buckets=(12, 40))  # fmt: skip
    row = scores(vocab, scorer)

    encoded = encode_record(vocab, RECORD, "The answer is {answer}.")
    of_token = encoded.chain.piece_of_tokens(row.pieces)
    losses, entropies = [], []
    for piece in range(3):
        targets = np.append(encoded.chain.ids[of_token == piece], vocab.eos_id)
        batch = {"encoder_input_tokens": np.append(encoded.question.ids, vocab.eos_id)[None],
                 "decoder_input_tokens": np.append(0, targets[:-1])[None]}  # fmt: skip
        logits = t5.logits(model, params, t5.forward(model, params, batch))
        log_p = np.array(jax.nn.log_softmax(logits[0]), np.float64)
        losses.append(-log_p[np.arange(len(targets)), targets].sum())
        entropies.append(-(np.exp(log_p) * log_p).sum())
    np.testing.assert_allclose(row.scores["loss"], losses, rtol=1e-4)
    np.testing.assert_allclose(row.scores["entropy"], entropies, rtol=1e-4)
    for name, values in (("loss", losses), ("entropy", entropies)):
        (labelled,) = segment_scored([row], name, 1.0)
        mean = sum(values) / 3
        assert list(labelled.labels) == ["AS" if x > mean else "ES" for x in values]
        assert set(labelled.labels) == {"ES", "AS"}
    assert row.scores != scores(vocab, scorer, given="question").scores


def test_mean_divides_by_words(vocab):
    total, mean = scores(vocab, Scorer()), scores(vocab, Scorer(), reduce="mean")
    words = [5, 8, 4]
    expected = [a / w for a, w in zip(total.scores["loss"], words, strict=True)]
    np.testing.assert_allclose(mean.scores["loss"], expected, rtol=1e-6)


def test_scores_without_a_model_need_no_scorer():
    rows = score_records([RECORD], config())
    for strategy in ("bleu", "rouge", "location"):
        (row,) = segment_scored(rows, strategy, 1.0)
        assert set(row.labels) == {"ES", "AS"}
    # The piece that repeats the question is ES, the one that computes is AS.
    assert segment_scored(rows, "rouge", 1.0)[0].labels[:2] == ("ES", "AS")
    with pytest.raises(UserError, match="needs a trained scorer"):
        segment_scored(rows, "entropy", 1.0)


def test_dropping_every_piece_is_an_error():
    with pytest.raises(UserError, match="record r: no piece .* segment.short=merge"):
        score_records([RECORD], config(short="drop", min_words=50))
