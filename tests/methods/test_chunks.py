"""Chunks and items of chunk-wise and skip-thinking training, and the contexts decoding builds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asesjax.config import base_config, finish
from asesjax.core.errors import UserError
from asesjax.core.types import Record
from asesjax.data.batching import batch_at, make_plan
from asesjax.data.corpus import encode_record
from asesjax.data.vocab import ByteVocabulary
from asesjax.data.vocab_training import train_vocabulary
from asesjax.decode.score import token_scores
from asesjax.decode.segment import context_tokens, start_rows
from asesjax.decode.spec import make_input
from asesjax.evals.runner import decode_spec
from asesjax.methods.method import make_method
from asesjax.methods.skip_thinking.chunks import (
    average_boundaries,
    check_chunks,
    find_sentences,
    make_marks,
    some_of,
)
from asesjax.models import t5
from asesjax.models.t5_config import T5Config
from asesjax.training.step import loss_and_gradients

TEMPLATE = "The answer is {answer}."
ONE, TWO, THREE = "Ben has 3 more.", "Let us go on.", "Ben has 5 + 3 = 8."
RECORD = Record("r", "Amy has 5. How many has Ben?", f"{ONE} {TWO} {THREE} ", "8")
ANSWER = "The answer is 8."
NAMES = ("cwt", "skip_thinking", "full_thinking")


@pytest.fixture(scope="module")
def vocab():
    texts = [RECORD.question, RECORD.rationale, ANSWER] * 4
    return train_vocabulary(texts, 90, extra_ids=12)


BOUNDS = {"decode.max_rounds": "16", "decode.max_segment_tokens": "64",
          "decode.max_chain_tokens": "256"}  # fmt: skip


def configured(**fields):
    section = {"write": "skip", "mix": "skip", "packed_length": "train"}
    named = {f"{section.get(name, 'chunk')}.{name}": str(v) for name, v in fields.items()}
    return finish(base_config(), BOUNDS | named)


def made(name, vocab, record=RECORD, notes=None, **fields):
    config = configured(**fields)
    encoded = encode_record(vocab, record, TEMPLATE)
    even = average_boundaries(len(find_sentences(encoded)), config.chunk.n_chunks)
    notes = {"boundaries": even} | (notes or {})
    notes = {name: np.array(values, np.int32) for name, values in notes.items()}
    return make_method(name, config).examples(encoded._replace(annotations=notes), vocab)["main"]


def pairs(vocab, examples):
    """Inputs and targets as text, marks as <m>, end of sequence left out."""
    out = []
    for example in examples:
        assert example.inputs[-1] == vocab.eos_id
        out.append(tuple(
            vocab.decode(ids[ids != vocab.eos_id]).replace("extra_id_", "")
            for ids in (example.inputs, example.targets)
        ))  # fmt: skip
    return out


def test_chunk_wise_examples(vocab):
    q = RECORD.question
    assert pairs(vocab, made("cwt", vocab, n_chunks=3)) == [
        (f"<1> {q}", ONE),
        (f"<2> {q} {ONE}", TWO),
        (f"<3> {q} {ONE} {TWO}", THREE),
        (f"<4> {q} {ONE} {TWO} {THREE}", ANSWER),
    ]
    assert pairs(vocab, made("cwt", vocab, n_chunks=2, mark_from=0)) == [
        (f"<0> {q}", f"{ONE} {TWO}"),
        (f"<1> {q} {ONE} {TWO}", THREE),
        (f"<2> {q} {ONE} {TWO} {THREE}", ANSWER),
    ]


def test_boundaries_come_from_the_annotations(vocab):
    moved = made("cwt", vocab, notes={"boundaries": [0, 1, 3]}, n_chunks=2)
    assert [target for _, target in pairs(vocab, moved)] == [ONE, f"{TWO} {THREE}", ANSWER]


def test_a_rationale_of_fewer_sentences_jumps_to_the_answer(vocab):
    items = made("cwt", vocab, n_chunks=5)
    q = RECORD.question
    assert pairs(vocab, items)[2:] == [
        (f"<3> {q} {ONE} {TWO}", f"{THREE} <6>"),
        (f"<6> {q} {ONE} {TWO} {THREE}", ANSWER),
    ]
    assert items[2].targets[-1] == vocab.sentinel(6)  # in the place of end of sequence
    assert [item.targets[-1] for item in items[:2]] == [vocab.eos_id] * 2
    plan = make_method("cwt", configured(n_chunks=5)).decode_plan(vocab)
    assert [turn.mark for turn in plan.turns] == [-1] * 5 + [vocab.sentinel(6)]
    assert plan.n_turns == 6


def test_skip_examples_in_one_pass(vocab):
    notes = {"boundaries": [0, 1, 2, 3], "kept": [0, 2]}
    (item,) = made("skip_thinking", vocab, notes=notes, n_chunks=3, mix=0)
    text = (f"<5> {RECORD.question}", f"{ONE} {THREE} {ANSWER}")
    assert pairs(vocab, [item]) == [text] and item.id == "r/skip"
    assert item.targets[-1] == vocab.eos_id
    nothing = made("skip_thinking", vocab, notes=notes | {"kept": []}, n_chunks=3, mix=0)
    assert pairs(vocab, nothing) == [(text[0], ANSWER)]


def test_skip_examples_in_stages(vocab):
    q, how = RECORD.question, dict(n_chunks=3, mix=0, write="stages")
    notes = {"boundaries": [0, 1, 2, 3], "kept": [0, 2]}
    assert pairs(vocab, made("skip_thinking", vocab, notes=notes, **how)) == [
        (f"<5> {q}", "<1>"),
        (f"<5> <1> {q}", f"{ONE} <3>"),
        (f"<5> <3> {q} {ONE}", f"{THREE} <4>"),
        (f"<5> <4> {q} {ONE} {THREE}", ANSWER),
    ]
    nothing = made("skip_thinking", vocab, notes=notes | {"kept": []}, **how)
    assert pairs(vocab, nothing) == [(f"<5> {q}", "<4>"), (f"<5> <4> {q}", ANSWER)]
    plan = make_method("skip_thinking", configured(n_chunks=3, write="stages")).decode_plan(vocab)
    marks = [turn.mark for turn in plan.turns]
    assert marks == [-1, *(vocab.sentinel(k) for k in (1, 2, 3, 4))] and plan.n_turns == 5


def test_full_thinking_example(vocab):
    (item,) = made("full_thinking", vocab, n_chunks=3, mix=0)
    chain = f"{ONE} {TWO} {THREE} {ANSWER}"
    assert pairs(vocab, [item]) == [(f"<6> {RECORD.question}", chain)]


def test_chunk_wise_examples_are_mixed_in(vocab):
    for name in ("skip_thinking", "full_thinking"):
        own, *mixed = made(name, vocab, notes={"kept": [1]}, n_chunks=3, mix=1)
        assert own.kind in ("skip", "full")
        assert pairs(vocab, mixed) == pairs(vocab, made("cwt", vocab, n_chunks=3))
    many = [item for i in range(200) for item in made("cwt", vocab, Record(str(i), "Amy has 5.",
            ONE, "8"), n_chunks=1)]  # fmt: skip
    some = some_of(many, 0.25)
    assert 60 < len(some) < 140 and some == some_of(many, 0.25)
    assert {id(item) for item in some} < {id(item) for item in some_of(many, 0.5)}


def many(name, vocab, **fields):
    """Examples of rationales of one to three sentences."""
    texts = (TWO, f"{ONE} {TWO}", f"{THREE} {TWO} {ONE}")
    records = [Record(str(i), RECORD.question, texts[i % 3], "8") for i in range(12)]
    return [item for record in records for item in made(name, vocab, record, {"kept": [0]},
            n_chunks=3, mix=1, **fields)]  # fmt: skip


def batches_of(examples, n=12):
    plan = make_plan(examples, 4, (64,), (64,), seed=0)
    return [batch_at(plan, examples, step) for step in range(n)]


@pytest.mark.parametrize("write", ["one_pass", "stages"])
@pytest.mark.parametrize("name", NAMES)
def test_batches_hold_one_stage(vocab, name, write):
    marks = {vocab.sentinel(k) for k in range(1, 7)}

    def stages(batch):
        """The marks at the beginning of each row."""
        return {tuple(i for i in row[:2] if i in marks)
                for row in batch["encoder_input_tokens"].tolist()}  # fmt: skip

    batches = batches_of(many(name, vocab, write=write), 60)
    seen = [stages(batch) for batch in batches]
    assert all(len(one) == 1 for one in seen)
    n_own = {"cwt": 0, "full_thinking": 1, "skip_thinking": 1 if write == "one_pass" else 3}[name]
    assert len(set.union(*seen)) == 4 + n_own  # three chunks, the answer, and what is its own
    mixed = many(name, vocab, write=write, batches="mixed")
    assert all((one.weights == 1).all() and not one.group for one in mixed)
    assert max(len(stages(batch)) for batch in batches_of(mixed)) > 1


@pytest.mark.parametrize("normalize", ["weights", "examples"])
def test_the_loss_is_a_mean_for_each_item(vocab, normalize):
    # L_CWT: the mean over items of the mean over the tokens of each.
    model = T5Config(128, 8, 4, 16, 2, n_encoder_layers=1, n_decoder_layers=1)
    params = t5.init(model, jax.random.key(0))
    train = configured().train.__class__(normalize=normalize)
    for how in ("by_stage", "mixed"):
        batch = batches_of(many("cwt", vocab, batches=how))[0]
        nll, real = token_scores(model, params, batch)[0], batch["decoder_target_tokens"] != 0
        sums, divisor = jax.jit(lambda p, b: loss_and_gradients(model, train, p, b, None)[:2])(
            params, batch
        )
        assert len(set(real.sum(1).tolist())) > 1
        wanted = (nll.sum(1) / real.sum(1)).mean()
        if how == "mixed":
            wanted = nll.sum() / (real.sum() if normalize == "weights" else len(nll))
        assert float(sums.loss_sum / divisor) == pytest.approx(float(wanted), rel=1e-5)


@given(st.integers(1, 40), st.integers(1, 12))
def test_average_boundaries_are_even(n_sentences, n_chunks):
    bounds = average_boundaries(n_sentences, n_chunks)
    assert len(bounds) - 1 == min(n_chunks, n_sentences)
    assert bounds[0] == 0 and bounds[-1] == n_sentences
    sizes = np.diff(bounds)
    assert sizes.min() >= 1 and sizes.max() - sizes.min() <= 1


SENTENCES = st.lists(st.text("ab1 .!?…\n", max_size=8), min_size=1, max_size=8)
TRAINED = ["ab. b1! 1? a…", "The answer is 8.", ".\n.", "b"] * 3


@settings(deadline=None, max_examples=100)
@given(parts=SENTENCES, n_chunks=st.integers(1, 6), cuts=st.randoms(use_true_random=False),
       kind=st.sampled_from(["byte", "trained"]))  # fmt: skip
def test_chunks_joined_are_the_rationale(parts, n_chunks, cuts, kind):
    vocab = ByteVocabulary(12) if kind == "byte" else train_vocabulary(TRAINED, 30, False, 12)
    record = Record("r", "a b", ". ".join(parts) + "b", "8")
    chain = find_sentences(encode_record(vocab, record, TEMPLATE))
    text = record.rationale.rstrip()
    assert chain.text_ends[-1] == len(text) and chain.ends[0] == chain.text_ends[0] == 0
    assert min(np.diff(chain.ends)) >= 1 and min(np.diff(chain.text_ends)) >= 1
    np.testing.assert_array_equal(chain.ids, vocab.encode(f"{text} {ANSWER}"))
    assert vocab.decode(chain.answer).strip() == ANSWER  # bytes begin with the space

    n = min(n_chunks, len(chain))
    inner = sorted(cuts.sample(range(1, len(chain)), n - 1))
    items = made("cwt", vocab, record, {"boundaries": [0, *inner, len(chain)]},
                 n_chunks=n_chunks)  # fmt: skip
    assert len(items) == n + 1
    written = [item.targets[:-1] for item in items]
    np.testing.assert_array_equal(np.concatenate(written), chain.ids)
    for m, item in enumerate(items):
        history = np.concatenate([np.zeros(0, np.int32), *written[:m]])
        np.testing.assert_array_equal(item.inputs[1:], [*vocab.encode("a b"), *history, 1])


def contexts(method, vocab, question, segments):
    """The encoder inputs that decoding builds, if it writes these (turn, ids)."""
    spec, limits = decode_spec(method, vocab)
    inputs = make_input(question[None], limits, spec)
    rows, out = start_rows(inputs, spec), []
    for turn, ids in segments:
        rows = rows._replace(turn=jnp.array([turn]))
        row = np.asarray(context_tokens(inputs, rows, spec))[0]
        out.append(row[: np.flatnonzero(row)[-1] + 1].tolist())
        output, length = rows.output, int(rows.output.length[0])
        joined = np.asarray(output.ids).copy()
        joined[0, length : length + len(ids)] = ids
        output = output._replace(ids=jnp.asarray(joined), length=output.length + len(ids))
        rows = rows._replace(output=output)
    return out


@pytest.mark.parametrize("n_chunks", [2, 3, 6])
@pytest.mark.parametrize("name, write", [*((name, "one_pass") for name in NAMES),
                                        ("skip_thinking", "stages")])  # fmt: skip
def test_training_inputs_are_the_contexts_of_decoding(vocab, name, write, n_chunks):
    fields = dict(n_chunks=n_chunks, write=write, mix=0)
    method = make_method(name, configured(**fields))
    marks = make_marks(method.options, vocab)
    notes = {"boundaries": list(average_boundaries(3, n_chunks)), "kept": [1]}
    items = made(name, vocab, notes=notes, **fields)
    n = len(notes["boundaries"]) - 1
    if name == "cwt":
        turns = [*range(n), n_chunks]
    elif write == "stages":
        turns = [0, 2, n_chunks + 1]  # skip, the second chunk, the answer
    else:
        turns = [0]
    ends = {vocab.eos_id, *marks.stages, marks.answer}
    segments = [(turn, item.targets[:-1]) for turn, item in zip(turns, items, strict=True)]
    assert all(item.targets[-1] in ends for item in items)
    built = contexts(method, vocab, vocab.encode(RECORD.question), segments)
    assert built == [item.inputs.tolist() for item in items]


@pytest.mark.parametrize("fields, words", [
    (dict(n_chunks=0), "chunk.n_chunks must be at least 1 .*, got 0"),
    (dict(refreshes=0), "chunk.chunking=search needs chunk.refreshes"),
    (dict(threshold=-1), "chunk.threshold must be at least 0"),
    (dict(mix=1.5), "skip.mix must be at least 0 and at most 1, got 1.5"),
    (dict(packed_length=64), "chunk.batches=by_stage needs .* set train.packed_length=0"),
    (dict(n_chunks=90, mark_from=8), "sentinels 8 to 100 .* vocab.extra_ids is 100; .* 101"),
])  # fmt: skip
def test_impossible_options_are_refused(fields, words):
    with pytest.raises(UserError, match=words):
        check_chunks(configured(**fields))
    check_chunks(configured(n_chunks=89, mark_from=8))
    check_chunks(configured(chunking="average", refreshes=0))
    check_chunks(configured(packed_length=64, batches="mixed"))


def test_a_chain_without_an_answer_or_without_tokens_is_refused(vocab):
    for answer, template in (("", TEMPLATE), ("8", "")):
        with pytest.raises(UserError, match="record r has no answer sentence"):
            find_sentences(encode_record(vocab, Record("r", "q", ONE, answer), template))
    with pytest.raises(UserError, match="record r: the rationale comes to no tokens"):
        find_sentences(encode_record(vocab, Record("r", "q", " \n", "8"), TEMPLATE))
