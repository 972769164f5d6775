"""The compiled Socratic loop against a plain Python one, id for id, by both loops."""

import dataclasses
import functools
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from asesjax.config import base_config, finish
from asesjax.core.errors import UserError
from asesjax.core.types import Record
from asesjax.decode.spec import DecodeSpec, Limits, Prompt, Turn
from asesjax.evals.runner import make_decoder, n_compilations, stream_answers
from asesjax.methods.method import Request, TrainedMethod, make_method
from asesjax.methods.socratic.equations import equations_text

_spec = importlib.util.spec_from_file_location(
    "toy", Path(__file__).parents[1] / "decode/toy.py"
)
toy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toy)

EOS, END, SEPARATOR = 1, toy.SENTINEL, toy.SENTINEL - 1
ROOM = {"max_rounds": toy.R, "max_segment_tokens": toy.L, "max_chain_tokens": toy.C}
QUESTIONS = toy.make_questions(3, 12)
DECOMPOSER, SOLVER, PLANNER = (toy.weights(seed, eos=1.5) for seed in (0, 10, 4))


class Vocabulary:
    """The toy model's 22 ids, of which the last are sentinels."""

    size, eos_id, unk_id, n_pieces = toy.VOCAB, EOS, 2, 18

    def sentinel(self, k):
        return self.size - 1 - k

    def encode(self, text):
        marks = {"ask:": [15, 16], "solve:": [17], "guide:": [18], "": []}
        ids = marks[text] if text in marks else [2 + ord(letter) % 13 for letter in text]
        return np.asarray(ids, np.int32)


VOCABULARY = Vocabulary()
STEPS = tuple(("q?", f"1{i} + {i} = {10 + 2 * i}") for i in range(4))
RECORDS = [Record(f"r{i}", "q", "r", "5", steps=STEPS[: i % 4 + 1]) for i in range(12)]


def configured(**fields):
    named = {f"decode.{name}": str(value) for name, value in ROOM.items()}
    named |= {"decode.question_buckets": f"({toy.Q},)", "decode.batch_size": "5",
              "decode.encode_rows": "2", "decode.context_lengths": "(24,)"}  # fmt: skip
    named |= {name if "." in name else f"socratic.{name}": str(v) for name, v in fields.items()}
    return finish(base_config(), named)


def made(config, unified=False):
    """The method as if it were trained."""
    method = make_method("socratic_unified" if unified else "socratic", config)
    params = dict(main=DECOMPOSER, decomposer=DECOMPOSER, solver=SOLVER, planner=PLANNER)
    own = {role: params[role] for role in method.roles}
    return TrainedMethod(method, toy.MODEL, own, VOCABULARY)


def answers(config, unified, questions=QUESTIONS, records=RECORDS, plain_loop=False, **more):
    request = Request(questions, np.arange(len(questions)), records=records, **more)
    decoder = dataclasses.replace(make_decoder(config), plain=plain_loop)
    found = dict(stream_answers(made(config, unified), request, decoder))
    return [toy.as_result(found[i][0]) for i in range(len(questions))]


# The plain loop: lists of ids, one question at a time.


def written(params, source, room=toy.C):
    """One segment of the most probable ids, to its end mark or until there is no room."""
    source, ids, margins = [*source, EOS], [], []
    while len(ids) < room:
        logits = toy.reference.next_logits(toy.MODEL, params, source, ids)[: toy.VOCAB].copy()
        logits[0] = -np.inf
        second, first = np.argsort(logits)[-2:]
        margins.append(float(logits[first] - logits[second]))
        if first == EOS:
            break
        ids.append(int(first))
    return ids, margins


def plain(config, unified, question, record):
    """The chain of a question, and the smallest margin of any choice on the way."""
    s, question = config.socratic, question.tolist()
    lead = {"ask": [15, 16], "solve": [17], "guide": [18]} if unified else dict.fromkeys(
        ("ask", "solve", "guide"), [])  # fmt: skip
    asker, solver, planner = (DECOMPOSER,) * 3 if unified else (DECOMPOSER, SOLVER, PLANNER)
    guide, margins = [], [np.inf]
    if s.guidance != "none" and s.guide_source == "oracle":
        guide = VOCABULARY.encode(equations_text([t for _, t in record.steps], s.guidance)).tolist()
    elif s.guidance != "none":
        guide, more = written(planner, lead["guide"] + question)
        margins += more
    given, rounds = [()], toy.R
    if s.plan == "whole":
        plan, more = written(asker, lead["ask"] + question + guide)
        margins += more
        text = ",".join(map(str, plan)).split(f"{SEPARATOR}")
        planned = [[int(i) for i in part.split(",") if i] for part in text]
        given = []
        for ids in filter(None, planned):
            given += [[*ids, EOS] if len(ids) < toy.L else ids[: toy.L - 1], []]
        if len(plan) == toy.C:  # what was cut is no whole plan
            rounds = min(toy.R, max(1, len(given)))
        given.append([END])
    prompts = {"ask": Prompt(tuple(lead["ask"]), extra_input=s.plan == "step"),
               "solve": Prompt(tuple(lead["solve"]), history=s.history)}  # fmt: skip
    turns = tuple(Turn(role, prompt=prompt) for role, prompt in prompts.items())
    spec = DecodeSpec(toy.VOCAB, toy.C, toy.L, toy.R, sentinel_id=END, turns=turns)
    limits = Limits(rounds, toy.L, toy.C)
    params = {"ask": asker, "solve": solver}
    result = toy.reference.decode(toy.MODEL, params, question, limits, spec, given, guide)
    result.smallest_margin = min([result.smallest_margin, *margins])
    return result


CHOICES = ("plan", "guidance", "guide_source", "history")
STEP, OPERATORS, PLANNED_GUIDES, WHOLE, WHOLE_PLANNED = (
    ("step", "none", "oracle", True), ("step", "operators", "oracle", False),
    ("step", "equations", "planner", True), ("whole", "none", "oracle", True),
    ("whole", "equations", "planner", False),
)  # fmt: skip
# Every case by both loops, with shared parameters and without; those of each kind are quick.
QUICK = {
    (STEP, "separate", "continuous"), (OPERATORS, "unified", "plain"),
    (WHOLE, "unified", "continuous"), (WHOLE_PLANNED, "separate", "plain"),
}  # fmt: skip
CASES = [
    pytest.param(case, sharing, loop, id="-".join(map(str, (*case, sharing, loop))),
                 marks=[] if (case, sharing, loop) in QUICK else [pytest.mark.slow])
    for case in (STEP, OPERATORS, PLANNED_GUIDES, WHOLE, WHOLE_PLANNED)
    for sharing in ("separate", "unified") for loop in ("continuous", "plain")
]  # fmt: skip


@functools.cache
def plain_chains(unified, *case):
    config = configured(**dict(zip(CHOICES, case, strict=True)))
    return [plain(config, unified, *pair) for pair in zip(QUESTIONS, RECORDS, strict=True)]


@pytest.mark.parametrize("case, sharing, loop", CASES)
def test_the_compiled_loop_writes_what_a_plain_loop_writes(case, sharing, loop):
    unified = sharing == "unified"
    config = configured(**dict(zip(CHOICES, case, strict=True)))
    found = answers(config, unified, plain_loop=loop == "plain")
    wants = plain_chains(unified, *case)
    clear = 0
    for got, want in zip(found, wants, strict=True):
        if want.smallest_margin < 1e-3:
            continue
        clear += 1
        assert got.segments == want.segments
        for name in ("finish_reason", "cut_segments", "tokens"):
            assert getattr(got, name) == getattr(want, name)
        assert got.log_probability == pytest.approx(want.log_probability, rel=1e-4, abs=1e-3)
    assert clear >= 0.8 * len(QUESTIONS)
    assert toy.kinds(wants)["several segments"] > 3
    assert len({tuple(want.chain) for want in wants}) > 8


def test_every_option_changes_what_is_written():
    """Each choice reaches the models: no two of them write the same chains."""
    guided = {"guidance": "equations"}
    cases = [{}, {"history": False}, {"plan": "whole"}]
    cases += [{**guided, "plan": plan, "guide_source": source}
              for plan in ("step", "whole") for source in ("oracle", "planner")]  # fmt: skip
    chains = []
    for fields in cases:
        config = configured(**fields)
        chains.append([plain(config, False, QUESTIONS[i], RECORDS[i]).chain for i in range(3)])
    assert all(chains[i] != chains[j] for i in range(len(chains)) for j in range(i))


def with_plans(plans, **more):
    """Chains whose plans are given in the place of a decomposer's."""
    trained = made(configured(plan="whole"))
    request = Request(QUESTIONS[: len(plans)], np.arange(len(plans)), **more)
    written = lambda role, questions: [np.asarray(plan, np.int32) for plan in plans]  # noqa: E731
    return trained.method.prepare_requests(trained, request, written)


def lists(forced):
    return [[ids[ids != 0].tolist() for ids in own] for own in forced]


def test_a_plan_becomes_every_other_segment():
    s, request = SEPARATOR, with_plans([[5, 6, SEPARATOR, 7], [], [SEPARATOR, 5, SEPARATOR]])
    assert lists(request.forced) == [
        [[5, 6, EOS], [], [7, EOS], [], [END], [], [], []],
        [[END], *[[]] * 7],
        [[5, EOS], [], [END], *[[]] * 5],
    ]
    assert {len(ids) for own in request.forced for ids in own} == {toy.L}
    long = with_plans([[3] * toy.L + [s, 4], [3] * (toy.L - 1)])
    assert lists(long.forced)[0][:3] == [[3] * (toy.L - 1), [], [4, EOS]]
    assert lists(long.forced)[1][0] == [3] * (toy.L - 1) + [EOS]
    many = with_plans([[3, s, 4, s, 5, s, 6, s, 7, s, 8]])
    assert len(many.forced[0]) == toy.R and lists(many.forced)[0][-2:] == [[6, EOS], []]
    np.testing.assert_array_equal(long.limits.max_rounds, [toy.R] * 2)


def test_a_cut_plan_has_no_end_mark():
    cut = ([3, 4, SEPARATOR] * toy.C)[: toy.C]
    short = [3, 4, 5, SEPARATOR, *[6] * (toy.C - 4)]
    request = with_plans([cut, short, [3]])
    np.testing.assert_array_equal(request.limits.max_rounds, [toy.R, 4, toy.R])
    rows = Limits(np.array([3, 8, 8]), np.array([[4, 10]] * 3), np.array([40, 3, 40]))
    own = with_plans([cut, [3, 4, 5], [3, 4, 5, 6]], limits=rows)
    np.testing.assert_array_equal(own.limits.max_rounds, [3, 8, 8])
    # Rows with bounds of their own: 4 for a first segment, and 3 for the chain.
    assert lists(own.forced)[1][0] == [3, 4] and lists(own.forced)[2][0] == [3, 4, 5]


def test_single_questions_compile_once():
    one = {"decode.question_buckets": "(64,)", "decode.batch_size": "1"}
    config = configured(plan="whole", guidance="equations", guide_source="planner", **one)
    answers(config, False, QUESTIONS[:1], None)
    before = n_compilations()
    for question in QUESTIONS[1:8]:
        answers(config, False, [question], None)
    assert n_compilations() == before


def test_guides_are_padded_to_few_lengths():
    config = configured(guidance="equations")
    for n, width in ((1, 16), (3, 32), (12, 128)):
        steps = (("q?", "1 + 2 = 3"),) * n
        trained = made(config)
        record = Record("r", "q", "r", "3", steps=steps)
        request = Request(QUESTIONS[:1], np.zeros(1), records=[record])
        request = trained.method.prepare_requests(trained, request, None)
        assert [len(guide) for guide in request.extra_inputs] == [width]
        text = equations_text(["1+2=3"] * n, "equations")
        assert (request.extra_inputs[0] != 0).sum() == len(text)


def test_questions_without_a_gold_guide_are_refused():
    typed = [Record("question", "q", "", "")]
    for records in (None, typed):
        with pytest.raises(UserError, match="socratic.guide_source=planner"):
            answers(configured(guidance="operators"), False, QUESTIONS[:1], records)
    with pytest.raises(UserError, match="record r has no steps"):
        answers(configured(guidance="operators"), False, QUESTIONS[:1], [Record("r", "q", "a", "")])


def test_a_whole_plan_refuses_a_prefix():
    config = configured(plan="whole")
    with pytest.raises(UserError, match="no place for a prefix"):
        answers(config, False, QUESTIONS[:1], None, forced=[np.array([3, 4])])
    step = answers(configured(), False, QUESTIONS[:1], None, forced=[np.array([3, 4])])
    assert step[0].segments[0][:2] == [3, 4]
