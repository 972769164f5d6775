"""Both engines against plain Python, id for id, and the promises they make."""

import collections
import dataclasses
import importlib.util
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asesjax.core.errors import UserError
from asesjax.decode import continuous, iterative
from asesjax.decode.predict import predict
from asesjax.decode.spec import FinishReason, Limits, make_input
from asesjax.models import t5
from asesjax.sharding.mesh import make_mesh
from asesjax.sharding.place import param_shardings, rules

_spec = importlib.util.spec_from_file_location("toy", Path(__file__).with_name("toy.py"))
toy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toy)
from_toy = ("C", "DECODERS", "L", "MODEL", "Q", "R", "ROWS", "SENTINEL", "SPEC", "VOCAB", "WIDE")
C, DECODERS, L, MODEL, Q, R, ROWS, SENTINEL, SPEC, VOCAB, WIDE = (
    getattr(toy, name) for name in from_toy
)
kinds, make_questions, reference, weights = (
    toy.kinds, toy.make_questions, toy.reference, toy.weights
)  # fmt: skip


@pytest.fixture(params=DECODERS, autouse=True)
def decoder(request):
    return DECODERS[request.param]


@pytest.fixture
def run(decoder):
    return lambda *args, **kwargs: toy.run(*args, decoder=decoder, **kwargs)


@pytest.fixture
def compare(decoder):
    return lambda *args, **kwargs: toy.compare(*args, decoder=decoder, **kwargs)


def n_compilations():
    return iterative.generate._cache_size() + continuous.run._cache_size()


@pytest.mark.parametrize("n_roles", [1, 2], ids=["USM", "DSM"])
def test_equals_python_with_sentinel(n_roles, compare):
    results = []
    for seed in (0, 1, 3, 5):
        params = tuple(weights(seed + 10 * role, eos=1.5) for role in range(n_roles))
        results += compare(params, make_questions(seed))
    count = kinds(results)
    for kind in (FinishReason.END, FinishReason.LENGTH, FinishReason.REPEATED, "several segments",
                 "chain full", "cut, went on", "ended by eos", "empty"):  # fmt: skip
        assert count[kind] >= 2, (kind, count)
    assert max(len(r.segments) for r in results) >= 4


def test_rounds_run_out(compare):
    params = (weights(0, eos=2.5), weights(2, eos=2.5))
    limits = Limits(3, L, C)
    results = []
    for seed in range(4):
        results += compare(params, make_questions(seed), limits)
    assert all(len(r.segments) <= 3 for r in results)  # three segments, not three of each role
    used_up = [r for r in results if r.finish_reason == FinishReason.LENGTH]
    uncut = [r for r in used_up if not r.cut_segments]
    assert len(uncut) >= 3 and all(len(r.segments) == 3 for r in uncut)


def test_equals_python_with_stop_ids(run, compare):
    params = (weights(0, eos=1.5),)
    questions = make_questions(0)
    free = run(params, questions, spec=dataclasses.replace(SPEC, sentinel_id=-1))
    pairs = collections.Counter(
        pair
        for r in free
        for s in r.segments
        for pair in set(zip(s, s[1:], strict=False))
        if pair[0] != pair[1]
    )
    pattern = pairs.most_common(1)[0][0]
    spec = dataclasses.replace(SPEC, sentinel_id=-1, stop_ids=pattern)
    results = compare(params, questions, spec=spec)
    done = [r for r in results if r.finish_reason == FinishReason.END]
    assert len(done) >= 3 and len(results) - len(done) >= 3
    for r in results:
        holds = [pattern in zip(s, s[1:], strict=False) for s in r.segments]
        assert (r in done) == any(holds) and not any(holds[:-1])  # whole segments, and none after
    # A pattern longer than a segment can never be found; one of a single id often.
    none = dataclasses.replace(spec, stop_ids=tuple(range(2, 14)))
    reasons = {r.finish_reason for r in run(params, questions, spec=none)}
    assert FinishReason.END not in reasons
    compare(params, questions, spec=dataclasses.replace(spec, stop_ids=pattern[:1]))


def test_single_segment(compare):
    spec = dataclasses.replace(SPEC, n_turns=1, segment_buffer=C, round_buffer=1)
    spec = dataclasses.replace(spec, sentinel_id=-1)
    results = []
    for seed in (0, 3, 5):
        results += compare((weights(seed, eos=1.5),), make_questions(seed), Limits(1, C, C), spec)
    count = kinds(results)
    assert count[FinishReason.END] >= 5 and count[FinishReason.LENGTH] >= 5
    assert {r.finish_reason for r in results} == {FinishReason.END, FinishReason.LENGTH}
    assert all(len(r.segments) <= 1 for r in results)


def test_rows_do_not_depend_on_their_mates(run):
    params = (weights(1, eos=1.5), weights(11, eos=1.5))
    questions = make_questions(1)
    together = run(params, questions)
    toy.same(run(params, questions[::-1])[::-1], together)
    for i in (0, 7, 19):
        toy.same(run(params, [questions[i]]), [together[i]])


def test_padding_rows_have_ended():
    inputs = make_input(np.zeros((ROWS, Q), int), WIDE, SPEC)
    output, _ = iterative.generate(MODEL, {"main": weights(0)}, inputs, SPEC)
    assert (np.asarray(output.finish_reason) == FinishReason.END).all()
    for name in ("length", "n_segments", "cut_segments", "generated_tokens"):
        assert not np.asarray(getattr(output, name)).any(), name


def test_limits_do_not_compile_and_smaller_ones_hold(run, compare):
    params, questions = (weights(2),), make_questions(2)
    run(params, questions)
    before = n_compilations()
    for limits in (Limits(1, 3, 5), Limits(2, L, 15), Limits(R, 1, C), Limits(np.int64(3), 4, 9)):
        compare(params, questions, limits)
        for r in run(params, questions, limits):
            assert len(r.segments) <= limits.max_rounds
            assert len(r.chain) <= limits.max_chain_tokens
            assert all(len(s) <= limits.max_segment_tokens for s in r.segments)
    assert n_compilations() == before
    run(params, questions, spec=dataclasses.replace(SPEC, vocab_limit=20))
    assert n_compilations() == before + 1  # the counter does count


def test_never_writes_pad_or_ids_beyond_the_tokenizer(run):
    params = weights(0)
    kernel = params["decoder"]["logits_dense"]["kernel"]
    # Make pad and the last row the largest logits nearly everywhere.
    kernel = kernel.at[:, 0].multiply(50).at[:, VOCAB + 1].multiply(-50)
    params["decoder"]["logits_dense"]["kernel"] = kernel
    for r in run((params,), make_questions(3)):
        assert all(0 < i < VOCAB for i in r.chain)


def test_logits_that_are_not_finite_end_their_row_alone(run):
    params = weights(1, eos=1.5)
    questions = make_questions(1)
    clean = run((params,), questions)
    poisoned = 19
    assert not any(poisoned in r.chain for r in clean)
    params["token_embedder"]["embedding"] = (
        params["token_embedder"]["embedding"].at[poisoned].set(jnp.nan)
    )
    hit = [poisoned in q for q in questions]
    assert 2 <= sum(hit) < ROWS
    for bad, before, r in zip(hit, clean, run((params,), questions), strict=True):
        if bad:
            assert r.finish_reason == FinishReason.NONFINITE
            assert not r.cut_segments and r.tokens == 1 and not r.chain
            assert r.log_probability == 0
        else:
            toy.same([r], [before])
    direct = dataclasses.replace(SPEC, n_turns=1)
    for bad, r in zip(hit, run((params,), questions, spec=direct), strict=True):
        assert (r.finish_reason == FinishReason.NONFINITE) == bad


def test_bounds_beyond_the_buffers_are_refused(run):
    questions = make_questions(0)
    for limits in (Limits(R + 1, L, C), Limits(R, L + 1, C), Limits(R, L, C + 1), Limits(0, L, C)):
        with pytest.raises(UserError, match="must be from 1 to"):
            run((weights(0),), questions, limits)
    budgets = np.full(ROWS, C)
    budgets[3] = 0
    with pytest.raises(UserError, match=r"max_chain_tokens must be from 1 to 40, got 0 \(row 3\)"):
        run((weights(0),), questions, Limits(R, L, budgets))


def test_predict_keeps_order_and_pads_to_few_shapes(decoder):
    params = {"main": weights(3, eos=1.5)}
    questions = make_questions(8, rows=31)
    own = dataclasses.replace(decoder, batch_size=8, buckets=(6, Q))
    before = n_compilations()
    got = predict(MODEL, params, questions, WIDE, SPEC, own)
    # One for each bucket, or one for all.
    assert n_compilations() == before + (2 if own.plain else 1)
    for question, g in zip(questions, got, strict=True):
        want = reference.decode(MODEL, params, question, WIDE, SPEC)
        if want.smallest_margin < 1e-3:
            continue
        assert [s.tolist() for s in g.segments] == want.segments
        assert g.ids.tolist() == want.chain and g.tokens == want.tokens
        assert (g.finish_reason, g.cut_segments) == (want.finish_reason, want.cut_segments)
        json.dumps([g.finish_reason, g.cut_segments, g.tokens, g.log_probability])
    assert len({len(g.segments) for g in got}) > 2
    assert predict(MODEL, params, [], WIDE, SPEC, own) == []


def test_predict_refuses_long_and_empty_questions(decoder):
    good = np.arange(2, 8)
    with pytest.raises(UserError, match="question 1 has 13 tokens.* 1 to 12"):
        predict(MODEL, {"main": weights(0)}, [good, np.arange(2, 15)], WIDE, SPEC, decoder)
    with pytest.raises(UserError, match="question 1 has 0 tokens"):
        predict(MODEL, {"main": weights(0)}, [good, good[:0]], WIDE, SPEC, decoder)


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 1, 2)], ids=str)
def test_predict_on_many_devices(decoder, shape):
    params, spec = toy.with_roles((weights(3, eos=1.5), weights(13, eos=1.5)), SPEC)
    questions = make_questions(8, rows=21)
    own = dataclasses.replace(decoder, batch_size=8)
    alone = predict(MODEL, params, questions, WIDE, spec, own)
    mesh = make_mesh(*shape, devices=jax.devices()[: math.prod(shape)])
    on = param_shardings(mesh, rules("fsdp_tp"), t5.logical_axes(MODEL), params["es"])
    placed = {role: jax.device_put(tree, on) for role, tree in params.items()}
    before = n_compilations()
    spread = predict(MODEL, placed, questions, WIDE, spec, own, mesh=mesh)
    assert n_compilations() == before + 1
    for question, a, b in zip(questions, alone, spread, strict=True):
        if reference.decode(MODEL, params, question, WIDE, spec).smallest_margin > 1e-3:
            assert a.ids.tolist() == b.ids.tolist() and a.finish_reason == b.finish_reason
