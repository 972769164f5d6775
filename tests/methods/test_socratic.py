"""Socratic CoT: inputs and targets text for text, and the contexts that decoding builds."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asesjax.config import base_config, finish
from asesjax.core.errors import UserError
from asesjax.core.types import Record, Segment
from asesjax.data.corpus import encode_record
from asesjax.data.generators.math_problems import make_math
from asesjax.data.sources import SPLITS, load_records
from asesjax.data.vocab import ByteVocabulary, load_vocabulary
from asesjax.data.vocab_training import train_vocabulary
from asesjax.decode.segment import context_tokens, start_rows
from asesjax.decode.spec import make_input
from asesjax.evals.runner import decode_spec
from asesjax.methods.method import make_method
from asesjax.methods.socratic.chain import chain_parts, encode_parts, reference
from asesjax.methods.socratic.equations import equations_text, find_equations

# Three problems as GSM8K's socratic files have them.
ROWS = (
    {"question": "Mia bakes 12 rolls and eats half of them. Then she bakes 5 more. How many rolls "
                 "are left?",
     "answer": "How many rolls are left when she has eaten? ** Half of 12 rolls are 12/2 = "
               "<<12/2=6>>6 rolls.\nHow many rolls are left in the end? ** Then there are 6+5 = "
               "<<6+5=11>>11 rolls.\n#### 11"},
    {"question": "A pen costs $3. What do 4 pens cost?",
     "answer": "What do 4 pens cost? ** They cost 4 x $3 = $<<4*3=12>>12.\n#### 12"},
    {"question": "Zed walks 3 miles a day for two weeks, but not on 2 days of rain. How far?",
     "answer": "How many days are two weeks? ** Two weeks are 14 days.\nOn how many days does he "
               "walk? ** He walks on 14 days - 2 days = <<14-2=12>>12 days.\nHow far does he walk? "
               "** That makes 12*3 = <<12*3=36>>36 miles.\n#### 36"},
)  # fmt: skip
P1 = "Mia bakes 12 rolls and eats half of them. Then she bakes 5 more. How many rolls are left?"
P2 = "A pen costs $3. What do 4 pens cost?"
P3 = "Zed walks 3 miles a day for two weeks, but not on 2 days of rain. How far?"
PARTS = {
    P1: ["How many rolls are left when she has eaten?", "Half of 12 rolls are 12/2 = 6 rolls.",
         "How many rolls are left in the end?", "Then there are 6+5 = 11 rolls. The answer is 11."],
    P2: ["What do 4 pens cost?", "They cost 4 x $3 = $12. The answer is 12."],
    P3: ["How many days are two weeks?", "Two weeks are 14 days.",
         "On how many days does he walk?", "He walks on 14 days - 2 days = 12 days.",
         "How far does he walk?", "That makes 12*3 = 36 miles. The answer is 36."],
}  # fmt: skip
GUIDES = {
    "none": {P1: "", P2: "", P3: ""},
    "operators": {P1: "[/] [+]", P2: "[*]", P3: "[] [-] [*]"},
    "equations": {P1: "[12/2=6] [6+5=11]", P2: "[4*3=12]", P3: "[] [14-2=12] [12*3=36]"},
}
SECTIONS = {
    "data": ("source", "path", "strip_calculator", "answer_template"),
    "decode": ("beams", "prefix", "max_chain_tokens"),
}
FORMATS = [(plan, guidance, history, unified) for plan in ("step", "whole")
           for guidance in GUIDES for history in (True, False)
           for unified in (False, True)]  # fmt: skip


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gsm8k")
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    for split in ("train", "test"):
        (folder / f"{split}_socratic.jsonl").write_text(lines)
    found, _ = load_records(configured(source="gsm8k_socratic", path=str(folder)).data, "test", 0)
    return {record.question: record for record in found}


@pytest.fixture(scope="module")
def vocab():
    texts = [text for p, parts in PARTS.items() for text in (p, *parts)]
    texts += [guide for own in GUIDES.values() for guide in own.values() if guide]
    return train_vocabulary([*texts, "ask: solve: guide:"] * 4, 400, extra_ids=4)


BOUNDS = {"decode.max_rounds": "16", "decode.max_segment_tokens": "64",
          "decode.max_chain_tokens": "256"}  # fmt: skip


def configured(**fields):
    sections = {name: section for section, names in SECTIONS.items() for name in names}
    named = {f"{sections.get(name, 'socratic')}.{name}": str(v) for name, v in fields.items()}
    return finish(base_config(), BOUNDS | named)


def made(record, vocab, config, unified=False):
    own = encode_record(vocab, record, config.data.answer_template)
    return socratic(config, unified).examples(own, vocab)


def socratic(config, unified=False):
    return make_method("socratic_unified" if unified else "socratic", config)


def pairs(vocab, examples):
    assert all(e.inputs[-1] == e.targets[-1] == vocab.eos_id for e in examples)
    assert all(set(e.weights.tolist()) == {1.0} for e in examples)
    return [(vocab.decode(e.inputs), vocab.decode(e.targets)) for e in examples]


def test_step_by_step_examples_in_full(records, vocab):
    """Step by step, the default: every pair in full."""
    roles = made(records[P1], vocab, configured())
    assert pairs(vocab, roles["decomposer"]) == [
        ("Mia bakes 12 rolls and eats half of them. Then she bakes 5 more. How many rolls are "
         "left?",
         "How many rolls are left when she has eaten?"),
        ("Mia bakes 12 rolls and eats half of them. Then she bakes 5 more. How many rolls are "
         "left? How many rolls are left when she has eaten? Half of 12 rolls are 12/2 = 6 rolls.",
         "How many rolls are left in the end?"),
        ("Mia bakes 12 rolls and eats half of them. Then she bakes 5 more. How many rolls are "
         "left? How many rolls are left when she has eaten? Half of 12 rolls are 12/2 = 6 rolls. "
         "How many rolls are left in the end? Then there are 6+5 = 11 rolls. The answer is 11.",
         "<extra_id_0>"),
    ]  # fmt: skip
    assert pairs(vocab, roles["solver"]) == [
        ("Mia bakes 12 rolls and eats half of them. Then she bakes 5 more. How many rolls are "
         "left? How many rolls are left when she has eaten?",
         "Half of 12 rolls are 12/2 = 6 rolls."),
        ("Mia bakes 12 rolls and eats half of them. Then she bakes 5 more. How many rolls are "
         "left? How many rolls are left when she has eaten? Half of 12 rolls are 12/2 = 6 rolls. "
         "How many rolls are left in the end?",
         "Then there are 6+5 = 11 rolls. The answer is 11."),
    ]  # fmt: skip
    assert [e.kind for e in roles["decomposer"]] == ["question", "question", "end"]
    assert [e.kind for e in roles["solver"]] == ["solution", "answer"]


def test_whole_plan_examples_in_full(records, vocab):
    """Whole plan, equations, the last subquestion alone, a planner, all in one model."""
    config = configured(plan="whole", guidance="equations", guide_source="planner", history=False)
    (main,) = made(records[P3], vocab, config, unified=True).values()
    assert pairs(vocab, main) == [
        ("ask: Zed walks 3 miles a day for two weeks, but not on 2 days of rain. How far? [] "
         "[14-2=12] [12*3=36]",
         "How many days are two weeks? <extra_id_1> On how many days does he walk? <extra_id_1> "
         "How far does he walk?"),
        ("solve: Zed walks 3 miles a day for two weeks, but not on 2 days of rain. How far? How "
         "many days are two weeks?",
         "Two weeks are 14 days."),
        ("solve: Zed walks 3 miles a day for two weeks, but not on 2 days of rain. How far? On "
         "how many days does he walk?",
         "He walks on 14 days - 2 days = 12 days."),
        ("solve: Zed walks 3 miles a day for two weeks, but not on 2 days of rain. How far? How "
         "far does he walk?",
         "That makes 12*3 = 36 miles. The answer is 36."),
        ("guide: Zed walks 3 miles a day for two weeks, but not on 2 days of rain. How far?",
         "[] [14-2=12] [12*3=36]"),
    ]  # fmt: skip
    assert [e.kind for e in main] == ["plan", "solution", "solution", "answer", "guide"]
    assert [e.id.rpartition("/")[2] for e in main] == ["plan", "s1", "s2", "s3", "guide"]


@pytest.mark.parametrize("plan, guidance, history, unified", FORMATS)
@pytest.mark.parametrize("question", [P1, P2, P3])
def test_texts_of_every_format(records, vocab, question, plan, guidance, history, unified):
    config = configured(plan=plan, guidance=guidance, history=history)
    parts, guide = PARTS[question], GUIDES[guidance][question]
    ask, solve = ("ask: ", "solve: ") if unified else ("", "")
    ask += f"{question} {guide}".strip()
    solve += question
    before = [" ".join(["", *parts[:i]]) for i in range(len(parts) + 1)]
    if plan == "whole":
        asking = [(ask, " <extra_id_1> ".join(parts[::2]))]
    else:
        asking = [(ask + before[i], parts[i]) for i in range(0, len(parts), 2)]
        asking.append((ask + before[-1], "<extra_id_0>"))
    solving = [(solve + (before[i] if history else f" {parts[i - 1]}"), parts[i])
               for i in range(1, len(parts), 2)]  # fmt: skip
    roles = made(records[question], vocab, config, unified)
    if unified:
        assert pairs(vocab, roles["main"]) == asking + solving
    else:
        assert pairs(vocab, roles["decomposer"]) == asking
        assert pairs(vocab, roles["solver"]) == solving


def test_guides_take_calculator_marks_where_the_text_has_them():
    text = "They cost 4 x $3 = $<<4*3=12>>12."
    assert find_equations(text) == ["4*3=12"] == find_equations("They cost 4 x $3 = $12.")
    assert equations_text([text, "That is all.", "1+2 = 3 and 2*3 = 6"], "equations") == (
        "[4*3=12] [] [1+2=3, 2*3=6]"
    )
    assert equations_text(["100 - 5 - (2*3) = 89"], "operators") == "[--*]"


@given(st.text(alphabet="0123456789 .,=+-*/x()$%abc", max_size=80))
def test_equations_hold_numbers_and_operators_only(text):
    for equation in find_equations(text):
        assert equation.count("=") == 1 and not set(equation) - set("0123456789.+-*/()%=")


# What decoding builds.


ROOM = {"question": 64, "guide": 64, "turns": 12}
engine_context = jax.jit(context_tokens, static_argnums=2)


def contexts(vocab, config, unified, record, guide):
    """The decode context of every turn of a chain, by the engine's own function."""
    spec, limits = decode_spec(socratic(config, unified), vocab)
    runs = encode_parts(vocab, record, config)
    n = ROOM["turns"]  # a row for each turn, and some of no meaning
    question, extra = (
        np.tile(np.pad(ids, (0, ROOM[name] - len(ids))), (n, 1))
        for name, ids in (("question", vocab.encode(record.question)), ("guide", guide))
    )
    inputs = make_input(question, limits, spec, extra_input=extra)
    chain = np.concatenate(runs)
    ends = np.cumsum([len(run) for run in runs])
    turns = np.arange(n)
    n_segments = np.minimum(turns, len(runs))
    lengths = np.append(0, ends)[n_segments]
    rows = start_rows(inputs, spec)
    own = np.pad(chain, (0, spec.chain_buffer - len(chain)))
    ids = np.where(np.arange(spec.chain_buffer) < lengths[:, None], own, 0)
    places = np.arange(spec.round_buffer)
    padded = np.pad(ends, (0, spec.round_buffer - len(ends)))
    segment_ends = np.where(places < n_segments[:, None], padded, 0)
    output = rows.output._replace(
        ids=ids, length=lengths, segment_ends=segment_ends, n_segments=n_segments
    )
    found = engine_context(inputs, rows._replace(output=output, turn=turns), spec)
    for turn, row in enumerate(np.asarray(found)[: len(runs) + 1]):
        yield turn, row[row != 0]


@pytest.mark.parametrize("plan, guidance, history, unified", FORMATS)
def test_decode_contexts_are_training_inputs(records, vocab, plan, guidance, history, unified):
    config = configured(plan=plan, guidance=guidance, history=history)
    for question, record in records.items():
        guide = vocab.encode(GUIDES[guidance][question])
        roles = made(record, vocab, config, unified)
        by_name = {e.id.rpartition("/")[2]: e for own in roles.values() for e in own}
        n = len(PARTS[question])
        compared = 0
        for turn, context in contexts(vocab, config, unified, record, guide):
            name = "end" if turn == n else f"{'qs'[turn % 2]}{turn // 2 + 1}"
            if name in by_name:
                np.testing.assert_array_equal(context, by_name[name].inputs)
                compared += 1
        assert compared == (n // 2 if plan == "whole" else n + 1)


words = st.text(st.sampled_from("abc 19+=?."), min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=40, deadline=None)
@given(words, st.lists(st.tuples(words, words), min_size=1, max_size=4), st.booleans())
def test_decode_contexts_are_training_inputs_for_any_steps(question, steps, history):
    vocab = ByteVocabulary(4)
    record = Record("r", question, "x", "5", steps=tuple(steps))
    config = configured(history=history, guidance="equations", max_chain_tokens=128)
    runs = encode_parts(vocab, record, config)
    text = " ".join(chain_parts(record, config))
    np.testing.assert_array_equal(np.concatenate(runs), vocab.encode(text))
    guide = vocab.encode(equations_text([text for _, text in steps], "equations"))
    roles = made(record, vocab, config, unified=True)
    inputs = {e.id: e.inputs for e in roles["main"]}
    for turn, context in contexts(vocab, config, True, record, guide):
        name = "end" if turn == len(runs) else f"{'qs'[turn % 2]}{turn // 2 + 1}"
        np.testing.assert_array_equal(context, inputs[f"r/{name}"])


# Where the answer stands, and what cannot be used.


@pytest.mark.parametrize(
    "last, template, expected",
    [
        ("so 8 in all", "The answer is {answer}.", "so 8 in all The answer is 8."),
        ("8", "The answer is {answer}.", "The answer is 8."),
        ("That is it. The answer is 8.", "The answer is {answer}.", "That is it. The answer is 8."),
        ("so 8 in all", "", "so 8 in all"),
    ],
)
def test_the_answer_sentence_stands_in_the_last_answer(last, template, expected):
    record = Record("r", "How many?", f"3 + 5 = 8. {last}", "8",
                    steps=((" What? ", "3 + 5 = 8."), ("How many?", f"{last} ")))  # fmt: skip
    parts = chain_parts(record, configured(answer_template=template))
    assert parts == ["What?", "3 + 5 = 8.", "How many?", expected]


def test_a_reference_is_the_whole_chain_with_its_gold_labels():
    config = finish(base_config(), {"data.min_steps": "2", "data.max_steps": "2"})
    (record,) = make_math(config.data, "train", 1, 0)
    got = reference(record, config)
    assert got.answer == "" and got.rationale == " ".join(chain_parts(record, config))
    assert "".join(segment.text for segment in got.gold) == got.rationale
    assert [segment.label for segment in got.gold] == [None, "ES", "AS", None, "ES", "AS", "ES"]
    assert [s.text.strip() for s in got.gold if not s.label] == [q for q, _ in record.steps]
    typed = Record("1", "q", "", "")
    assert reference(typed, config) is typed
    other = Record("1", "q", "a b", "5", (Segment("c d", "ES"),), (("q?", "a b"),))
    assert reference(other, config).gold is None


def test_records_without_steps_are_refused_or_one_step(vocab):
    record = Record("r7", "A pen costs $3.", "They cost 12.", "12")
    with pytest.raises(UserError, match="record r7 has no steps .*gsm8k_socratic.*single_steps"):
        made(record, vocab, configured())
    roles = made(record, vocab, configured(single_steps=True))
    assert pairs(vocab, roles["solver"]) == [
        ("A pen costs $3. A pen costs $3.", "They cost 12. The answer is 12.")
    ]
    empty = Record("r8", "What?", "They cost 12.", "12", steps=(("What?", "a"), (" ", "b")))
    with pytest.raises(UserError, match="record r8: the subquestion of step 2 is empty"):
        made(empty, vocab, configured())


def test_impossible_options_are_refused(records, vocab):
    same = configured(ask_mark="x", solve_mark="x")
    with pytest.raises(UserError, match="socratic.ask_mark.*different tokens.*'x', 'x', 'guide:'"):
        made(records[P1], vocab, same, unified=True)
    with pytest.raises(UserError, match="different tokens"):
        made(records[P1], vocab, configured(ask_mark=""), unified=True)
    made(records[P1], vocab, same)  # without shared parameters there are no marks
    for fields, words in (({"beams": 2}, "decode.beams=2; set decode.beams=1"),
                          ({"prefix": "a"}, "decode.prefix=a; set decode.prefix=''")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            made(records[P1], vocab, configured(plan="whole", **fields))
    with pytest.raises(UserError, match="did you mean 'equations'"):
        configured(guidance="equation")


def test_marks_may_be_sentinels(records, vocab):
    config = configured(ask_mark="<extra_id_2>", solve_mark="<extra_id_3>")
    (main,) = made(records[P2], vocab, config, unified=True).values()
    assert main[0].inputs[0] == vocab.sentinel(2) and main[-1].inputs[0] == vocab.sentinel(3)


# Real data.


@pytest.mark.data
def test_problems_of_gsm8k(data_folder):
    t5 = load_vocabulary("sentencepiece", str(data_folder / "t5_vocab/spiece.model"))
    config = configured(source="gsm8k_socratic", path=str(data_folder / "gsm8k"),
                        guidance="equations", guide_source="planner")  # fmt: skip
    records = sorted(load_records(config.data, "test", 0)[0], key=lambda r: r.id)[:3]
    for record in records:
        roles = made(record, t5, config)
        n = len(record.steps)
        assert n > 1 and [len(own) for own in roles.values()] == [n + 1, n, 1]
        asked, solved = pairs(t5, roles["decomposer"]), pairs(t5, roles["solver"])
        guide = pairs(t5, roles["planner"])[0][1]
        assert [target for _, target in asked[:-1]] == [q for q, _ in record.steps]
        assert asked[-1][1] == "<extra_id_0>"
        for (question, text), (source, target) in zip(record.steps, solved, strict=True):
            assert target.startswith(" ".join(text.split())) and source.endswith(question)
            assert guide not in source
        assert all(source.startswith(f"{record.question} {guide}") for source, _ in asked)
        assert solved[-1][1].endswith(f"The answer is {record.answer}.")
        chain = " ".join(text for pair in zip(asked[:-1], solved, strict=True)
                         for _, text in pair)  # fmt: skip
        assert asked[-1][0] == f"{record.question} {guide} {chain}"


@pytest.mark.data
def test_guides_survive_the_vocabulary_of_t5(data_folder):
    """On all of GSM8K; and most of its own marks are found again in the texts without them."""
    t5 = load_vocabulary("sentencepiece", str(data_folder / "t5_vocab/spiece.model"))
    config = configured(source="gsm8k_socratic", path=str(data_folder / "gsm8k"),
                        strip_calculator=False)  # fmt: skip
    fields = {f"data.n_{split}": "0" for split in SPLITS}
    config = finish(config, fields)
    records = [r for split in SPLITS for r in load_records(config.data, split, 0)[0]]
    chains = [[text for _, text in record.steps] for record in records]
    assert len(chains) == 7473 + 1319
    for guidance in ("operators", "equations"):
        guides = [equations_text(own, guidance) for own in chains]
        for guide, ids in zip(guides, t5.encode_batch(guides), strict=True):
            assert t5.unk_id not in ids and t5.decode(ids) == guide
    marked = [text for own in chains for text in own if "<<" in text]
    plain = [re.sub("<<.*?>>", "", text) for text in marked]
    again = sum(find_equations(a) == find_equations(b) for a, b in zip(marked, plain, strict=True))
    assert (again, len(marked)) == (25724, 27998)


@pytest.mark.data
def test_decompositions_of_strategyqa(data_folder):
    config = configured(source="strategyqa", path=str(Path(data_folder) / "strategyqa"))
    config = finish(config, {"data.n_test": "0"})
    records, _ = load_records(config.data, "test", 0)
    vocab = ByteVocabulary(4)
    with_steps = [record for record in records if record.steps]
    assert len(records) == 229 and len(with_steps) == 215
    for record in with_steps:
        roles = made(record, vocab, config)
        targets = [target.strip() for _, target in pairs(vocab, roles["solver"])]
        assert targets[-1].endswith(f"The answer is {record.answer}.")
        assert not any("The answer is" in target for target in targets[:-1])
        bare = record.steps[-1][1] == record.answer
        assert (targets[-1] == f"The answer is {record.answer}.") == bare
    lacking = next(record for record in records if not record.steps)
    with pytest.raises(UserError, match=f"record {lacking.id} has no steps"):
        made(lacking, vocab, config)
    whole = finish(config, {"socratic.single_steps": "true"})
    assert len(made(lacking, vocab, whole)["solver"]) == 1


@pytest.mark.data
@pytest.mark.parametrize("source, folder, rows, least", [
    ("svamp", "svamp", 93, 1), ("coin_flip", "symbolic", 150, 0),
    ("tracking_shuffled_objects", "symbolic", 225, 0),
])  # fmt: skip
def test_other_sources(data_folder, source, folder, rows, least):
    """SVAMP's equations are steps; the symbolic rules have none, and one step holds all."""
    fields = {"data.n_test": "0", "data.max_skipped_share": "0.1"}
    config = configured(source=source, path=str(data_folder / folder), single_steps=least == 0)
    config = finish(config, fields)
    records, _ = load_records(config.data, "test", 0)
    assert len(records) == rows
    vocab = ByteVocabulary(4)
    for record in records:
        assert len(record.steps or ()) >= least
        solved = pairs(vocab, made(record, vocab, config)["solver"])
        assert len(solved) == len(record.steps or " ")
        assert solved[-1][1].endswith(f"The answer is {record.answer}.")
