"""Beam search against transformers' ``generate``, hypothesis for hypothesis."""

import functools
import os
import tempfile

import numpy as np
import pytest

from asesjax.decode import beam
from asesjax.decode.spec import DecodeSpec, Turn
from asesjax.models.hf_io import load_params

if os.environ.get("ASESJAX_REQUIRE_DATA") == "1":  # CI: a skip would be a failure
    import torch
    import transformers
else:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

torch.set_num_threads(1)  # these models are too small to share among threads
ROWS, S, T = 120, 12, 12
V, LIMIT = 40, 37


@functools.cache
def models(tied):
    """A random transformers T5 and ours with the same weights."""
    torch.manual_seed(11 + tied)
    shape = transformers.T5Config(
        vocab_size=V, d_model=16, d_kv=6, d_ff=32, num_heads=3, num_layers=2,
        dropout_rate=0.0, feed_forward_proj="relu" if tied else "gated-gelu",
        tie_word_embeddings=tied, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
        initializer_factor=1.5,
    )  # fmt: skip
    theirs = transformers.T5ForConditionalGeneration(shape).eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if "layer_norm" in name:
                weight.mul_(1 + 0.1 * torch.randn_like(weight))
            if "EncDecAttention" in name:
                weight.mul_(1.5)  # what is written shall depend on what was read
        # Close calls, and an end mark that neither always wins nor never does.
        head = theirs.shared.weight if tied else theirs.lm_head.weight
        head.mul_(0.5 if tied else 0.2)
        head[1].mul_(4.0 if tied else 2.0)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        config, params = load_params(folder)
    assert config.tied == tied
    return theirs, config, params


def cut(row, ends):
    n = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
    return row[:n]


def search_theirs(model, sources, n, k, penalty, ends):
    """Ids of all hypotheses up to their end mark, and their scores where there is a search."""
    tokens = torch.from_numpy(sources).long()
    out = model.generate(
        tokens, attention_mask=(tokens != 0).long(), do_sample=False, num_beams=k,
        num_return_sequences=k, max_new_tokens=n, return_dict_in_generate=True, output_scores=True,
        suppress_tokens=[0, *range(LIMIT, V)], eos_token_id=list(ends),
        **({"length_penalty": penalty} if k > 1 else {}),
    )  # fmt: skip
    # What follows an end mark is filled with padding by the greedy search, with end marks by this.
    rows = [cut(row[1:], ends) for row in out.sequences.tolist()]
    scores = out.sequences_scores.numpy().reshape(-1, k) if k > 1 else None
    return [rows[i : i + k] for i in range(0, len(rows), k)], scores


def search_ours(config, params, sources, n, k, penalty, ends):
    turns = tuple(Turn(mark=mark) for mark in ends[1:]) or (Turn(),)
    spec = DecodeSpec(LIMIT, T, T, 1, turns=turns, beams=k, length_penalty=penalty)
    found = beam.beam_search(config, params, sources, n, spec)
    ids, length, end = (np.asarray(x) for x in (found.ids, found.length, found.end))
    assert not ids[np.arange(T) >= length[:, :, None]].any()
    rows = [
        [ids[b, i, : length[b, i]].tolist() + [end[b, i]] * int(end[b, i] > 0) for i in range(k)]
        for b in range(len(ids))
    ]
    return rows, found


# Every value of every setting, and those that act together, spread over the two models.
@pytest.mark.parametrize(
    "tied,k,penalty,ends",
    [
        (True, 1, 1.0, (1,)),
        (True, 2, 0.0, (1,)),
        (True, 4, 1.0, (1,)),
        (True, 5, 0.6, (1,)),
        (False, 1, 1.0, (1,)),
        (False, 2, -1.0, (1,)),
        (False, 4, 2.0, (1,)),
        (False, 5, 2.0, (1,)),
        (False, 5, 0.0, (1,)),
        (False, 4, 1.0, (1, 5)),
        (True, 3, 0.6, (1, 5, 7)),
    ],
)
def test_hypotheses_and_scores_are_those_of_transformers(hf, tied, k, penalty, ends):
    theirs, config, params = models(tied)
    sources = hf.prompts(k, ROWS, S, LIMIT)
    for bound in (T, 5):
        want, scores = search_theirs(theirs, sources, bound, k, penalty, ends)
        got, found = search_ours(config, params, sources, bound, k, penalty, ends)
        assert got == want
        if k > 1:
            np.testing.assert_allclose(found.score, scores, rtol=1e-4, atol=1e-5)
        if bound == T:  # what was compared was of many kinds
            every = [ids for row in got for ids in row]
            assert 0.03 < np.mean([ids[-1] in ends for ids in every]) < 0.9
            assert len(set(map(len, every))) > 2
            assert len({tuple(row[0]) for row in got}) > ROWS / 4
