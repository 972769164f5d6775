"""From questions to rows: samples, budgets, prefixes, votes, and what is refused."""

import dataclasses

import jax
import numpy as np
import pytest

from asesjax.config import base_config, finish
from asesjax.core.errors import UserError
from asesjax.core.types import Record
from asesjax.data.vocab import ByteVocabulary
from asesjax.decode.predict import Generated
from asesjax.decode.spec import FinishReason, Limits
from asesjax.evals.predictions import prediction_row
from asesjax.evals.report import is_right
from asesjax.evals.runner import (
    answer_questions,
    check_decode,
    make_decoder,
    n_compilations,
    stream_answers,
)
from asesjax.experiment import make_stages
from asesjax.methods.method import Request, TrainedMethod, make_method
from asesjax.models import t5
from asesjax.models.t5_config import T5Config
from asesjax.run import Run

VOCAB = ByteVocabulary(4)
MODEL = T5Config(
    384, d_model=16, d_kv=8, d_ff=32, n_heads=2, n_encoder_layers=1, n_decoder_layers=1, tied=False
)
RECORDS = [Record(str(i), "apples and pears "[: 5 + i], "", "") for i in range(9)]
TINY = {
    "decode.batch_size": "4", "decode.max_rounds": "3", "decode.max_segment_tokens": "6",
    "decode.max_chain_tokens": "12", "decode.question_buckets": "(16,)",
}  # fmt: skip


def config(**fields):
    return finish(base_config(), TINY | {f"decode.{k}": str(v) for k, v in fields.items()})


@pytest.fixture(scope="module")
def params():
    return {"main": jax.tree.map(lambda x: 2.5 * x, t5.init(MODEL, jax.random.key(0)))}


def ask(params, config, records=RECORDS, rows=None, counts=None, **own):
    questions = VOCAB.encode_batch([record.question for record in records])
    request = Request(questions, np.arange(len(records)) if rows is None else rows, **own)
    args = (trained(params, config), request, make_decoder(config))
    return dict(stream_answers(*args, counts=counts))


def usm(**fields):
    return make_method("usm", config(**fields))


def trained(params, config):
    return TrainedMethod(make_method("usm", config), MODEL, params, VOCAB)


def ids(chains):
    return [chain.ids.tolist() for chain in chains]


def test_samples_depend_on_seed_row_and_number_alone(params):
    three = ask(params, config(sampler="sample", samples=3))
    assert list(map(len, three.values())) == [3] * len(RECORDS)
    assert all(len({tuple(chain) for chain in ids(three[i])}) > 1 for i in three)
    one = ask(params, config(sampler="sample"))
    assert [ids(one[i])[0] for i in one] == [ids(three[i])[0] for i in one]
    # Among other questions, a row that keeps its place keeps its chains.
    few = ask(params, config(sampler="sample", samples=3), RECORDS[4:6], np.array([4, 5]))
    assert [ids(few[0]), ids(few[1])] == [ids(three[4]), ids(three[5])]
    moved = ask(params, config(sampler="sample", samples=3), RECORDS[4:6], np.array([5, 4]))
    assert ids(moved[0]) != ids(three[4]) and ids(moved[1]) != ids(three[5])
    other = ask(params, config(sampler="sample", samples=3, seed=1))
    assert all(ids(other[i]) != ids(three[i]) for i in three)


def test_sampling_settings_reach_the_engine(params):
    greedy = ask(params, config())
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}):
        got = ask(params, config(sampler="sample", **narrow))
        assert [ids(got[i]) for i in greedy] == [ids(greedy[i]) for i in greedy]


def test_sizes_do_not_matter(params):
    want = ask(params, config())
    counts = {}
    got = ask(params, config(batch_size=9, encode_rows=3), counts=counts)
    assert [ids(got[i]) for i in want] == [ids(want[i]) for i in want]
    assert 0 < counts["useful_steps"] <= counts["slot_steps"]
    assert 0 < counts["useful_rows"] <= counts["encoded_rows"]


def test_budgets_of_rows(params):
    n = len(RECORDS)
    rounds = np.arange(n) % 3 + 1
    segment = np.tile([1, 3, 6], (n, 1))
    chain = np.full(n, 12)
    chain[0] = 2
    got = ask(params, config(samples=2, sampler="sample"), limits=Limits(rounds, segment, chain))
    for i in range(n):
        for one in got[i]:
            assert len(one.segments) <= rounds[i]
            bounds = zip(one.segments, segment[i], strict=False)
            assert all(len(own) <= most for own, most in bounds)
    assert all(len(one.ids) <= 2 for one in got[0])
    assert max(len(one.segments) for chains in got.values() for one in chains) == 3


def test_every_chain_begins_with_the_prefix(params):
    got = ask(params, config(prefix="So"))
    assert all(VOCAB.decode(chain.ids).startswith("So") for (chain,) in got.values())
    forced = [VOCAB.encode("ab"[: i % 3]) for i in range(len(RECORDS))]
    got = ask(params, config(prefix="So"), forced=forced)
    plain = ask(params, config())
    for i, own in enumerate(forced):
        assert ids(got[i])[0][: len(own)] == own.tolist()
        assert len(own) or ids(got[i]) == ids(plain[i])


def test_time_and_counts_are_of_one_pass(params):
    counts, again = {}, {"slot_steps": 1000}
    settings = config(max_chain_tokens=11)  # a program of its own
    args = (trained(params, settings), RECORDS)
    before = n_compilations()
    answers, seconds = answer_questions(*args, timed=True, counts=counts)  # two passes
    assert n_compilations() == before + 1 and seconds > 0
    answer_questions(*args, timed=True, counts=again)  # one
    assert counts == again and counts["useful_rows"] >= len(RECORDS)
    assert [len(chains) for chains in answers] == [1] * len(RECORDS)


def made(text, log_probability, finish_reason=FinishReason.END, labels=(None, None)):
    ids = VOCAB.encode(text)
    halves = np.split(ids, [len(ids) // 2])
    return Generated(
        ids, np.linspace(-1, 0, len(ids), dtype=np.float32), tuple(halves), labels, finish_reason,
        cut_segments=1, tokens=10, log_probability=log_probability,
    )  # fmt: skip


def test_the_row_is_of_the_answer_that_won():
    record = Record("r", "How many?", "Count them.", "7")
    chains = [made("The answer is 5.", -1.0), made("The answer is 7.", -9.0),
              made("None.", -0.1), made("7 it is.", -3.0),
              made("The answer is 5.", -0.5, FinishReason.NONFINITE)]  # fmt: skip
    row = prediction_row(record, chains, usm(), VOCAB)
    assert (row["answer"], row["chain"], row["log_probability"]) == ("7", "7 it is.", -3.0)
    assert row["votes"] == {"7": 2, "5": 1} and list(row["votes"]) == ["7", "5"]
    assert (row["samples"], row["tied"], row["tokens"]) == (5, False, 50)
    assert (row["finish_reason"], row["cut_segments"]) == ("end", 1)
    assert (row["finish_reason"], row["cut_segments"]) == ("end", 1)
    assert is_right(row, "numeric")
    assert "".join(part["text"] for part in row["segments"]) == row["chain"]

    tie = prediction_row(record, chains[:2], usm(), VOCAB)
    assert (tie["answer"], tie["tied"]) == ("5", True) and not is_right(tie, "numeric")
    none = prediction_row(record, [chains[2], chains[2]], usm(), VOCAB)
    assert (none["answer"], none["votes"], none["tied"]) == (None, {}, False)
    single = prediction_row(record, chains[:1], usm(), VOCAB)
    assert single["answer"] == "5" and not single.keys() & {"votes", "samples", "tied"}


@pytest.mark.parametrize("metric, answer", [("exact", "yes"), ("authors", None)])
def test_the_answer_is_that_of_the_metric(metric, answer):
    record = Record("r", "Is it?", "", "Yes")
    chains = [made(f"The answer is {word}", -2.0) for word in ("yes.", "no.", "Yes")]
    fields = TINY | {"evaluate.metric": metric}
    row = prediction_row(record, chains, make_method("usm", finish(base_config(), fields)), VOCAB)
    assert row["answer"] == answer
    assert row["votes"] == ({"yes": 2, "no": 1} if answer else {})


def test_log_probabilities_of_tokens():
    record = Record("r", "How many?", "", "")
    chain = made("Seven.", -3.0, labels=("ES", "AS"))
    plain = prediction_row(record, [chain], usm(), VOCAB)
    row = prediction_row(record, [chain], usm(), VOCAB, log_probabilities=True)
    assert [part["label"] for part in row["segments"]] == ["ES", "AS"]
    assert sum((part["ids"] for part in row["segments"]), []) == chain.ids.tolist()
    values = sum((part["log_probabilities"] for part in row["segments"]), [])
    np.testing.assert_array_equal(np.float32(values), chain.token_log_probability)
    for part in row["segments"]:
        assert VOCAB.decode(part.pop("ids")) == part["text"]
        del part["log_probabilities"]
    assert row == plain
    nan = dataclasses.replace(chain, log_probability=float("nan"))
    assert prediction_row(record, [nan], usm(), VOCAB)["log_probability"] is None


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"sampler": "smaple"}, "did you mean 'sample'"),
        ({"samples": 2}, "decode.sampler=sample"),
        ({"samples": 0}, "decode.samples must be at least 1"),
        ({"sampler": "sample", "temperature": 0.0}, "decode.temperature must be above 0"),
        ({"sampler": "sample", "top_p": 1.5}, "decode.top_p"),
        ({"top_k": -1}, "decode.top_k"),
        ({"seed": -1}, "decode.seed must be at least 0"),
        ({"max_rounds": -1}, "decode.max_rounds must be at least 0"),
        ({"encode_rows": -1}, "decode.encode_rows"),
        ({"batch_size": 0}, "decode.batch_size"),
        ({"context_lengths": "(64, 32)"}, "rising"),
        ({"repeat_ngram": -1}, "decode.repeat_ngram"),
        ({"beams": 2, "sampler": "sample"}, "beam search knows no decode.sampler=sample"),
        ({"beams": 2, "prefix": "So"}, "or decode.prefix=''"),
    ],
)
def test_settings_are_checked(fields, words):
    with pytest.raises(UserError) as error:
        check_decode(config(**fields))
    assert words in str(error.value)


def test_decode_fields_touch_only_what_is_decoded(tmp_path):
    def reads(config, field):
        return {s.name for s in make_stages(Run(config, tmp_path)) if field in s.reads}

    decodes = {f"decode-{name}" for name in ("answer_only", "direct", "dsm", "usm")}
    for field in base_config().decode:
        assert reads(config(), f"decode.{field}") == decodes
    assert reads(config(), "evaluate.metric") == {"report"}
    # Answers that vote are read by the metric.
    voting = config(sampler="sample", samples=3)
    assert reads(voting, "evaluate.metric") == {"report", *decodes}
    with pytest.raises(UserError, match="decode.sampler=sample"):
        make_stages(Run(config(samples=3), tmp_path))


@pytest.mark.parametrize(
    "prefix, words",
    [("<extra_id_0>", "cannot write the prefix"), ("abcdef", "has 6 tokens, and must have fewer")],
)
def test_prefixes_that_cannot_be(params, prefix, words):
    with pytest.raises(UserError, match=words):
        ask(params, config(prefix=prefix))
