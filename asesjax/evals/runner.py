"""From questions to chains: a method's decode plan around the one engine."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from asesjax.core.errors import UserError
from asesjax.core.options import Config
from asesjax.core.processes import from_first
from asesjax.core.types import Example, Record, Segment
from asesjax.data.batching import holding
from asesjax.data.corpus import EncodedRecord, encode_record, encode_text, need_tokens
from asesjax.data.examples import Ids, make_example
from asesjax.data.vocab import Vocabulary
from asesjax.decode import continuous, iterative
from asesjax.decode.passes import n_parts
from asesjax.decode.predict import Decoder, Generated, predict, stream
from asesjax.decode.sampling import SAMPLERS
from asesjax.decode.spec import DecodeSpec, Limits, Turn, row_keys
from asesjax.methods.method import Method, Request, TrainedMethod
from asesjax.segmentation.pieces import Piece


def decode_spec(method: Method, vocab: Vocabulary) -> tuple[DecodeSpec, Limits]:
    """Return what the engine needs to know of a method. One that writes its whole chain at once
    gets the chain's bound for its one segment. Raises UserError as ``check_decode`` does.
    """
    check_decode(method.config)
    decode, plan = method.config.decode, method.decode_plan(vocab)
    at_once = plan.n_turns == 1
    segment = decode.max_chain_tokens if at_once else decode.max_segment_tokens
    rounds = plan.n_turns or decode.max_rounds
    spec = DecodeSpec(
        vocab.size, decode.max_chain_tokens, segment, rounds, vocab.eos_id,
        sentinel_id=vocab.sentinel(0) if plan.sentinel else -1,
        stop_ids=tuple(vocab.encode(plan.stop_text).tolist()) if plan.stop_text else (),
        n_turns=plan.n_turns, turns=plan.turns, empty_first=plan.empty_first,
        sampler=SAMPLERS.get(decode.sampler)(decode), repeat_ngram=decode.repeat_ngram,
        beams=decode.beams, length_penalty=decode.length_penalty,
    )  # fmt: skip
    return spec, Limits(rounds, segment, decode.max_chain_tokens)


def check_decode(config: Config) -> None:
    """Raise UserError for settings that cannot be decoded with, before anything is trained."""
    decode = config.decode
    SAMPLERS.get(decode.sampler)(decode)
    make_decoder(config)
    if decode.samples > 1 and decode.sampler == "greedy":
        raise UserError(
            f"decode.samples is {decode.samples}, but decode.sampler=greedy writes the same chain "
            "each time; set decode.sampler=sample, or decode.samples=1"
        )
    if decode.beams > 1:
        for name, plain in {"sampler": "greedy", "prefix": "", "repeat_ngram": 0}.items():
            if getattr(decode, name) != plain:
                raise UserError(
                    f"decode.beams is {decode.beams}, and beam search knows no decode.{name}="
                    f"{getattr(decode, name)}; set decode.beams=1, or decode.{name}="
                    f"{plain or repr(plain)}"
                )


def make_decoder(
    config: Config, buckets: tuple[int, ...] = (), rows: int = 0, parts: int = 1
) -> Decoder:
    """Return how to decode, by default with ``decode.question_buckets`` and ``batch_size``; of
    ``parts`` processes that share the questions, each with its part of the batch.
    """
    decode = config.decode
    return Decoder(
        -(-(rows or decode.batch_size) // parts), tuple(buckets or decode.question_buckets),
        encode_rows=-(-decode.encode_rows // parts), context_lengths=tuple(decode.context_lengths),
        int8=decode.int8,
    )  # fmt: skip


def for_questions(decoder: Decoder, questions: Sequence[np.ndarray]) -> Decoder:
    """Return a decoder that takes questions to which a method has added something, such as worked
    examples or what a model wrote, which may be longer than what is asked.
    """
    longest = max(map(len, questions), default=0)
    return dataclasses.replace(decoder, buckets=holding(decoder.buckets, longest))


def n_compilations() -> int:
    """Programs compiled by all engines in this process."""
    engines: tuple[Any, ...] = (iterative.generate, continuous.run)
    return sum(engine._cache_size() for engine in engines)


def check_question(ids: np.ndarray, where: str, config: Config) -> None:
    """Raise UserError, beginning with ``where``, for a question of no tokens or too many."""
    buckets = tuple(config.decode.question_buckets)
    if not 1 <= len(ids) <= max(buckets, default=0):
        raise UserError(
            f"{where}: its question has {len(ids)} tokens, and must have from 1 to "
            f"{max(buckets)}; raise the last of decode.question_buckets {buckets}"
        )


def encode_prefix(
    text: str, vocab: Vocabulary, room: int, where: str = "decode.prefix"
) -> np.ndarray:
    """Return the ids that chains must begin with, int32; none for an empty text. Raises UserError,
    beginning with ``where``, if the vocabulary cannot write it, or it leaves no token of ``room``.
    """
    ids = vocab.encode(text)
    if ((ids == vocab.unk_id) | np.isin(ids, vocab.sentinels)).any():
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
    trained: TrainedMethod, request: Request, decoder: Decoder, mesh: Mesh | None = None,
    counts: dict[str, int] | None = None,
) -> Iterator[tuple[int, tuple[Generated, ...]]]:  # fmt: skip
    """Yield the place of a question in ``request`` and its ``decode.samples`` chains in the order
    drawn, as soon as they are all there. Rows are spread over the mesh; ``counts`` gets the
    engine's counts added. Raises UserError before anything is generated.
    """
    spec, limits = decode_spec(trained.method, trained.vocab)

    def generate_fn(role: str, questions: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Have a role write one segment for each question, the most probable tokens."""
        room = trained.method.config.decode.max_chain_tokens
        spec = DecodeSpec(trained.vocab.size, room, room, 1, trained.vocab.eos_id, n_turns=1)
        found = predict(
            trained.model, {Turn().role: trained.params[role]}, questions, Limits(1, room, room),
            spec, for_questions(decoder, questions), mesh, counts=counts,
        )  # fmt: skip
        return [generated.ids for generated in found]

    request = trained.method.prepare_requests(trained, request, generate_fn)
    decode, forced = trained.method.config.decode, request.forced
    if forced is None and decode.prefix:
        room = int(min(limits.max_segment_tokens, limits.max_chain_tokens))
        forced = [encode_prefix(decode.prefix, trained.vocab, room)] * len(request.questions)
    # The chains of a question one after the other.
    each = np.repeat(np.arange(len(request.questions)), decode.samples)
    drawn = [row_keys(decode.seed, request.rows, sample) for sample in range(decode.samples)]

    def repeated(values):
        return None if values is None else [values[i] for i in each]

    limits = request.limits or limits
    limits = Limits(*(np.asarray(value)[each] if np.ndim(value) else value for value in limits))
    chains = stream(
        trained.model, trained.params, repeated(request.questions), limits, spec,
        for_questions(decoder, request.questions), mesh,
        np.stack(drawn, axis=1).reshape(-1, 2), repeated(forced), repeated(request.extra_inputs),
        counts=counts,
    )  # fmt: skip
    return _gathered(chains, decode.samples)


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
    trained: TrainedMethod, records: Sequence[Record | EncodedRecord], mesh: Mesh | None = None,
    timed: bool = False, counts: dict[str, int] | None = None, rows: Sequence[int] | None = None,
) -> tuple[list[tuple[Generated, ...]], float]:  # fmt: skip
    """Return each record's ``decode.samples`` chains (for ``prediction_row``) and the seconds it
    took. With ``timed``, decodes once more where the first pass had to compile. ``counts`` is set
    to the engine's counts of the pass that was timed; ``rows`` are the numbers of the records, from
    which what is drawn follows, where they are a process's part of all. Raises UserError for a
    question without tokens or longer than the largest of ``decode.question_buckets``.
    """
    config, counts = trained.method.config, {} if counts is None else counts
    encoded = [record if isinstance(record, EncodedRecord) else
               encode_record(trained.vocab, record, "") for record in records]  # fmt: skip
    for one in encoded:
        check_question(one.question.ids, f"record {one.record.id}", config)
    questions, plain = [one.question.ids for one in encoded], [one.record for one in encoded]
    numbers = np.arange(len(questions)) if rows is None else np.asarray(rows, np.int64)
    request = Request(questions, numbers, records=plain)
    decoder = make_decoder(config, parts=n_parts(mesh))

    def decode() -> tuple[list[tuple[Generated, ...]], float]:
        start = time.perf_counter()
        counts.clear()
        answers = dict(stream_answers(trained, request, decoder, mesh, counts))
        return [answers[i] for i in range(len(records))], time.perf_counter() - start

    before = n_compilations()
    answers, seconds = decode()
    if timed and from_first(lambda: n_compilations() > before):
        answers, seconds = decode()
    return answers, seconds


def chain_examples(
    trained: TrainedMethod, records: Sequence[Record], chains: Sequence[Sequence[Segment]]
) -> list[list[tuple[str, Example]]]:
    """Return the role and the example of every segment of given chains, put together as decoding
    writes them: by the turns of the decode plan in order, or by that of the segment's label. A role
    that may pass the first turn and does has an example of its end mark alone, before the others.
    Raises UserError for segments without tokens or of another number than the method writes, and
    for a method whose models choose their turns or write a part of the input.
    """
    method, vocab = trained.method, trained.vocab
    plan = method.decode_plan(vocab)

    def refused(why: str) -> UserError:
        return UserError(f"chains of row {method.name} cannot be scored from outside: {why}")

    def generate_fn(role: str, questions: Sequence[np.ndarray]) -> list[np.ndarray]:
        raise refused(f"its role {role} first writes a part of the input")

    if any(turn.mark >= 0 for turn in plan.turns):
        raise refused("its model chooses the turns itself")
    questions = [vocab.encode(record.question) for record in records]
    for record, ids in zip(records, questions, strict=True):
        need_tokens(ids, record, "question", record.question)
    request = Request(questions, np.arange(len(records)), records=records)
    request = method.prepare_requests(trained, request, generate_fn)
    extra = request.extra_inputs or [np.zeros(0, np.int32)] * len(records)
    out = []
    for record, question, more, segments in zip(
        records, request.questions, extra, chains, strict=True
    ):
        if plan.n_turns and len(segments) != plan.n_turns:
            raise UserError(
                f"row {method.name} writes a chain in {plan.n_turns} segment(s), and chain "
                f"{record.id} has {len(segments)}; join their texts"
            )
        ends = np.cumsum([0, *(len(segment.text) for segment in segments)]).tolist()
        chain = encode_text(vocab, "".join(segment.text for segment in segments))
        cuts = chain.cuts([Piece(*span) for span in zip(ends, ends[1:], strict=False)])
        turns = [
            next((turn for turn in plan.turns if segment.label and turn.label == segment.label),
                 plan.turns[i % len(plan.turns)])
            for i, segment in enumerate(segments)
        ]  # fmt: skip
        spans = list(zip(turns, cuts, cuts[1:], strict=False))
        if plan.empty_first and turns[0] != plan.turns[0]:
            spans.insert(0, (plan.turns[0], 0, 0))
        own = []
        for i, (turn, start, end) in enumerate(spans):
            if turn is turns[0] or i:
                need_tokens(chain.ids[start:end], record, f"segment {i + 1}", chain.text)
            prompt = turn.prompt
            history = chain.ids[0 if prompt.history or not i else spans[i - 1][1] : start]
            parts: list[Ids] = [prompt.lead, question, more if prompt.extra_input else [], history]
            closing = [vocab.sentinel(0)] if plan.sentinel and i == len(spans) - 1 else []
            name = f"{record.id}/{i + 1}"
            example = make_example(vocab, name, parts, [chain.ids[start:end], closing])
            own.append((turn.role, example))
        out.append(own)
    return out
