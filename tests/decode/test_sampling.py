"""Drawn ids against the exact distribution, and what a draw may depend on."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from asesjax.config import base_config, finish
from asesjax.core.errors import UserError
from asesjax.decode.sampling import (
    SAMPLERS,
    RandomSampler,
    _first_above,
    greedy,
    log_probability,
)
from asesjax.decode.spec import FinishReason, Limits, row_keys

_spec = importlib.util.spec_from_file_location("toy", Path(__file__).with_name("toy.py"))
toy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toy)

draw = jax.jit(lambda sampler, *args: sampler(*args), static_argnums=0)


def exact(logits, sampling):
    """The distribution after temperature, top k and top p, by sorting, in float64."""
    scores = np.asarray(logits, np.float64) / sampling.temperature
    if sampling.top_k and sampling.top_k < len(scores):
        scores = np.where(scores >= np.sort(scores)[-sampling.top_k], scores, -np.inf)
    p = np.exp(scores - scores.max())
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    # Fewest that reach the share, and those as probable as the last of them.
    needed = np.searchsorted(np.cumsum(p[order]), sampling.top_p - 1e-7)
    p = np.where(p >= p[order[min(needed, len(p) - 1)]] - 1e-12, p, 0)
    return p / p.sum()


def test_the_greedy_sampler_takes_the_most_probable():
    logits = jnp.asarray(np.log([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]]) + 3)
    ids = greedy(logits, None, None)
    assert ids.tolist() == [1, 0]
    np.testing.assert_allclose(np.exp(log_probability(logits, ids)), [0.5, 0.4], rtol=1e-5)


def test_where_rounding_leaves_no_sum_above_it_is_the_last_possible_id():
    place, _ = _first_above(jnp.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]), jnp.array([0.3, 1.0]))
    assert place.tolist() == [0, 1]


def test_samplers_are_registered_and_hashable():
    assert list(SAMPLERS)[:2] == ["greedy", "sample"]
    options = base_config().decode
    assert SAMPLERS.get("greedy")(options) is greedy
    assert SAMPLERS.get("sample")(options) == RandomSampler()
    assert hash(RandomSampler(0.5)) == hash(RandomSampler(0.5)) != hash(RandomSampler(0.6))


def test_every_row_sample_and_seed_draws_for_itself():
    keys = [row_keys(seed, np.arange(3), sample) for seed in (0, 1) for sample in (0, 1)]
    assert len(np.unique(np.concatenate(keys), axis=0)) == 12


@pytest.mark.parametrize("temperature", [0.6, 0.8, 1.3])
def test_logits_are_divided_by_the_temperature(temperature):
    """To the bit, as if it were not compiled in: draws must not depend on the compiler."""
    logits = jnp.asarray(np.random.default_rng(0).normal(0, 3, (64, 300)), jnp.float32)
    keys, steps = row_keys(0, np.arange(64)), np.zeros(64, np.int32)
    scaled = jnp.asarray(np.asarray(logits) / np.float32(temperature))
    want = draw(RandomSampler(), scaled, keys, steps)
    np.testing.assert_array_equal(draw(RandomSampler(temperature), logits, keys, steps), want)


@pytest.mark.parametrize(
    "sampling",
    [RandomSampler(*options) for options in ((), (0.6,), (2.0, 7), (1.0, 0, 0.7), (1.5, 20, 0.9))],
    ids=str,
)
@pytest.mark.parametrize("n_ids", [5, 300])  # fewer ids than a block, and several blocks
def test_draws_follow_the_distribution(sampling, n_ids):
    n = 40_000
    logits = np.random.default_rng(n_ids).normal(0, 0.8, n_ids).astype(np.float32)
    logits[3] = -np.inf
    keys = row_keys(1, np.arange(1000))
    rows = jnp.tile(jnp.asarray(logits), (1000, 1))
    drawn = [np.asarray(draw(sampling, rows, keys, np.full(1000, i))) for i in range(n // 1000)]
    count = np.bincount(np.concatenate(drawn), minlength=n_ids)
    p = exact(logits, sampling)
    assert not count[p == 0].any() and p[3] == 0
    # Ids expected fewer than five times are counted together.
    often = p * n >= 5
    seen = np.append(count[often], count[~often].sum())
    wanted = np.append(p[often], p[~often].sum()) * n
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    assert stats.chisquare(seen, wanted * (n / wanted.sum())).pvalue > 1e-3


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-8, 8, width=16), min_size=2, max_size=6),
    st.sampled_from([(0, 1.0), (1, 1.0), (3, 1.0), (0, 0.05), (0, 0.4), (0, 0.9), (3, 0.6)]),
    st.integers(0, 2**31),
)
def test_only_ids_that_are_left_are_drawn(values, kept, seed):
    logits = np.asarray(values, np.float32)
    sampling = RandomSampler(1.0, *kept)  # few: each is compiled
    p = exact(logits, sampling)
    keys = row_keys(seed, np.arange(64))
    # One shape for all lengths, so that it compiles once.
    padded = np.full((64, 6), -np.inf, np.float32)
    padded[:, : len(logits)] = logits
    ids = draw(sampling, jnp.asarray(padded), keys, np.zeros(64, np.int32))
    log_p = log_probability(jnp.asarray(padded), ids)
    assert (p[np.asarray(ids)] > 0).all()
    model = np.exp(logits.astype(np.float64) - np.logaddexp.reduce(logits.astype(np.float64)))
    np.testing.assert_allclose(np.exp(log_p), model[np.asarray(ids)], rtol=1e-4)


def test_log_probabilities_tell_logits_that_are_not_finite():
    logits = np.zeros((2, 4), np.float32)
    logits[0, 2] = np.nan
    ids = draw(RandomSampler(), jnp.asarray(logits), row_keys(0, np.arange(2)), np.zeros(2, int))
    assert np.isfinite(log_probability(jnp.asarray(logits), ids)).tolist() == [False, True]


@pytest.mark.parametrize("field", ["temperature=0.0", "top_k=-1", "top_p=0.0", "top_p=1.1"])
def test_settings_that_make_no_sense_are_refused(field):
    name, _, value = field.partition("=")
    with pytest.raises(UserError, match=rf"decode\.{name}"):
        finish(base_config(), {f"decode.{name}": value})


@pytest.fixture(scope="module")
def sampled():
    """The chains that 1,500 keys draw for one question, by both engines."""
    n = 1500
    sampling = RandomSampler(0.8, 0, 0.95)
    spec = toy.dataclasses.replace(toy.SPEC, sampler=sampling)
    question = toy.make_questions(4)[:1] * n
    keys = row_keys(7, np.arange(n))
    limits = Limits(2, 2, 4)
    params = (toy.weights(3, eos=1.5), toy.weights(13, eos=1.5))

    def run(engine, rows=slice(None), batch=250):
        decoder = toy.dataclasses.replace(toy.DECODERS[engine], batch_size=batch, encode_rows=0)
        return toy.run(params, question[rows], limits, spec, decoder,
                       keys=keys[rows])  # fmt: skip

    return params, question[0], sampling, run


def test_chains_follow_the_model(sampled):
    params, question, sampling, run = sampled
    chains = run("continuous")

    def distribution(context, written, role):
        logits = toy.reference.next_logits(toy.MODEL, params[role], [*context, 1], written)
        logits = np.append(-np.inf, logits[1 : toy.VOCAB])
        return exact(logits, sampling)

    def check(ids, p):
        seen = np.bincount(ids, minlength=len(p))
        assert not seen[p == 0].any()
        often = p * len(ids) >= 5
        seen = np.append(seen[often], seen[~often].sum())
        wanted = np.append(p[often], p[~often].sum()) * len(ids)
        keep = wanted > 0
        assert keep.sum() > 2
        assert stats.chisquare(seen[keep], wanted[keep]).pvalue > 1e-3

    p = distribution(question, [], 0)
    ids = [r.segments[0][0] if r.segments else toy.SENTINEL
           if r.finish_reason == FinishReason.END else 1 for r in chains]  # fmt: skip
    check(ids, p)
    # The second segment, after the most frequent first one.
    pairs = toy.collections.Counter(tuple(r.segments[0]) for r in chains if len(r.segments) > 1)
    segment, n = pairs.most_common(1)[0]
    assert n > 60
    second = [r.segments[1][0] for r in chains if len(r.segments) > 1
              and tuple(r.segments[0]) == segment]  # fmt: skip
    p = distribution([*question, *segment], [], 1)
    p[[1, toy.SENTINEL]] = 0  # those chains have no second segment
    check(second, p / p.sum())


def test_draws_do_not_depend_on_batch_engine_or_order(sampled):
    *_, run = sampled
    some = slice(100, 160)
    want = run("continuous")[some]
    toy.same(run("plain", some, 60), want)
    toy.same(run("continuous", some, 7), want)
    assert len({tuple(r.chain) for r in want}) > 20
