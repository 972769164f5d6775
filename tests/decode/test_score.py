"""Token scores against a float64 softmax, whatever the chunk."""

import jax
import numpy as np
import pytest

from asesjax.core.errors import UserError
from asesjax.core.types import Example
from asesjax.decode.score import score_examples, token_scores
from asesjax.models import t5
from asesjax.models.t5_config import T5Config

MODEL = T5Config(50, 16, 8, 32, 2, n_encoder_layers=1, n_decoder_layers=1)


@pytest.fixture(scope="module")
def params():
    params = t5.init(MODEL, jax.random.key(0))
    return jax.tree.map(lambda x: 2 * x, params)  # sharper distributions


def make_batch(rng, lengths, s=8, t=7):
    b = len(lengths)
    targets = np.zeros((b, t), np.int32)
    for row, n in zip(targets, lengths, strict=True):
        row[:n] = rng.integers(1, 50, n)
    return {
        "encoder_input_tokens": rng.integers(2, 50, (b, s)).astype(np.int32),
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
    }


@pytest.mark.parametrize("chunk", [1, 3, 7, 16])
def test_equals_float64_softmax(params, chunk):
    batch = make_batch(np.random.default_rng(1), (7, 1, 4))
    nll, entropy = token_scores(MODEL, params, batch, chunk=chunk)
    logits = t5.logits(MODEL, params, t5.forward(MODEL, params, batch))
    x = np.asarray(logits, np.float64)
    p = np.exp(x - x.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    targets = batch["decoder_target_tokens"]
    want_nll = -np.log(np.take_along_axis(p, targets[..., None], -1)[..., 0])
    want_entropy = -(p * np.log(p)).sum(-1)
    real = targets != 0
    assert nll.dtype == entropy.dtype == np.float32 and nll.shape == (3, 7)
    np.testing.assert_allclose(np.asarray(nll)[real], want_nll[real], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.asarray(entropy)[real], want_entropy[real], rtol=1e-4, atol=1e-5)
    assert not np.asarray(nll)[~real].any() and not np.asarray(entropy)[~real].any()
    assert want_nll[real].std() > 1 and want_entropy[real].max() < np.log(50)


def test_no_float32_logits_of_the_whole_length(params):
    batch = make_batch(np.random.default_rng(1), (64,) * 4, t=64)
    text = token_scores.lower(MODEL, params, batch, chunk=16).as_text()
    assert "4x16x50xf32" in text and "4x64x50xf32" not in text


def test_examples_come_back_in_order(params):
    rng = np.random.default_rng(2)
    examples = [
        Example(
            str(i),
            rng.integers(2, 50, rng.integers(1, 12)).astype(np.int32),
            rng.integers(1, 50, n).astype(np.int32),
            np.ones(n, np.float32),
        )
        for i, n in enumerate(rng.integers(1, 10, 13))
    ]
    scores = score_examples(MODEL, params, examples, (4, 12), (5, 10), batch_size=4)
    assert len(scores) == 13
    for example, (nll, entropy) in zip(examples, scores, strict=True):
        assert nll.shape == entropy.shape == example.targets.shape
    for i in (0, 5, 12):
        inputs = np.append(0, examples[i].targets[:-1])
        batch = {
            "encoder_input_tokens": examples[i].inputs[None],
            "decoder_input_tokens": inputs[None],
            "decoder_target_tokens": examples[i].targets[None],
        }
        for got, want in zip(scores[i], token_scores(MODEL, params, batch), strict=True):
            np.testing.assert_allclose(got, want[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError):
        score_examples(MODEL, params, examples, (4,), (5, 10))
