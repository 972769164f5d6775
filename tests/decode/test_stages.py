"""Stages with marks of their own, hints, jumps and whole segments that are given."""

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from asesjax.core.errors import UserError
from asesjax.decode.spec import Frame, Limits

_spec = importlib.util.spec_from_file_location("toy", Path(__file__).with_name("toy.py"))
toy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toy)

ENGINES = pytest.mark.parametrize("engine", toy.DECODERS)
ONE = (toy.weights(0, eos=1.5),)
TWO = (toy.weights(0, eos=1.5), toy.weights(10, eos=1.5))
QUESTIONS = toy.make_questions(0)


def spec(**fields):
    return dataclasses.replace(toy.SPEC, **fields)


@ENGINES
def test_stages_with_marks_and_an_end(engine):
    """Chunk-wise: a mark before each stage, exactly as many stages, empty segments allowed."""
    marks = tuple(Frame((mark,)) for mark in (15, 16, 17))
    staged = spec(n_stages=3, frames=marks, sentinel_id=-1)
    limits = Limits(3, toy.L, toy.C)
    results = toy.compare(ONE, QUESTIONS, limits, staged, toy.DECODERS[engine])
    assert not any(r.repeated for r in results)
    assert sum(r.done for r in results) > 5 and sum(r.truncated for r in results) > 2
    assert any(len(r.segments) < 3 and r.done for r in results)  # one was empty
    plain = toy.run(ONE, QUESTIONS, limits, spec(n_stages=3, sentinel_id=-1))
    marked = toy.run(ONE, QUESTIONS, limits, staged)
    assert [r.segments for r in plain] != [r.segments for r in marked]


@ENGINES
def test_jumps(engine):
    """A segment's end mark may name the next stage."""
    ids = (-1, 8, 9, 10)
    jumping = spec(n_stages=5, frames=tuple(Frame((m,)) for m in (15, 16, 17, 18, 19)),
                   sentinel_id=-1, jump_ids=ids)  # fmt: skip
    results = toy.compare(ONE, QUESTIONS, toy.WIDE, jumping, toy.DECODERS[engine])
    straight = toy.run(ONE, QUESTIONS, toy.WIDE, dataclasses.replace(jumping, jump_ids=()))
    assert [r.segments for r in straight] != [r.segments for r in results]
    assert not any(set(ids) & set(r.chain) for r in results)
    assert sum(r.done for r in results) > 5


@ENGINES
def test_first_stages_differ(engine):
    frames = tuple(Frame((mark,)) for mark in (15, 16, 17))
    staged = spec(n_stages=3, frames=frames, sentinel_id=-1)
    stages = np.arange(toy.ROWS) % 3
    decoder = toy.DECODERS[engine]
    results = toy.compare(ONE, QUESTIONS, toy.WIDE, staged, decoder, stages=stages)
    found = toy.run(ONE, QUESTIONS, toy.WIDE, staged, decoder, stages=stages)
    assert len(results) > 20
    assert all(len(r.segments) <= 3 - stage for r, stage in zip(found, stages, strict=True))


@ENGINES
@pytest.mark.parametrize("params", [ONE, TWO], ids=["unified", "separate"])
def test_two_kinds_of_stages(engine, params):
    """Socratic: who asks sees a hint and everything so far, who answers the last question alone."""
    frames = (Frame((15, 16), hint=True), Frame((17,), history=False))
    rng = np.random.default_rng(0)
    hints = [rng.integers(2, 20, i % 4).astype(np.int32) for i in range(toy.ROWS)]
    two = spec(frames=frames)
    decoder = toy.DECODERS[engine]
    results = toy.compare(params, QUESTIONS, toy.WIDE, two, decoder, hints=hints)
    assert toy.kinds(results)["several segments"] > 5
    without = toy.run(params, QUESTIONS, toy.WIDE, two, decoder)
    assert [r.segments for r in without] != [
        r.segments for r in toy.run(params, QUESTIONS, toy.WIDE, two, decoder, hints=hints)
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
    assert sum(r.done for r in results) > 10
    for plan, r in zip(plans, toy.run(TWO, QUESTIONS, limits, toy.SPEC, decoder, forced=plans),
                       strict=True):  # fmt: skip
        assert r.segments[0] == plan[0][:-1].tolist()
        if r.done and len(plan) == 5 and len(r.segments) == 4:
            assert r.segments[2] == plan[2][:-1].tolist()


def test_beams_take_marks_and_jumps():
    staged = spec(n_stages=3, frames=tuple(Frame((m,)) for m in (15, 16, 17)), sentinel_id=-1,
                  jump_ids=(-1, 8, 9))  # fmt: skip
    one_beam = dataclasses.replace(staged, beams=2)
    found = toy.run(ONE, QUESTIONS, toy.WIDE, one_beam)
    greedy = toy.run(ONE, QUESTIONS, toy.WIDE, staged)
    assert all(len(r.segments) <= 3 for r in found if r.done)
    assert [r.segments for r in found] != [r.segments for r in greedy]


def test_a_whole_segment_needs_no_room_for_its_end():
    full = [np.append(np.full(toy.L, 3), 1)] * toy.ROWS
    with pytest.raises(UserError, match=f"of row 0 has {toy.L} tokens, and these allow {toy.L}"):
        toy.run(ONE, QUESTIONS, forced=full)
    fits = [np.append(np.full(toy.L - 1, 3), 1)] * toy.ROWS
    assert all(r.segments[0] == [3] * (toy.L - 1) for r in toy.run(ONE, QUESTIONS, forced=fits))
