"""The compiled engine against plain Python, id for id, and the promises it makes."""

import collections
import dataclasses
import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asesjax.core.errors import UserError
from asesjax.decode import iterative
from asesjax.decode.iterative import DecodeSpec, Limits, choose_token, generate
from asesjax.decode.predict import predict
from asesjax.models import t5
from asesjax.models.t5_config import T5Config
from asesjax.sharding.mesh import make_mesh
from asesjax.sharding.place import param_shardings
from asesjax.sharding.rules import rules

_path = Path(__file__).with_name("reference.py")
_spec = importlib.util.spec_from_file_location("reference", _path)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

MODEL = T5Config(
    24, d_model=16, d_kv=8, d_ff=32, n_heads=2, n_encoder_layers=1, n_decoder_layers=1, tied=False
)
SENTINEL, VOCAB = 21, 22
Q, C, L, R = 12, 40, 10, 8
SPEC = DecodeSpec(VOCAB, C, L, R, sentinel_id=SENTINEL)
WIDE = Limits(R, L, C)
ROWS = 24


def weights(seed, eos=1.0):
    """Random weights so large that what is written depends on what was read."""

    def scale(path, x):
        name = jax.tree_util.keystr(path)
        return x * (3.0 if "rel_embedding" in name else 2.5 if "kernel" in name else 1.0)

    params = jax.tree_util.tree_map_with_path(scale, t5.init(MODEL, jax.random.key(seed)))
    kernel = params["decoder"]["logits_dense"]["kernel"]
    params["decoder"]["logits_dense"]["kernel"] = kernel.at[:, 1].multiply(eos)
    return params


def make_questions(seed, rows=ROWS):
    rng = np.random.default_rng(seed)
    return [rng.integers(2, 20, rng.integers(1, Q + 1)).astype(np.int32) for _ in range(rows)]


def as_array(questions, rows=ROWS, length=Q):
    out = np.zeros((rows, length), np.int32)
    for row, question in zip(out, questions, strict=False):
        row[: len(question)] = question
    return out


def run(params, questions, limits=WIDE, spec=SPEC):
    chains = jax.device_get(generate(MODEL, params, as_array(questions), limits, spec))
    return [_row(chains, i) for i in range(len(questions))]


def _row(chains, i):
    ends = chains.segment_ends[i, : chains.n_segments[i]].tolist()
    assert not chains.ids[i, chains.length[i] :].any()
    assert not chains.segment_ends[i, chains.n_segments[i] :].any()
    assert ends == sorted(ends) and (ends[-1] if ends else 0) == chains.length[i]
    return reference.Result(
        segments=[chains.ids[i, a:b].tolist() for a, b in zip([0, *ends], ends, strict=False)],
        done=bool(chains.done[i]),
        truncated=bool(chains.truncated[i]),
        repeated=bool(chains.repeated[i]),
        broken=bool(chains.broken[i]),
        tokens=int(chains.generated_tokens[i]),
        log_probability=float(chains.log_probability[i]),
    )


def compare(params, questions, limits=WIDE, spec=SPEC):
    """Demand equality on every row that no rounding could turn, and nearly all must be such."""
    clear = 0
    wants = []
    for question, got in zip(questions, run(params, questions, limits, spec), strict=True):
        want = reference.decode(MODEL, params, question, limits, spec)
        if want.smallest_margin < 1e-3:
            continue
        clear += 1
        wants.append(want)
        assert got.log_probability == pytest.approx(want.log_probability, rel=1e-4, abs=1e-3)
        same = dict(smallest_margin=np.inf, log_probability=0.0)
        assert dataclasses.replace(got, **same) == dataclasses.replace(want, **same)
    assert clear >= 0.9 * len(questions)
    return wants


def kinds(results):
    """How the chains ended, and how long they were."""
    count = collections.Counter()
    for r in results:
        count["done"] += r.done
        count["truncated"] += r.truncated
        count["repeated"] += r.repeated
        count["several segments"] += len(r.segments) > 1
        count["chain full"] += len(r.chain) == C
        count["cut, went on"] += any(len(s) == L for s in r.segments[:-1])
        count["ended by eos"] += any(len(s) < L for s in r.segments[:-1])
        count["empty"] += r.repeated and r.tokens == len(r.chain) + len(r.segments) + 1
    return count


@pytest.mark.parametrize("phases", [1, 2], ids=["USM", "DSM"])
def test_equals_python_with_sentinel(phases):
    results = []
    for seed in (0, 1, 3, 5):
        params = tuple(weights(seed + 10 * phase, eos=1.5) for phase in range(phases))
        results += compare(params, make_questions(seed))
    count = kinds(results)
    for kind in ("done", "truncated", "repeated", "several segments", "chain full",
                 "cut, went on", "ended by eos", "empty"):  # fmt: skip
        assert count[kind] >= 2, (kind, count)
    assert max(len(r.segments) for r in results) >= 4


def test_rounds_run_out():
    params = (weights(0, eos=2.5), weights(2, eos=2.5))
    limits = Limits(3, L, C)
    results = []
    for seed in range(4):
        results += compare(params, make_questions(seed), limits)
    assert all(len(r.segments) <= 3 for r in results)  # three segments, not three of each phase
    used_up = [r for r in results if len(r.segments) == 3 and not r.done and not r.repeated]
    uncut = [r for r in used_up if all(len(s) < L for s in r.segments)]
    assert len(uncut) >= 3 and all(r.truncated for r in used_up)


def test_equals_python_with_stop_ids():
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
    done = [r for r in results if r.done]
    assert len(done) >= 3 and len(results) - len(done) >= 3
    for r in results:
        holds = [pattern in zip(s, s[1:], strict=False) for s in r.segments]
        assert r.done == any(holds) and not any(holds[:-1])  # whole segments, and none after
    # A pattern longer than a segment can never be found; one of a single id often.
    none = dataclasses.replace(spec, stop_ids=tuple(range(2, 14)))
    assert not any(r.done for r in run(params, questions, spec=none))
    compare(params, questions, spec=dataclasses.replace(spec, stop_ids=pattern[:1]))


def test_single_segment():
    spec = dataclasses.replace(SPEC, single_segment=True, segment_buffer=C, round_buffer=1)
    spec = dataclasses.replace(spec, sentinel_id=-1)
    results = []
    for seed in (0, 3, 5):
        results += compare((weights(seed, eos=1.5),), make_questions(seed), Limits(1, C, C), spec)
    assert sum(r.done for r in results) >= 5 and sum(r.truncated for r in results) >= 5
    assert all(r.done != r.truncated for r in results)
    assert all(len(r.segments) <= 1 for r in results)


def test_rows_do_not_depend_on_their_mates():
    params = (weights(1, eos=1.5), weights(11, eos=1.5))
    questions = make_questions(1)
    together = run(params, questions)
    assert run(params, questions[::-1])[::-1] == together
    for i in (0, 7, 19):
        assert run(params, [questions[i]]) == [together[i]]  # among rows of padding


def test_padding_rows_are_done_at_once():
    chains = generate(MODEL, (weights(0),), as_array([]), WIDE, SPEC)
    assert np.asarray(chains.done).all()
    for name in ("truncated", "repeated", "broken", "length", "n_segments", "generated_tokens"):
        assert not np.asarray(getattr(chains, name)).any(), name


def test_limits_do_not_compile_and_smaller_ones_hold():
    params, questions = (weights(2),), make_questions(2)
    run(params, questions)
    before = iterative.n_compilations()
    for limits in (Limits(1, 3, 5), Limits(2, L, 15), Limits(R, 1, C), Limits(np.int64(3), 4, 9)):
        compare(params, questions, limits)
        for r in run(params, questions, limits):
            assert len(r.segments) <= limits.max_rounds
            assert len(r.chain) <= limits.max_chain_tokens
            assert all(len(s) <= limits.max_segment_tokens for s in r.segments)
    assert iterative.n_compilations() == before
    run(params, questions, spec=dataclasses.replace(SPEC, vocab_limit=20))
    assert iterative.n_compilations() == before + 1  # the counter does count


def test_never_writes_pad_or_ids_beyond_the_tokenizer():
    params = weights(0)
    kernel = params["decoder"]["logits_dense"]["kernel"]
    # Make pad and the last row the largest logits nearly everywhere.
    kernel = kernel.at[:, 0].multiply(50).at[:, VOCAB + 1].multiply(-50)
    params["decoder"]["logits_dense"]["kernel"] = kernel
    for r in run((params,), make_questions(3)):
        assert all(0 < i < VOCAB for i in r.chain)


def test_not_finite_logits_break_their_row_alone():
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
            assert r.broken and not r.done and not r.truncated and r.tokens == 1 and not r.chain
            assert r.log_probability == 0
        else:
            assert r == before
    direct = dataclasses.replace(SPEC, single_segment=True)
    for bad, r in zip(hit, run((params,), questions, spec=direct), strict=True):
        assert r.broken == bad and not (bad and r.done)


def test_bounds_beyond_the_buffers_are_refused():
    for limits in (Limits(R + 1, L, C), Limits(R, L + 1, C), Limits(R, L, C + 1), Limits(0, L, C)):
        with pytest.raises(UserError, match="must be from 1 to"):
            generate(MODEL, (weights(0),), as_array([]), limits, SPEC)


def test_choose_token():
    logits = np.log([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]])
    ids, log_probability = choose_token(jnp.asarray(logits + 3))
    assert ids.tolist() == [1, 0]
    np.testing.assert_allclose(np.exp(log_probability), [0.5, 0.4], rtol=1e-5)


def test_predict_keeps_order_and_pads_to_few_shapes():
    params = (weights(3, eos=1.5),)
    questions = make_questions(8, rows=31)
    buckets = (6, Q)
    before = iterative.n_compilations()
    got = predict(MODEL, params, questions, WIDE, SPEC, 8, buckets)
    assert iterative.n_compilations() == before + 2
    for question, g in zip(questions, got, strict=True):
        want = reference.decode(MODEL, params, question, WIDE, SPEC)
        if want.smallest_margin < 1e-3:
            continue
        assert [s.tolist() for s in g.segments] == want.segments
        assert g.ids.tolist() == want.chain and g.tokens == want.tokens
        assert (g.done, g.truncated, g.repeated) == (want.done, want.truncated, want.repeated)
        json.dumps([g.done, g.truncated, g.repeated, g.broken, g.tokens, g.log_probability])
    assert len({len(g.segments) for g in got}) > 2
    assert predict(MODEL, params, [], WIDE, SPEC, 8, buckets) == []


def test_predict_refuses_long_and_empty_questions():
    good = np.arange(2, 8)
    with pytest.raises(UserError, match="question 1 has 13 tokens.* 1 to 12"):
        predict(MODEL, (weights(0),), [good, np.arange(2, 15)], WIDE, SPEC, 8, (6, Q))
    with pytest.raises(UserError, match="question 1 has 0 tokens"):
        predict(MODEL, (weights(0),), [good, good[:0]], WIDE, SPEC, 8, (6, Q))


def test_predict_on_eight_devices():
    params = (weights(3, eos=1.5),)
    questions = make_questions(8, rows=12)
    alone = predict(MODEL, params, questions, WIDE, SPEC, 16, (Q,))
    mesh = make_mesh(2, 2, 2)
    shardings = param_shardings(mesh, rules("fsdp_tp"), t5.logical_axes(MODEL), params[0])
    placed = (jax.device_put(params[0], shardings),)
    spread = predict(MODEL, placed, questions, WIDE, SPEC, 16, (Q,), mesh=mesh)
    for question, a, b in zip(questions, alone, spread, strict=True):
        if reference.decode(MODEL, params, question, WIDE, SPEC).smallest_margin > 1e-3:
            assert a.ids.tolist() == b.ids.tolist() and a.done == b.done
