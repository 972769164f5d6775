"""Questions in, prediction rows out: a method's decode plan around the one engine."""

import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from asesjax.core.errors import UserError
from asesjax.core.options import Config
from asesjax.core.types import ES, Record
from asesjax.data.examples import answer_sentence, chain_text
from asesjax.data.vocab import Vocabulary
from asesjax.decode import beam, continuous, iterative
from asesjax.decode.predict import Decoder, Generated, predict, stream
from asesjax.decode.spec import DecodeSpec, Limits, Sampling, check_sampling, row_keys
from asesjax.evals.answers import parse_answer
from asesjax.evals.vote import vote
from asesjax.methods.method import Asked, Method, Trained

FLAGS = ("done", "truncated", "repeated", "broken")  # of a row, see spec.Chains


def decode_plan(method: Method, vocab: Vocabulary) -> tuple[DecodeSpec, Limits]:
    """Return what the engine needs to know of a method.

    A method that writes its whole chain at once gets the chain's bound for its one segment.

    Raises:
      UserError: see ``check_decode``.
    """
    check_decode(method.config)
    decode, shape = method.config.decode, method.shape(vocab)
    single = shape.n_stages == 1
    segment = decode.max_chain_tokens if single else decode.max_segment_tokens
    rounds = shape.n_stages or decode.max_rounds
    spec = DecodeSpec(
        vocab_limit=vocab.size,
        chain_buffer=decode.max_chain_tokens,
        segment_buffer=segment,
        round_buffer=rounds,
        eos_id=vocab.eos_id,
        sentinel_id=vocab.sentinel(0) if shape.sentinel else -1,
        stop_ids=tuple(vocab.encode(shape.stop_text).tolist()) if shape.stop_text else (),
        n_stages=shape.n_stages,
        frames=shape.frames,
        jump_ids=shape.jump_ids,
        sample=decode.mode == "sample",
        repeat_ngram=decode.repeat_ngram,
        beams=decode.beams,
        length_penalty=decode.length_penalty,
    )
    return spec, Limits(rounds, segment, decode.max_chain_tokens)


def check_decode(config: Config) -> None:
    """Refuse what cannot be decoded, before anything is trained for it.

    Raises:
      UserError: a number out of its range, or settings that do not go together.
    """
    decode = config.decode
    check_sampling(sampling(config))
    make_decoder(config)
    for name, least in {
        "max_rounds": 1, "max_segment_tokens": 1, "max_chain_tokens": 1, "samples": 1,
        "beams": 1, "repeat_ngram": 0, "seed": 0,
    }.items():  # fmt: skip
        if getattr(decode, name) < least:
            raise UserError(f"decode.{name} must be at least {least}, got {getattr(decode, name)}")
    if decode.samples > 1 and decode.mode != "sample":
        raise UserError(
            f"decode.samples is {decode.samples}, but decode.mode={decode.mode} writes the same "
            "chain each time; set decode.mode=sample, or decode.samples=1"
        )
    if decode.beams > 1:
        for name, plain in {"mode": "greedy", "prefix": "", "repeat_ngram": 0}.items():
            if getattr(decode, name) != plain:
                raise UserError(
                    f"decode.beams is {decode.beams}, and beam search knows no decode.{name}="
                    f"{getattr(decode, name)}; set decode.beams=1, or "
                    f"decode.{name}={plain or repr(plain)}"
                )


def sampling(config: Config) -> Sampling:
    """How ids are drawn, where ``decode.mode`` is "sample"."""
    return Sampling(config.decode.temperature, config.decode.top_k, config.decode.top_p)


def make_decoder(config: Config, buckets: tuple[int, ...] = (), rows: int = 0) -> Decoder:
    """How questions are run through the device.

    Args:
      config: the section ``decode`` is read.
      buckets: in the place of ``decode.question_buckets``.
      rows: in the place of ``decode.batch_size``.

    Raises:
      UserError: an unknown engine, or sizes that are not positive and rising.
    """
    decode = config.decode
    return Decoder(
        batch_size=rows or decode.batch_size,
        buckets=tuple(buckets or decode.question_buckets),
        engine=decode.engine,
        encode_rows=decode.encode_rows,
        context_lengths=tuple(decode.context_lengths),
        int8=decode.int8,
    )


def n_compilations() -> int:
    """Programs compiled by all engines in this process."""
    return sum(engine.n_compilations() for engine in (iterative, continuous, beam))


def check_question(ids: np.ndarray, where: str, config: Config) -> None:
    """Check that a question can be asked.

    Args:
      ids: of the question.
      where: what the error begins with.
      config: ``decode.question_buckets`` is read.

    Raises:
      UserError: a question without tokens, or longer than the largest bucket.
    """
    buckets = tuple(config.decode.question_buckets)
    if not 1 <= len(ids) <= max(buckets):
        raise UserError(
            f"{where}: its question has {len(ids)} tokens, and must have from 1 to "
            f"{max(buckets)}; raise the last of decode.question_buckets {buckets}"
        )


def encode_prefix(
    text: str, vocab: Vocabulary, room: int, where: str = "decode.prefix"
) -> np.ndarray:
    """Return the ids that a chain is made to begin with, int32; none for an empty text.

    Args:
      text: the prefix.
      vocab: the run's.
      room: tokens that the first segment has room for.
      where: what the error begins with.

    Raises:
      UserError: a prefix that the vocabulary cannot write, or that leaves no room for a token.
    """
    ids = vocab.encode(text)
    if ((ids == vocab.unk_id) | (ids >= vocab.n_pieces)).any():
        raise UserError(
            f"{where}: the vocabulary cannot write the prefix {text[:60]!r}; change its characters"
        )
    if len(ids) >= room:
        raise UserError(
            f"{where}: the prefix has {len(ids)} tokens, and must have fewer than the {room} that "
            "a first segment may have; raise decode.max_segment_tokens or decode.max_chain_tokens"
        )
    return ids


def stream_answers(
    trained: Trained,
    asked: Asked,
    decoder: Decoder,
    mesh: Mesh | None = None,
    counts: dict[str, int] | None = None,
) -> Iterator[tuple[int, tuple[Generated, ...]]]:
    """Decode the chains of some questions, ``decode.samples`` of each.

    Args:
      trained: from ``run.load_method``.
      asked: the questions.
      decoder: from ``make_decoder``.
      mesh: spread the rows over its devices.
      counts: gets the engine's counts added.

    Yields:
      The place of a question in ``asked`` and its chains in the order drawn, as soon as all of
      them are there.

    Raises:
      UserError: see ``decode_plan`` and ``predict.stream``; before anything is generated.
    """
    config = trained.method.config
    spec, limits = decode_plan(trained.method, trained.vocab)
    write = functools.partial(_written, trained, config, decoder, mesh, counts)
    asked = trained.method.ask(trained, asked, write)
    decode = config.decode
    questions, samples = list(asked.questions), decode.samples
    forced, hints, stages = asked.forced, asked.hints, asked.stages
    if forced is None and decode.prefix:
        room = min(limits.max_segment_tokens, limits.max_chain_tokens)
        forced = [encode_prefix(decode.prefix, trained.vocab, room)] * len(questions)
    limits = asked.limits or limits
    keys = None
    if decode.mode == "sample":
        drawn = [row_keys(decode.seed, asked.rows, sample) for sample in range(samples)]
        keys = np.stack(drawn, axis=1).reshape(-1, 2)
    if samples > 1:  # the chains of a question one after the other
        each = np.repeat(np.arange(len(questions)), samples)
        questions = [questions[i] for i in each]
        forced = None if forced is None else [forced[i] for i in each]
        hints = None if hints is None else [hints[i] for i in each]
        stages = None if stages is None else stages[each]
        limits = Limits(*(value[each] if np.ndim(value) else value for value in limits))
    chains = stream(
        trained.model, trained.by_phase, questions, limits, spec, decoder, mesh,
        sampling=sampling(config), keys=keys, forced=forced, hints=hints, stages=stages,
        counts=counts,
    )  # fmt: skip
    return _gathered(chains, samples)


def _written(
    trained: Trained,
    config: Config,
    decoder: Decoder,
    mesh: Mesh | None,
    counts: dict[str, int] | None,
    role: str,
    questions: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """Have a role write one segment for each question, the most probable tokens; see Method.ask."""
    room = config.decode.max_chain_tokens
    spec = DecodeSpec(trained.vocab.size, room, room, 1, trained.vocab.eos_id, n_stages=1)
    # More may be asked than the question, and what a model wrote has no set length.
    buckets, longest = decoder.buckets, max(map(len, questions), default=0)
    while longest > buckets[-1]:
        buckets += (2 * buckets[-1],)
    decoder = dataclasses.replace(decoder, buckets=buckets)
    found = predict(
        trained.model, (trained.of(role),), questions, Limits(1, room, room), spec, decoder, mesh,
        counts=counts,
    )  # fmt: skip
    return [generated.ids for generated in found]


def _gathered(chains, samples: int):
    waiting: dict[int, dict[int, Generated]] = {}
    for index, generated in chains:
        question, sample = divmod(index, samples)
        own = waiting.setdefault(question, {})
        own[sample] = generated
        if len(own) == samples:
            del waiting[question]
            yield question, tuple(own[sample] for sample in range(samples))


def answer_questions(
    trained: Trained,
    records: Sequence[Record],
    mesh: Mesh | None = None,
    timed: bool = False,
    counts: dict[str, int] | None = None,
) -> tuple[list[tuple[Generated, ...]], float]:
    """Decode the chains of some records' questions.

    Args:
      trained: from ``run.load_method``.
      records: only ids and questions are looked at.
      mesh: spread the rows over its devices.
      timed: where the first pass had to compile, decode once more for the time.
      counts: is set to the engine's counts of the pass that the time is of.

    Returns:
      For each record, in order, its ``decode.samples`` chains (for ``prediction_row``), and
      the seconds it took; with ``timed``, without compiling.

    Raises:
      UserError: a question without tokens or longer than the largest of decode.question_buckets.
    """
    config = trained.method.config
    questions = trained.vocab.encode_batch([record.question for record in records])
    for record, ids in zip(records, questions, strict=True):
        check_question(ids, f"record {record.id}", config)
    asked = Asked(questions, np.arange(len(questions)), records=records)
    counts = {} if counts is None else counts

    def decode() -> tuple[list[tuple[Generated, ...]], float]:
        start = time.perf_counter()
        counts.clear()
        answers = dict(
            stream_answers(trained, asked, make_decoder(config), mesh, counts)
        )
        return [answers[i] for i in range(len(records))], time.perf_counter() - start

    before = n_compilations()
    answers, seconds = decode()
    if timed and n_compilations() > before:
        answers, seconds = decode()
    return answers, seconds


def prediction_row(
    record: Record,
    chains: Sequence[Generated],
    method: Method,
    vocab: Vocabulary,
    log_probabilities: bool = False,
) -> dict[str, Any]:
    """Write the chains of a question as a row of a predictions file.

    With several, their answers vote (``vote.vote``; a broken chain has none) and the row is of the
    most probable chain with the answer that won, so that it is scored as that chain is.

    Args:
      record: id, question and references.
      chains: of ``answer_questions`` or ``stream_answers``.
      method: whose labels the segments get.
      vocab: the run's.
      log_probabilities: add each segment's ids and their log probabilities.

    Returns:
      ``id``, ``question``, ``chain`` (text), ``segments`` (text and label each; the label is the
      role's, None where a role writes any segment; perhaps ``ids`` and ``log_probabilities``),
      ``answer`` (as ``answers.parse_answer``), flags, ``tokens`` (decoder steps, of all chains),
      ``log_probability`` (nats), for several chains ``samples`` (their number), ``votes`` (answer
      to number of chains, the winner first) and ``tied``, and from the record
      ``reference_answer``, ``reference_chain`` and, where there is one, ``gold``.
    """
    config, metric = method.config, method.config.evaluate.metric
    texts = [vocab.decode(chain.ids) for chain in chains]
    answers = [parse_answer(text, metric) for text in texts]
    voters = [None if c.broken else a for a, c in zip(answers, chains, strict=True)]
    elected = vote(voters, [chain.log_probability for chain in chains])
    chain = chains[elected.chain]
    row: dict[str, Any] = {
        "id": record.id,
        "question": record.question,
        "chain": texts[elected.chain],
        "segments": _segments(chain, method.labels, vocab, log_probabilities),
        "answer": answers[elected.chain],
        **{name: getattr(chain, name) for name in FLAGS},
        "tokens": sum(each.tokens for each in chains),
        "log_probability": _plain(chain.log_probability),
    }
    if len(chains) > 1:
        row |= {"samples": len(chains), "votes": elected.votes, "tied": elected.tied}
    row["reference_answer"] = record.answer
    record = method.reference(record)
    row["reference_chain"] = chain_text(record, config.data.answer_template)
    if record.gold:
        closing = answer_sentence(record, config.data.answer_template)
        gold = [[segment.text, segment.label] for segment in record.gold]
        if closing:
            gold[-1][0] = gold[-1][0].rstrip() + " "
            gold.append([closing, ES])
        row["gold"] = gold
    return row


def _segments(chain: Generated, labels, vocab: Vocabulary, log_probabilities: bool) -> list[dict]:
    out, start = [], 0
    for place, ids in enumerate(chain.segments):
        out.append({"text": vocab.decode(ids), "label": labels[place % len(labels)]})
        if log_probabilities:
            own = chain.token_log_probability[start : start + len(ids)]
            out[-1] |= {"ids": ids.tolist(), "log_probabilities": [_plain(x) for x in own]}
        start += len(ids)
    return out


def _plain(value: float) -> float | None:
    """The shortest number that names a float32, None where it is not finite."""
    return float(str(np.float32(value))) if np.isfinite(value) else None
