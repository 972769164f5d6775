"""Turns with prompts and marks of their own, extra inputs and whole segments that are given."""

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from asesjax.core.errors import UserError
from asesjax.decode.predict import predict
from asesjax.decode.spec import FinishReason, Limits, Prompt, Turn

_spec = importlib.util.spec_from_file_location("toy", Path(__file__).with_name("toy.py"))
toy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toy)

ENGINES = pytest.mark.parametrize("engine", toy.DECODERS)
ONE = (toy.weights(0, eos=1.5),)
TWO = (toy.weights(0, eos=1.5), toy.weights(10, eos=1.5))
QUESTIONS = toy.make_questions(0)


def spec(**fields):
    return dataclasses.replace(toy.SPEC, **fields)


def marked(*leads, marks=()):
    """A turn for each mark that its prompt begins with, and perhaps marks that name turns."""
    marks = (*marks, *[-1] * len(leads))
    return tuple(Turn(prompt=Prompt((lead,)), mark=mark)
                 for lead, mark in zip(leads, marks, strict=False))  # fmt: skip


@ENGINES
def test_turns_with_prompts_and_an_end(engine):
    """Chunk-wise: a mark before each chunk, exactly as many turns, empty segments allowed."""
    turns = spec(n_turns=3, turns=marked(15, 16, 17), sentinel_id=-1)
    limits = Limits(3, toy.L, toy.C)
    results = toy.compare(ONE, QUESTIONS, limits, turns, toy.DECODERS[engine])
    count = toy.kinds(results)
    assert count[FinishReason.END] > 5 and count[FinishReason.LENGTH] > 2
    assert not count[FinishReason.REPEATED]
    assert any(
        len(r.segments) < 3 and r.finish_reason == FinishReason.END for r in results
    )  # one was empty
    plain = toy.run(ONE, QUESTIONS, limits, spec(n_turns=3, sentinel_id=-1))
    prompted = toy.run(ONE, QUESTIONS, limits, turns)
    assert [r.segments for r in plain] != [r.segments for r in prompted]


@ENGINES
def test_end_marks_name_the_next_turn(engine):
    ids = (-1, 8, 9, 10)
    jumping = spec(n_turns=5, turns=marked(15, 16, 17, 18, 19, marks=ids), sentinel_id=-1)
    results = toy.compare(ONE, QUESTIONS, toy.WIDE, jumping, toy.DECODERS[engine])
    straight = dataclasses.replace(jumping, turns=marked(15, 16, 17, 18, 19))
    straight = toy.run(ONE, QUESTIONS, toy.WIDE, straight)
    assert [r.segments for r in straight] != [r.segments for r in results]
    assert not any(set(ids) & set(r.chain) for r in results)
    assert toy.kinds(results)[FinishReason.END] > 5


@ENGINES
def test_marks_choose_who_writes(engine):
    """A turn that is named brings its role and its label, whatever the number of the segment."""
    names = ("es", "as", "es", "as", "as")
    turns = [
        turn._replace(role=role, label=f"{role}{number}") for number, (role, turn) in enumerate(
            zip(names, marked(15, 16, 17, 18, 19, marks=(-1, 8, 9, 10)), strict=True)
        )
    ]  # fmt: skip
    own = spec(n_turns=5, turns=tuple(turns), sentinel_id=-1)
    params, jumped = dict(zip(("es", "as"), TWO, strict=True)), 0
    found = predict(toy.MODEL, params, QUESTIONS, toy.WIDE, own, toy.DECODERS[engine])
    for question, g in zip(QUESTIONS, found, strict=True):
        want = toy.reference.decode(toy.MODEL, params, question, toy.WIDE, own)
        if want.smallest_margin > 1e-3:
            assert [segment.tolist() for segment in g.segments] == want.segments
        assert len(g.labels) == len(g.segments)
        jumped += list(g.labels) != [turn.label for turn in turns[: len(g.labels)]]
    assert jumped > 3


@ENGINES
def test_an_empty_first_segment_passes_the_turn_where_it_may(engine):
    forced = [np.full(i % 2, toy.SPEC.eos_id, np.int32) for i in range(toy.ROWS)]
    passing, decoder = spec(empty_first=True), toy.DECODERS[engine]
    toy.compare(TWO, QUESTIONS, toy.WIDE, passing, decoder, forced=forced)
    passed = toy.run(TWO, QUESTIONS, toy.WIDE, passing, decoder, forced=forced)[1::2]
    ended = toy.run(TWO, QUESTIONS, toy.WIDE, spec(), decoder, forced=forced)[1::2]
    assert not any(r.segments for r in ended)
    assert {r.finish_reason for r in ended} == {FinishReason.REPEATED}
    # What follows is what the second writes to whom it is given the first turn.
    other = toy.run(TWO[::-1], QUESTIONS, toy.WIDE, spec(), decoder)[1::2]
    full = [(a, b) for a, b in zip(passed, other, strict=True) if len(b.segments) < toy.R - 1]
    assert len(full) > 5 and all(a.segments == b.segments for a, b in full)


@ENGINES
def test_first_turns_differ(engine):
    turns = spec(n_turns=3, turns=marked(15, 16, 17), sentinel_id=-1)
    first = np.arange(toy.ROWS) % 3
    decoder = toy.DECODERS[engine]
    results = toy.compare(ONE, QUESTIONS, toy.WIDE, turns, decoder, first_turns=first)
    found = toy.run(ONE, QUESTIONS, toy.WIDE, turns, decoder, first_turns=first)
    assert len(results) > 20
    assert all(len(r.segments) <= 3 - turn for r, turn in zip(found, first, strict=True))


@ENGINES
@pytest.mark.parametrize("params", [ONE, TWO], ids=["unified", "separate"])
def test_two_kinds_of_turns(engine, params):
    """Socratic: who asks sees a guide and everything so far, who answers the last question."""
    prompts = Prompt((15, 16), extra_input=True), Prompt((17,), history=False)
    rng = np.random.default_rng(0)
    extra = [rng.integers(2, 20, i % 4).astype(np.int32) for i in range(toy.ROWS)]
    two = spec(turns=tuple(Turn(prompt=prompt) for prompt in prompts))
    decoder = toy.DECODERS[engine]
    results = toy.compare(params, QUESTIONS, toy.WIDE, two, decoder, extra_inputs=extra)
    assert toy.kinds(results)["several segments"] > 5
    without = toy.run(params, QUESTIONS, toy.WIDE, two, decoder)
    assert [r.segments for r in without] != [
        r.segments for r in toy.run(params, QUESTIONS, toy.WIDE, two, decoder, extra_inputs=extra)
    ]


@ENGINES
def test_whole_segments_can_be_given(engine):
    """A plan: the first model's segments are given, the last of them is the end of the chain."""
    rng = np.random.default_rng(1)
    plans = []
    for i in range(toy.ROWS):
        asked = [np.append(rng.integers(2, 20, 3), 1).astype(np.int32) for _ in range(1 + i % 3)]
        plan = [ids for own in asked for ids in (own, np.zeros(0, np.int32))]
        plans.append([*plan, np.array([toy.SENTINEL], np.int32)])
    decoder = toy.DECODERS[engine]
    limits = Limits(toy.R, toy.L, toy.C)
    results = toy.compare(TWO, QUESTIONS, limits, toy.SPEC, decoder, forced=plans)
    assert toy.kinds(results)[FinishReason.END] > 10
    for plan, r in zip(plans, toy.run(TWO, QUESTIONS, limits, toy.SPEC, decoder, forced=plans),
                       strict=True):  # fmt: skip
        assert r.segments[0] == plan[0][:-1].tolist()
        if r.finish_reason == FinishReason.END and len(plan) == 5 and len(r.segments) == 4:
            assert r.segments[2] == plan[2][:-1].tolist()


def test_beam_search_knows_prompts_and_marks():
    turns = spec(n_turns=3, turns=marked(15, 16, 17, marks=(-1, 8, 9)), sentinel_id=-1)
    found = toy.run(ONE, QUESTIONS, toy.WIDE, dataclasses.replace(turns, beams=2))
    greedy = toy.run(ONE, QUESTIONS, toy.WIDE, turns)
    assert all(len(r.segments) <= 3 for r in found if r.finish_reason == FinishReason.END)
    assert [r.segments for r in found] != [r.segments for r in greedy]


def test_a_whole_segment_needs_no_room_for_its_end():
    full = [np.append(np.full(toy.L, 3), 1)] * toy.ROWS
    with pytest.raises(UserError, match=f"of row 0 has {toy.L} tokens, and these allow {toy.L}"):
        toy.run(ONE, QUESTIONS, forced=full)
    fits = [np.append(np.full(toy.L - 1, 3), 1)] * toy.ROWS
    assert all(r.segments[0] == [3] * (toy.L - 1) for r in toy.run(ONE, QUESTIONS, forced=fits))
