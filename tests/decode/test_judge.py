"""How a chain continues or ends behind a finished segment: case by case, without a model."""

import dataclasses

import jax
import numpy as np
import pytest

from asesjax.decode.segment import begin, judge, start_rows
from asesjax.decode.spec import DecodeSpec, FinishReason, Limits, Turn, make_input

R, L, C, EOS, SENTINEL, CUT = 3, 4, 7, 1, 21, 0
SPEC = DecodeSpec(22, C, L, R, sentinel_id=SENTINEL, stop_ids=(7, 8))
RUNNING, END, LENGTH, REPEATED, LOOPING, NONFINITE = FinishReason
judge_now = jax.jit(judge, static_argnums=3)


def judged(ids, end, chain=(), previous=None, rounds=None, turn=0, flags=(), **fields):
    """The row after a segment ``ids`` that ended so, behind a ``chain`` of one segment, if any."""
    spec = dataclasses.replace(SPEC, **fields)
    rounds = bool(chain) if rounds is None else rounds

    def row(values, length):
        return np.pad(np.asarray(values, np.int32), (0, length - len(values)))[None]

    inputs = make_input(np.array([[3, 4]], np.int32), Limits(R, L, C), spec)
    rows = start_rows(inputs, spec)
    output = rows.output._replace(
        ids=row(chain, C), length=np.int32([len(chain)]), n_segments=np.int32([bool(chain)]),
        segment_ends=row([len(chain)], R),
    )  # fmt: skip
    previous = row((previous if previous is not None else chain)[:L], L)
    rows = rows._replace(
        rounds=np.int32([rounds]), turn=np.int32([turn]), previous=previous, output=output
    )
    segment = begin(inputs, rows, spec)._replace(ids=row(ids, L), end=np.int32([end]))
    segment = segment._replace(**{name: np.array([True]) for name in flags})
    return judge_now(rows, segment, inputs, spec)


CASES = {
    "continues": (((5, 6), EOS), RUNNING, (5, 6)),
    "cut, continues": (((5, 6, 9, 9), CUT), RUNNING, (5, 6, 9, 9)),
    "sentinel": (((5, 6), SENTINEL), END, (5, 6)),
    "sentinel alone": (((), SENTINEL, (5,)), END, (5,)),
    "sentinel behind the segment before again": (((5, 6), SENTINEL, (5, 6)), END, (5, 6, 5, 6)),
    "stop ids": (((5, 7, 8), EOS), END, (5, 7, 8)),
    "stop ids of two segments": (((8,), EOS, (5, 7)), RUNNING, (5, 7, 8)),
    "again": (((5, 6), EOS, (5, 6)), REPEATED, (5, 6)),
    "again, but not at once": (((5, 6), EOS, (5, 6), (9,)), RUNNING, (5, 6, 5, 6)),
    "empty": (((), EOS, (5,)), REPEATED, (5,)),
    "empty at first": (((), EOS), REPEATED, ()),
    "full": (((5, 6, 9), CUT, (5, 6, 5, 6)), LENGTH, (5, 6, 5, 6, 5, 6, 9)),
    "full at its end": (((5, 6, 9), SENTINEL, (5, 6, 5, 6)), END, (5, 6, 5, 6, 5, 6, 9)),
    "one id of room": (((5, 6), EOS, (5, 6, 5, 6)), RUNNING, (5, 6, 5, 6, 5, 6)),
    "no round left": (((9,), EOS, (5, 6), None, R - 1), LENGTH, (5, 6, 9)),
    "one round left": (((9,), EOS, (5, 6), None, R - 2), RUNNING, (5, 6, 9)),
}


@pytest.mark.parametrize("case", CASES)
def test_how_a_chain_goes_on(case):
    arguments, reason, chain = CASES[case]
    found = judged(*arguments)
    before = arguments[2] if len(arguments) > 2 else ()
    is_kept = chain != before
    ends = [len(own) for own in (before, chain) if own] if is_kept and before else [len(chain)]
    output = found.output
    assert output.finish_reason[0] == reason and found.turn[0] == 1
    assert output.ids[0].tolist() == [*chain, *[0] * (C - len(chain))]
    assert output.length[0] == len(chain) and output.segment_ends[0, : len(ends)].tolist() == ends
    assert output.n_segments[0] == bool(before) + is_kept
    assert output.cut_segments[0] == (arguments[1] == CUT)
    assert found.previous[0, : len(arguments[0])].tolist() == list(arguments[0])


@pytest.mark.parametrize("ids", [(5, 6), (5, 7, 8)])
def test_loops_are_kept_and_what_is_not_finite_is_dropped(ids):
    """Whatever else the segment is: the one before again, or with the stop ids."""
    for flag, reason, n in (("looping", LOOPING, 2), ("nonfinite", NONFINITE, 1)):
        output = judged(ids, CUT, ids, flags=[flag]).output
        assert (output.finish_reason[0], output.n_segments[0]) == (reason, n)
        assert output.length[0] == n * len(ids) and output.cut_segments[0] == 0


@pytest.mark.parametrize(
    "ids, end, turn, reason",
    [((5, 6), EOS, 1, END), ((), EOS, 1, END), ((5, 6), CUT, 1, LENGTH), ((5, 6), EOS, 0, RUNNING),
     ((), EOS, 0, RUNNING), ((5, 6, 9, 9), CUT, 0, RUNNING)],
)  # fmt: skip
def test_with_a_number_of_turns_the_last_ends_and_segments_may_be_empty(ids, end, turn, reason):
    assert judged(ids, end, turn=turn, n_turns=2).output.finish_reason[0] == reason


def test_the_first_segment_may_be_empty_where_that_passes_the_turn():
    first = judged((), EOS, empty_first=True)
    assert (first.output.finish_reason[0], first.turn[0], first.rounds[0]) == (RUNNING, 1, 1)
    second = judged((), EOS, rounds=1, empty_first=True)
    assert second.output.finish_reason[0] == REPEATED


def test_a_mark_names_the_next_turn():
    turns = tuple(Turn(mark=mark) for mark in (-1, 12, 13))
    following = [judged((5,), end, turn=4, turns=turns).turn[0] for end in (EOS, CUT, 12, 13)]
    assert following == [5, 5, 1, 2]
