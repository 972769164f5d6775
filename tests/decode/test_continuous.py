"""Slots that do not wait: nothing lost, always busy, compiled once, spread over a mesh."""

import dataclasses
import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from asesjax.core.errors import UserError
from asesjax.decode import continuous
from asesjax.decode.predict import Decoder, make_slots, stream, watched
from asesjax.decode.spec import FinishReason, Limits, make_input
from asesjax.models import t5
from asesjax.sharding.mesh import make_mesh
from asesjax.sharding.place import on_mesh, param_shardings, rules

_spec = importlib.util.spec_from_file_location("toy", Path(__file__).with_name("toy.py"))
toy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toy)


@pytest.mark.long
@pytest.mark.parametrize("n", [2000, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("n_roles", [1, 2], ids=["USM", "DSM"])
def test_thousands_of_questions_through_32_slots(n_roles, n):
    trees = tuple(toy.weights(seed, eos=1.5) for seed in (0, 10)[:n_roles])
    params, spec = toy.with_roles(trees, toy.SPEC)
    kinds = toy.make_questions(0, rows=60)
    wants = [toy.reference.decode(toy.MODEL, params, q, toy.WIDE, spec) for q in kinds]
    clear = [i for i, want in enumerate(wants) if want.smallest_margin > 1e-3]
    assert len(clear) > 50
    which = np.random.default_rng(0).choice(clear, n)
    decoder = Decoder(32, (toy.Q,), context_lengths=(24,))
    counts = {}
    before = continuous.run._cache_size()
    seen = []
    for index, generated in stream(
        toy.MODEL, params, [kinds[i] for i in which], toy.WIDE, spec, decoder, counts=counts
    ):
        seen.append(index)
        want = wants[which[index]]
        assert [segment.tolist() for segment in generated.segments] == want.segments
        assert (generated.finish_reason, generated.cut_segments, generated.tokens) == (
            want.finish_reason, want.cut_segments, want.tokens
        )  # fmt: skip
    assert sorted(seen) == list(range(n))
    assert continuous.run._cache_size() == before + 1
    assert counts["useful_steps"] == sum(wants[i].tokens for i in which)
    assert counts["useful_steps"] / counts["slot_steps"] >= 0.9
    assert counts["useful_rows"] / counts["encoded_rows"] >= 0.9
    tokens = [wants[i].tokens for i in clear]  # lengths did vary
    assert len(set(tokens)) >= 8 and max(tokens) > 10 * min(tokens)


@pytest.mark.parametrize("n_slots,rows", [(1, 1), (3, 1), (4, 4), (24, 2)], ids=str)
def test_sizes_change_nothing(n_slots, rows):
    params = (toy.weights(0, eos=1.5), toy.weights(10, eos=1.5))
    questions = toy.make_questions(0)
    want = toy.run(params, questions, decoder=toy.DECODERS["plain"])
    own = Decoder(n_slots, (toy.Q,), encode_rows=rows, context_lengths=(24,))
    toy.same(toy.run(params, questions, decoder=own), want)
    toy.same(toy.run(params, questions[::-1], decoder=own)[::-1], want)


def test_logits_that_are_not_finite_leave_no_trace_in_their_slot():
    import jax.numpy as jnp

    params = toy.weights(1, eos=1.5)
    questions = toy.make_questions(1, rows=60)
    clean = toy.run((params,), questions, decoder=toy.DECODERS["plain"])
    table = params["token_embedder"]["embedding"]
    params["token_embedder"]["embedding"] = table.at[19].set(jnp.nan)
    hit = [19 in q for q in questions]
    assert sum(hit) > 5
    own = Decoder(2, (toy.Q,), context_lengths=())  # every slot has several of them
    for bad, before, r in zip(hit, clean, toy.run((params,), questions, decoder=own), strict=True):
        assert (r.finish_reason == FinishReason.NONFINITE) == bad
        if not bad and 19 not in before.chain:
            toy.same([r], [before])


def test_slots_lie_spread_over_the_mesh():
    mesh = make_mesh(2, 2, 2)
    params = toy.weights(0)
    on = param_shardings(mesh, rules("fsdp_tp"), t5.logical_axes(toy.MODEL), params)
    params = {"main": jax.device_put(params, on)}
    inputs = make_input(np.zeros((8, toy.Q), np.int32), toy.WIDE, toy.SPEC)
    slots = make_slots(inputs, Decoder(8, (toy.Q,), 4, (24,)), mesh)
    state = on_mesh(mesh, continuous.start)(toy.MODEL, params, spec=toy.SPEC, slots=slots)
    run = on_mesh(mesh, continuous.run)
    after = run(toy.MODEL, params, state, np.bool_(True), spec=toy.SPEC, slots=slots)
    layer = after.pools["main"].cache["layers"][0]
    for name in ("cross_key", "self_value"):
        rows, heads = layer[name].sharding.shard_shape(layer[name].shape)[:2]
        assert (rows, heads) == (2, 1), name  # 8 slots over 4, 2 heads over 2
    assert after.rows.output.finish_reason.sharding.is_fully_replicated


def test_results_come_as_they_are_done():
    params = {"main": toy.weights(0, eos=1.5)}
    questions = toy.make_questions(0, rows=60)
    budget = np.full(60, toy.C)
    budget[0] = 40
    budget[1:] = 2
    order = [
        index
        for index, _ in stream(
            toy.MODEL, params, questions, Limits(toy.R, toy.L, budget), toy.SPEC,
            Decoder(4, (toy.Q,), context_lengths=()),
        )
    ]  # fmt: skip
    assert sorted(order) == list(range(60)) and order != list(range(60))


def test_every_step_of_every_slot_can_be_watched():
    params, spec = toy.with_roles([toy.weights(seed, eos=1.5) for seed in (0, 10)], toy.SPEC)
    questions, chains = toy.make_questions(0), []
    for plain in (True, False):
        decoder = Decoder(5, (toy.Q,), 2, (), plain=plain)
        found, steps, counts = watched(toy.MODEL, params, questions, toy.WIDE, spec, decoder)
        chains.append([own.ids.tolist() for own in found])
        at = np.concatenate([step.questions for step in steps])
        assert len(at) == counts["slot_steps"] and (at >= 0).sum() == counts["useful_steps"]
        assert np.bincount(at[at >= 0]).tolist() == [own.tokens for own in found]
        for step in steps:  # no question is in two slots
            busy = step.questions[step.questions >= 0].tolist()
            assert len(set(busy)) == len(busy) > 0
        assert {step.role for step in steps} == set(spec.roles)
    assert chains[0] == chains[1]


def test_sizes_out_of_range_are_refused():
    for buckets in ((8, 4), (0, 4), (4, 4)):
        with pytest.raises(UserError, match="decode.question_buckets must "):
            Decoder(4, buckets)
    with pytest.raises(UserError, match="decode.question_buckets must have a length"):
        toy.compare((toy.weights(0),), toy.make_questions(0), decoder=Decoder(4, ()))
    with pytest.raises(UserError, match="decode.context_lengths must be rising"):
        Decoder(4, (toy.Q,), context_lengths=(32, 16))


@pytest.mark.parametrize("engine", toy.DECODERS)
class TestModes:
    def test_looping(self, engine):
        spec = dataclasses.replace(toy.SPEC, repeat_ngram=2)
        results = []
        for seed in (0, 3):
            params = (toy.weights(seed, eos=1.2),)
            questions = toy.make_questions(seed)
            results += toy.compare(params, questions, spec=spec, decoder=toy.DECODERS[engine])
        looping = [r for r in results if r.finish_reason == FinishReason.LOOPING]
        assert 5 <= len(looping) < len(results)
        assert all(toy.reference.loops(r.segments[-1], 2) for r in looping)

    def test_forced_prefixes(self, engine):
        params = (toy.weights(0, eos=1.5), toy.weights(10, eos=1.5))
        questions = toy.make_questions(0)
        rng = np.random.default_rng(0)
        forced = [rng.integers(2, 20, i % 4).astype(np.int32) for i in range(len(questions))]
        decoder = toy.DECODERS[engine]
        results = toy.compare(params, questions, decoder=decoder, forced=forced)
        assert len(results) > 20
        for prefix, r in zip(forced, toy.run(params, questions, decoder=decoder, forced=forced),
                             strict=True):  # fmt: skip
            assert r.chain[: len(prefix)] == prefix.tolist()
            assert r.token_log_probability[: len(prefix)] == [0] * len(prefix)
        with pytest.raises(UserError, match="forced prefix must be shorter"):
            toy.run(params, questions, decoder=decoder, forced=[np.full(toy.L, 3)] * toy.ROWS)

    def test_budgets_of_rows(self, engine):
        params = (toy.weights(0, eos=1.5), toy.weights(10, eos=1.5))
        questions = toy.make_questions(0)
        rng = np.random.default_rng(1)
        limits = Limits(
            rng.integers(1, toy.R + 1, toy.ROWS),
            rng.integers(1, toy.L + 1, toy.ROWS),
            rng.integers(1, toy.C + 1, toy.ROWS),
        )
        decoder = toy.DECODERS[engine]
        toy.compare(params, questions, limits, decoder=decoder)
        bounds = rng.integers(1, toy.L + 1, (toy.ROWS, toy.R))  # one for each segment
        toy.compare(params, questions, Limits(toy.R, bounds, toy.C), decoder=decoder)
