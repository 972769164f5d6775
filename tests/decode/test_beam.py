"""Beam search: against exhaustive search and the greedy engine, and the promises it makes.

``tests/parity/test_beam.py`` holds it to transformers.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asesjax.config import base_config, finish
from asesjax.core.errors import UserError
from asesjax.data.vocab import ByteVocabulary
from asesjax.decode import iterative
from asesjax.decode.beam import beam_search
from asesjax.decode.predict import Decoder, predict
from asesjax.decode.spec import DecodeSpec, FinishReason, Limits, Turn, make_input
from asesjax.evals.runner import decode_spec
from asesjax.methods.method import make_method
from asesjax.models import t5
from asesjax.models.t5_config import T5Config
from asesjax.sharding.mesh import make_mesh

MODEL = T5Config(
    24, d_model=16, d_kv=8, d_ff=32, n_heads=2, n_encoder_layers=1, n_decoder_layers=1, tied=False
)
LIMIT, S, T = 22, 12, 10


def weights(seed=0, eos=1.5):
    """Random weights so large that what is written depends on what was read."""
    params = t5.init(MODEL, jax.random.key(seed))
    params = jax.tree.map(lambda x: x * 2.0 if x.ndim == 2 else x, params)
    kernel = params["decoder"]["logits_dense"]["kernel"]
    params["decoder"]["logits_dense"]["kernel"] = kernel.at[:, 1].multiply(eos)
    return params


def make_sources(seed=0, rows=32):
    rng = np.random.default_rng(seed)
    out = np.zeros((rows, S), np.int32)
    for row in out:
        n = rng.integers(1, S)
        row[:n] = rng.integers(2, LIMIT, n)
        row[n] = 1
    return out


def search(params, sources, n=T, **spec):
    spec = DecodeSpec(LIMIT, T, T, 1, **{"beams": 4, **spec})
    return jax.device_get(beam_search(MODEL, params, sources, n, spec))


def every_target(config, params, source, limit, n, penalty):
    """Score all targets of at most n ids one by one, teacher-forced: [(score, ids)], best first."""
    texts = [
        ids + ((1,) if len(ids) < n else ())
        for length in range(n + 1)
        for ids in itertools.product(range(2, limit), repeat=length)
    ]
    targets = np.zeros((len(texts), n), np.int32)
    for row, ids in zip(targets, texts, strict=True):
        row[: len(ids)] = ids
    inputs = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    sources = np.repeat(source[None], len(texts), axis=0)
    batch = {"encoder_input_tokens": sources, "decoder_input_tokens": inputs}
    hidden = t5.forward(config, params, batch)
    log_p = jax.nn.log_softmax(t5.logits(config, params, hidden))
    log_p = np.asarray(jnp.take_along_axis(log_p, targets[:, :, None], axis=2))[:, :, 0]
    total = np.sum(log_p * (targets != 0), axis=1)
    scores = [t / len(ids) ** penalty for t, ids in zip(total, texts, strict=True)]
    return sorted(zip(scores, texts, strict=True), reverse=True)


def test_enough_beams_find_what_exhaustive_search_finds():
    penalty = 0.0  # with another the search may stop before it has seen all
    small = dataclasses.replace(MODEL, vocab_size=8)
    params = jax.tree.map(lambda x: x * 1.5, t5.init(small, jax.random.key(3)))
    limit, n = 5, 4  # 1 ends, 2 to 4 are text: 121 targets
    sources = np.array([[4, 2, 1, 0], [3, 1, 0, 0], [2, 2, 4, 1]], np.int32)
    spec = DecodeSpec(limit, n, n, 1, beams=128, length_penalty=penalty)
    found = jax.device_get(beam_search(small, params, sources, n, spec))
    for row, source in enumerate(sources):
        want = every_target(small, params, source, limit, n, penalty)
        assert len(want) == 121
        np.testing.assert_allclose(found.score[row, :121], [s for s, _ in want], rtol=1e-4)
        got = [
            (
                *found.ids[row, i, : found.length[row, i]].tolist(),
                *[1] * int((found.end != 0)[row, i]),
            )
            for i in range(121)
        ]
        assert set(got) == {ids for _, ids in want}
        for i in range(20):  # in order, but for ties by rounding
            if want[i][0] - want[i + 1][0] > 1e-4:
                assert set(got[: i + 1]) == {ids for _, ids in want[: i + 1]}


def test_scores_are_log_probabilities_over_length():
    params, sources = weights(), make_sources()
    found = search(params, sources, length_penalty=0.6)
    n = found.length + (found.end != 0)
    np.testing.assert_allclose(found.score, found.log_probability / n**0.6, rtol=1e-5)
    assert (np.diff(found.score, axis=1) <= 0).all()
    inputs = np.pad(found.ids[:, 0], ((0, 0), (1, 0)))
    batch = {"encoder_input_tokens": sources, "decoder_input_tokens": inputs}
    logits = t5.logits(MODEL, params, t5.forward(MODEL, params, batch))
    log_p = np.asarray(jax.nn.log_softmax(logits))
    for row in range(len(sources)):
        ids = [*found.ids[row, 0, : found.length[row, 0]], *[1] * int(found.end[row, 0] > 0)]
        want = sum(log_p[row, i, token] for i, token in enumerate(ids))
        assert found.log_probability[row, 0] == pytest.approx(want, rel=1e-4, abs=1e-4)


def test_one_beam_is_greedy():
    params, sources = weights(), make_sources()
    questions = np.where(sources == 1, 0, sources)[:, : S - 1]
    limits = Limits(1, 8, 8)
    greedy = DecodeSpec(LIMIT, T, T, 1, n_turns=1)
    inputs = make_input(questions, limits, greedy)
    want, _ = jax.device_get(iterative.generate(MODEL, {"main": params}, inputs, greedy))
    got = search(params, sources, 8, beams=1)
    done = want.finish_reason == FinishReason.END
    assert 0 < done.sum() < len(sources)
    np.testing.assert_array_equal((got.end != 0)[:, 0], done)
    for name in ("ids", "length"):
        np.testing.assert_array_equal(getattr(got, name)[:, 0], getattr(want, name), err_msg=name)
    np.testing.assert_array_equal(got.steps, want.generated_tokens)
    # Of the ids that may be written, there; of all rows, here.
    assert (got.log_probability[:, 0] <= want.log_probability + 1e-4).all()


@pytest.mark.parametrize("n_roles", [1, 2], ids=["USM", "DSM"])
def test_segments_by_search_equal_a_plain_loop(n_roles):
    several, ends = 0, []
    for seed in (1, 2):
        params = tuple(weights(seed + 5 * role, eos=1.5) for role in range(n_roles))
        got, more = _by_search(params)
        several += more
        ends += [g.finish_reason for g in got]
    assert several >= 12
    assert set(ends) == {FinishReason.END, FinishReason.REPEATED, FinishReason.LENGTH}


def _by_search(params):
    sentinel, room, rounds = 20, 30, 4
    questions = [row[: np.argmax(row == 1)] for row in make_sources(3, rows=24)]
    turns = tuple(Turn(str(role)) for role in range(len(params)))
    spec = DecodeSpec(LIMIT, room, 6, rounds, sentinel_id=sentinel, turns=turns, beams=3,
                      length_penalty=0.5)  # fmt: skip
    budgets = np.arange(24) % 4 + 3  # of a segment, another for every row
    limits = Limits(rounds, budgets, room)
    by_role = {str(role): tree for role, tree in enumerate(params)}
    got = predict(MODEL, by_role, questions, limits, spec, Decoder(9, (S,)))
    several = 0
    for question, budget, g in zip(questions, budgets, got, strict=True):
        segments, reason, cut, total = [], FinishReason.LENGTH, 0, 0.0
        for n_round in range(rounds):
            chain = [i for segment in segments for i in segment]
            source = np.array([[*question, *chain, 1]], np.int32)
            source = np.pad(source, ((0, 0), (0, S + room + 1 - source.shape[1])))
            found = jax.device_get(
                beam_search(MODEL, params[n_round % len(params)], source, int(budget), spec)
            )
            ids = found.ids[0, 0, : found.length[0, 0]].tolist()
            total += float(found.log_probability[0, 0])
            cut += not found.end[0, 0]
            if found.end[0, 0] == sentinel:
                reason = FinishReason.END
            elif not ids or (segments and ids == segments[-1]):
                reason = FinishReason.REPEATED
                break
            segments += [ids] if ids else []
            if reason == FinishReason.END:
                break
        assert [segment.tolist() for segment in g.segments] == segments
        assert (g.finish_reason, g.cut_segments) == (reason, cut)
        assert g.log_probability == pytest.approx(total, rel=1e-4, abs=1e-4)
        several += len(segments) > 1
    return got, several


def test_more_beams_never_find_less_here():
    params, sources = weights(), make_sources()
    totals = [search(params, sources, beams=k, length_penalty=0.0) for k in (1, 4)]
    one, four = (found.log_probability[:, 0] for found in totals)
    assert four.mean() > one.mean() + 0.01


def test_rows_do_not_see_each_other():
    params, sources = weights(), make_sources()
    together = search(params, sources)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(sources))
    turned = search(params, sources[order])
    empty = np.zeros((5, S), np.int32)
    fewer = search(params, np.concatenate([sources[:3], empty]))
    wide = search(params, np.pad(sources, ((0, 0), (0, 4))))
    for name in ("ids", "length", "end", "steps"):
        whole = getattr(together, name)
        np.testing.assert_array_equal(getattr(turned, name), whole[order])
        np.testing.assert_array_equal(getattr(fewer, name)[:3], whole[:3])
        np.testing.assert_array_equal(getattr(wide, name), whole)
        assert not getattr(fewer, name)[3:].any()
    assert len(set(together.steps.tolist())) > 3  # rows stop by themselves


def test_ids_beyond_the_limit_and_padding_are_never_written():
    params = weights()
    kernel = params["decoder"]["logits_dense"]["kernel"]
    for i in (0, 22, 23):  # loud ids
        kernel = kernel.at[:, i].multiply(4.0)
    params["decoder"]["logits_dense"]["kernel"] = kernel
    found = search(params, make_sources())
    assert found.ids.max() < LIMIT
    written = np.arange(T) < found.length[:, :, None]
    np.testing.assert_array_equal(found.ids != 0, written)


def test_a_budget_is_no_compilation():
    params, sources = weights(), make_sources()
    search(params, sources)
    before = beam_search._cache_size()
    for n in (1, 3, 7):
        found = search(params, sources, n)
        length = found.length + (found.end != 0)
        assert length.max() == n and found.steps.max() == n
    assert beam_search._cache_size() == before
    search(params, sources, beams=2)
    assert beam_search._cache_size() == before + 1


def test_logits_that_are_not_finite_end_their_row_alone():
    params, sources = weights(), make_sources()
    want = search(params, sources)
    params["token_embedder"]["embedding"] = (
        params["token_embedder"]["embedding"].at[23].set(jnp.nan)
    )
    sources[2, 0] = 23
    found = search(params, sources)
    assert found.nonfinite.tolist() == [row == 2 for row in range(len(sources))]
    assert not found.length[2].any() and not (found.end != 0)[2].any()
    others = np.arange(len(sources)) != 2
    np.testing.assert_array_equal(found.ids[others], want.ids[others])


def test_predict_searches_over_a_mesh_too():
    params = weights()
    questions = [row[: np.argmax(row == 1)] for row in make_sources(rows=21)]
    spec = DecodeSpec(LIMIT, T, T, 1, n_turns=1, beams=3)
    args = (MODEL, {"main": params}, questions, Limits(1, T, T), spec, Decoder(8, (6, S)))
    one = predict(*args)
    reasons = [answer.finish_reason for answer in one]
    assert set(reasons) == {FinishReason.END, FinishReason.LENGTH}
    for answer in one:
        assert answer.cut_segments == (answer.finish_reason == FinishReason.LENGTH)
        assert len(answer.segments) == bool(len(answer.ids))
        assert all((segment == answer.ids).all() for segment in answer.segments)
        assert answer.token_log_probability.sum() >= answer.log_probability - 1e-4
        assert (answer.token_log_probability < 0).all()
    for got, want in zip(predict(*args, mesh=make_mesh()), one, strict=True):
        np.testing.assert_array_equal(got.ids, want.ids)
        assert (got.finish_reason, got.tokens) == (want.finish_reason, want.tokens)


def test_configuration_chooses_beam_search():
    vocab = ByteVocabulary(3)
    fields = {"decode.beams": "4", "decode.length_penalty": "0.6", "decode.max_chain_tokens": "9"}
    config = finish(base_config(), fields)
    for name in ("direct", "answer_only", "usm", "dsm"):
        spec, limits = decode_spec(make_method(name, config), vocab)
        assert (spec.beams, spec.length_penalty) == (4, 0.6)
        assert limits.max_chain_tokens == 9
        plain, _ = decode_spec(make_method(name, finish(base_config())), vocab)
        assert plain.beams == 1
    with pytest.raises(UserError, match="decode.beams must be at least 1 .*, got 0"):
        finish(base_config(), {"decode.beams": "0"})


def test_length_penalty_must_be_finite():
    with pytest.raises(UserError, match="decode.length_penalty must be finite"):
        DecodeSpec(LIMIT, T, T, 1, beams=2, length_penalty=float("inf"))
