"""The baselines: inputs and targets as text, weights, worked examples, decode contexts, votes."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from asesjax.config import base_config, finish
from asesjax.core.errors import UserError
from asesjax.core.types import Record
from asesjax.data.corpus import encode_record
from asesjax.data.vocab_training import train_vocabulary
from asesjax.decode.predict import Decoder, predict
from asesjax.evals.predictions import prediction_row
from asesjax.evals.runner import answer_questions, decode_spec
from asesjax.methods.baselines.in_context import FORMATS, worked_examples
from asesjax.methods.method import Request, TrainedMethod, make_method
from asesjax.models import t5
from asesjax.models.t5_config import T5Config

NAMES = ("Amy", "Ben", "Cleo", "Dan", "Eve", "Flo")
RECORDS = [
    Record(
        f"r{n}",
        f"{a} has {n} apples. {b} has 3 more apples than {a}. How many apples does {b} have?",
        f"{b} has 3 more apples than {a}. {b} has {n} + 3 = {n + 3} apples.",
        str(n + 3),
        others=(f"{n} + 3 = {n + 3}.", f"{b} has {n + 3} apples."),
    )
    for n, (a, b) in enumerate(zip(NAMES, NAMES[1:] + NAMES[:1], strict=True))
]
FIRST = RECORDS[0]
ANSWER = "The answer is 3."
TINY = {
    "decode.max_chain_tokens": "6", "decode.batch_size": "3", "decode.question_buckets": "(512,)",
    "decode.context_lengths": "()", "in_context.chain_prompt": "<extra_id_1>",
    "in_context.answer_prompt": "<extra_id_2>", "data.n_rationales": "3",
}  # fmt: skip


@pytest.fixture(scope="module")
def vocab():
    texts = [text for r in RECORDS for text in (r.question, r.rationale)]
    texts += [f"The answer is {r.answer}." for r in RECORDS]
    more = ["predict: explain: Let's think step by step. The answer:"]
    return train_vocabulary(texts * 3 + more * 3, 160, extra_ids=4)


def config(**overrides):
    return finish(base_config(), TINY | {k.replace("__", "."): v for k, v in overrides.items()})


def encoded(vocab, settings, records=RECORDS, notes=None):
    return [encode_record(vocab, r, settings.data.answer_template, notes) for r in records]


def made(name, vocab, record=FIRST, settings=None, notes=None):
    settings = settings or config()
    method = make_method(name, settings)
    method.prepare(encoded(vocab, settings))
    [own] = encoded(vocab, settings, [record], notes)
    (items,) = method.examples(own, vocab).values()
    return items


def pairs(vocab, examples):
    for example in examples:
        assert example.inputs[-1] == example.targets[-1] == vocab.eos_id
        assert example.inputs.dtype == example.targets.dtype == np.int32
        assert len(example.weights) == len(example.targets)
    return [(vocab.decode(e.inputs), vocab.decode(e.targets)) for e in examples]


def same(one, other):
    assert (one.id, one.kind, one.loss_from) == (other.id, other.kind, other.loss_from)
    for field in ("inputs", "targets", "weights"):
        mine, theirs = getattr(one, field), getattr(other, field)
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


def notes_of(record, shots, vocab):
    pool = [vocab.encode(r.question) for r in RECORDS]
    [places] = worked_examples([vocab.encode(record.question)], pool, shots)
    return {"shown": places}


def test_step_by_step_texts_and_weights(vocab):
    examples = made("step_by_step", vocab)
    assert pairs(vocab, examples) == [
        (f"predict: {FIRST.question}", ANSWER),
        (f"explain: {FIRST.question}", FIRST.rationale),
    ]
    assert [e.kind for e in examples] == ["answer", "rationale"]
    assert [e.id for e in examples] == ["r0/answer", "r0/rationale"]


@pytest.mark.parametrize("alpha", [0.5, 0.3, 0.9])
def test_the_answer_gets_the_share_alpha_of_the_weight(vocab, alpha):
    """Of one question's weight; so each task's mean counts as in Hsieh et al., equation 3."""
    answer, rationale = made("step_by_step", vocab, settings=config(step_by_step__alpha=str(alpha)))
    assert set(answer.weights.tolist()) == {np.float32(alpha)}
    assert len(set(rationale.weights.tolist())) == 1
    total = answer.weights.sum() + rationale.weights.sum()
    assert answer.weights.sum() / total == pytest.approx(alpha, rel=1e-5)
    losses = np.random.default_rng(0).random(len(answer.targets) + len(rationale.targets))
    of_answer, of_rationale = np.split(losses, [len(answer.targets)])
    ours = (answer.weights @ of_answer + rationale.weights @ of_rationale) / total
    paper = alpha * of_answer.mean() + (1 - alpha) * of_rationale.mean()
    assert ours == pytest.approx(paper, rel=1e-5)


def test_alpha_1_is_answer_only_and_alpha_0_the_rationale_alone(vocab):
    for record in RECORDS:
        [one] = made("step_by_step", vocab, record, config(step_by_step__alpha="1"))
        same(one, made("answer_only", vocab, record)[0])
        [one] = made("step_by_step", vocab, record, config(step_by_step__alpha="0"))
        same(one, made("direct", vocab, record, config(data__answer_template=""))[0])
        assert vocab.decode(one.targets) == record.rationale
    for alpha in ("0", "1"):
        settings = config(step_by_step__alpha=alpha)
        plans = [decode_spec(make_method(name, settings), vocab)
                 for name in ("step_by_step", "direct")]  # fmt: skip
        assert plans[0] == plans[1]


@pytest.mark.parametrize("alpha", ["-0.1", "1.5"])
def test_alpha_outside_0_to_1_is_refused(alpha):
    with pytest.raises(UserError, match="step_by_step.alpha must be at least 0 and at most 1"):
        config(step_by_step__alpha=alpha)


def test_marks_must_differ(vocab):
    settings = config(step_by_step__predict_prefix="explain:")
    with pytest.raises(UserError, match="step_by_step.predict_prefix 'explain:'"):
        made("step_by_step", vocab, settings=settings)
    settings = config(in_context__answer_prompt="<extra_id_1>")
    with pytest.raises(UserError, match="in_context.answer_prompt"):
        made("in_context", vocab, settings=settings, notes=notes_of(FIRST, 2, vocab))


def test_in_context_texts(vocab):
    settings = config(in_context__chain_prompt="Let's think step by step.",
                      in_context__answer_prompt="The answer:")  # fmt: skip
    other, third = RECORDS[4], RECORDS[2]
    notes = {"shown": [4, 2]}
    found = made("in_context", vocab, settings=settings, notes=notes)
    q, step = FIRST.question, "Let's think step by step."
    both = (other, third)
    chains = [f"{r.question} {step} {r.rationale} The answer is {r.answer}." for r in both]
    answers = [f"{r.question} The answer: The answer is {r.answer}." for r in both]
    chain = f"{FIRST.rationale} {ANSWER}"
    assert pairs(vocab, found) == [
        (f"{chains[0]} {chains[1]} {q} {step}", chain),
        (f"{answers[0]} {answers[1]} {q} The answer:", ANSWER),
        (f"{q} {step}", chain),
        (f"{q} The answer:", ANSWER),
    ]
    assert [e.id for e in found] == [f"r0/{name}" for name in FORMATS]
    assert all((e.weights == 1).all() for e in found)
    some = config(in_context__formats="zero_answer,few_chain")
    found = made("in_context", vocab, settings=some, notes=notes)
    assert [e.id for e in found] == ["r0/zero_answer", "r0/few_chain"]


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"in_context__formats": "few_chians"}, "did you mean 'few_chain'"),
        ({"in_context__formats": ""}, "in_context.formats must name some of few_chain"),
        ({"in_context__shots": "0"}, "in_context.shots must be at least 1 for formats with"),
    ],
)
def test_impossible_in_context_options_are_refused(fields, words):
    with pytest.raises(UserError, match=words):
        make_method("in_context", config(**fields))


def test_worked_examples_are_other_questions_and_reproducible():
    rng = np.random.default_rng(0)
    pool = [rng.integers(2, 9, 3).astype(np.int32) for _ in range(40)]
    pool += pool[:10]  # questions that occur twice
    found = worked_examples(pool, pool, 4)
    for question, places in zip(pool, found, strict=True):
        assert len(set(places)) == 4
        assert not any(np.array_equal(pool[place], question) for place in places)
    # A question's choice depends on nothing else that is asked.
    assert worked_examples(pool[7:8], pool, 4) == found[7:8] == found[47:48]
    assert worked_examples([pool[3].astype(np.int64)], pool, 2)[0] == found[3][:2]
    assert len({tuple(places) for places in found}) > 30
    counts = np.bincount(np.concatenate(worked_examples(
        [np.array([n]) for n in range(1000)], pool, 4)), minlength=50)  # fmt: skip
    assert 50 < counts.min() and counts.max() < 115  # 80 each, about 9 to either side
    with pytest.raises(UserError, match="in_context.shots is 3, but there are only 2 other"):
        worked_examples(pool[:1], pool[:3], 3)


def test_diverse_has_an_example_for_each_rationale(vocab):
    found = made("diverse", vocab)
    texts = [FIRST.rationale, *FIRST.others]
    assert pairs(vocab, found) == [(FIRST.question, f"{text} {ANSWER}") for text in texts]
    assert [e.id for e in found] == ["r0/1", "r0/2", "r0/3"]
    alone = dataclasses.replace(FIRST, others=())
    [one], [plain] = made("diverse", vocab, alone), made("direct", vocab, alone)
    same(dataclasses.replace(one, id=plain.id), plain)
    method = make_method("diverse", config())
    with pytest.raises(UserError, match="set data.n_rationales of synthetic_math to 2 or more"):
        method.prepare(encoded(vocab, config(), [alone]))


MODEL = T5Config(vocab_size=256, d_model=16, d_ff=32, n_heads=2, d_kv=8, n_encoder_layers=1,
                 n_decoder_layers=1)  # fmt: skip


@functools.cache
def params():
    # Larger than T5 draws them, so that what is written depends on what is read.
    return jax.tree.map(lambda x: 3 * x, t5.init(MODEL, jax.random.key(0)))


def trained(name, vocab, settings):
    corpus = functools.partial(encoded, vocab, settings)
    return TrainedMethod(make_method(name, settings), MODEL, {"main": params()}, vocab, corpus)


def contexts(name, vocab, settings):
    """The encoder inputs that decoding begins with, put together by the engine's rules."""
    using = trained(name, vocab, settings)
    spec, _ = decode_spec(using.method, vocab)
    request = Request([vocab.encode(r.question) for r in RECORDS], np.arange(len(RECORDS)))
    request = using.method.prepare_requests(using, request, None)
    [turn] = spec.turns
    assert not turn.prompt.extra_input
    lead = np.array(turn.prompt.lead, np.int32)
    return [np.concatenate([lead, ids, [spec.eos_id]]) for ids in request.questions]


@pytest.mark.parametrize("ask", list(FORMATS))
@pytest.mark.parametrize("shots", ["1", "3"])
def test_in_context_decodes_from_its_training_inputs(vocab, ask, shots):
    settings = config(in_context__ask=ask, in_context__shots=shots)
    for record, context in zip(RECORDS, contexts("in_context", vocab, settings), strict=True):
        examples = made("in_context", vocab, record, settings, notes_of(record, int(shots), vocab))
        [example] = [e for e in examples if e.id.endswith(f"/{ask}")]
        np.testing.assert_array_equal(context, example.inputs)


@pytest.mark.parametrize("alpha", ["0", "0.5", "1"])
def test_step_by_step_decodes_from_its_training_inputs(vocab, alpha):
    settings = config(step_by_step__alpha=alpha)
    for record, context in zip(RECORDS, contexts("step_by_step", vocab, settings), strict=True):
        first = made("step_by_step", vocab, record, settings)[0]
        np.testing.assert_array_equal(context, first.inputs)


def test_prompts_decode_as_the_whole_context_does(vocab):
    """Asking with marks and examples is asking a plain method the whole context."""
    settings = config()
    plain = make_method("direct", settings)
    spec, limits = decode_spec(plain, vocab)
    for name in ("step_by_step", "in_context"):
        using = trained(name, vocab, settings)
        chains, _ = answer_questions(using, RECORDS)
        asked = [ids[:-1] for ids in contexts(name, vocab, settings)]
        found = predict(MODEL, using.params, asked, limits, spec, Decoder(3, (512,)))
        assert [own[0].ids.tolist() for own in chains] == [g.ids.tolist() for g in found]
        untold, _ = answer_questions(using._replace(method=plain), RECORDS)
        assert [own[0].ids.tolist() for own in chains] != [own[0].ids.tolist() for own in untold]


def test_worked_examples_make_questions_longer_than_those_asked(vocab):
    chains = [answer_questions(trained("in_context", vocab, config(**more)), RECORDS)[0]
              for more in ({}, {"decode__question_buckets": "(32, 64)"})]  # fmt: skip
    assert [own[0].ids.tolist() for own in chains[0]] == [own[0].ids.tolist() for own in chains[1]]


@pytest.mark.parametrize("name", ["step_by_step", "in_context", "diverse", "answer_only"])
def test_samples_vote_in_every_baseline(vocab, name):
    """Chains vote: each sample is what it is alone, and one sample is a plain draw."""
    settings = config(decode__sampler="sample", decode__samples="4", decode__seed="5")
    using = trained(name, vocab, settings)
    answers, _ = answer_questions(using, RECORDS)
    assert all(len(own) == 4 for own in answers)
    assert any(len({tuple(one.ids) for one in own}) > 1 for own in answers)
    single = config(decode__sampler="sample", decode__seed="5")
    single, _ = answer_questions(trained(name, vocab, single), RECORDS)
    for several, (one,) in zip(answers, single, strict=True):
        np.testing.assert_array_equal(several[0].ids, one.ids)
    row = prediction_row(FIRST, answers[0], using.method, vocab)
    assert row["samples"] == 4 and sum(row["votes"].values()) <= 4
    assert row["tokens"] == sum(one.tokens for one in answers[0])
