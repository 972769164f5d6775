"""Answers a file of questions, all of which are checked before anything is generated.

A command that was stopped at any moment can resume: ``OUTPUT.run.json`` says what the output is
made from and whether it is finished. The finished file is, byte for byte, what a command never
stopped would have written: questions are generated in chunks whose borders depend on the input
alone, because the last bits of a log probability may change with the questions computed beside it,
and a stopped chunk is computed again as a whole.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np

from asesjax.config import Config
from asesjax.core.errors import UserError
from asesjax.core.files import read_json, write_json
from asesjax.core.options import fingerprint, reads
from asesjax.core.progress import Progress
from asesjax.core.types import Record
from asesjax.data.folders import folder_files
from asesjax.data.readers.plain import (
    given_answer,
    parse_fields,
    question_text,
    with_usual_names,
)
from asesjax.data.registry import SOURCES, Reader
from asesjax.data.rows import (
    BadRow,
    Missing,
    Row,
    checked_text,
    optional_text,
    place,
    read_rows,
)
from asesjax.data.sources import unclosed
from asesjax.data.summary import unknown_share
from asesjax.data.vocab import Vocabulary, load_saved
from asesjax.decode.spec import Limits
from asesjax.evals.predictions import prediction_row
from asesjax.evals.runner import (
    check_question,
    decode_spec,
    encode_prefix,
    make_decoder,
    stream_answers,
)
from asesjax.methods.method import Method, Request, make_method
from asesjax.run import Run, load_method, role_folder, run_mesh, with_lengths
from asesjax.training.checkpoint_files import find_whole

# Chains in a chunk, and how many times those that are written at once they are at least: at the
# end of a chunk some slots of the engine wait for the last chains.
CHUNK_CHAINS = 1024
CHUNK_BATCHES = 8
# Fields of the data section that change what is written.
_DATA = ("answer_template", "question_field", "rationale_field", "answer_field", "options_field",
         "id_field")  # fmt: skip
# Fields of a row that bound its own chain, by the names of the bounds of all.
BUDGETS = ("max_rounds", "max_segment_tokens", "max_chain_tokens")


def generate_file(
    run: Run, name: str, source: str, output: str, log_probabilities: bool = False
) -> None:
    """Answer the questions of a JSONL file, or resume where an earlier call stopped: ``output``
    gets a ``prediction_row`` for each, in order. Raises UserError, before anything is generated,
    for wrong input and for an output of other questions, methods, checkpoints or configurations.
    """
    method, path = with_lengths(run, make_method(name, run.config)), Path(output)
    vocab = load_saved(run / "vocab")
    request, sha256 = read_questions(source, method.config, method, vocab)
    assert request.records is not None
    texts = [record.question for record in request.records]
    for doubt in doubts(run, vocab, texts, request.questions):
        print(f"warning: {source}: {doubt}", file=sys.stderr)
    card_path = path.with_name(f"{path.name}.run.json")
    if path.exists() and not path.is_file():
        raise UserError(f"--output {path} is no file that can be continued; give a file")
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+b")
    with file:
        try:  # hold the output for this process alone, until the file is closed
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"another process is writing {path}; wait for it") from None
        card = _card(run, method, request, sha256, log_probabilities)
        card = _checked_card(path, card_path, card)
        lines = _rows_there(file, path, request)
        reasons = [json.loads(line)["finish_reason"] for line in lines]
        n = len(request.rows)
        if len(lines) == n:
            print(f"{path} is complete: {_summary(reasons)}")
        else:
            if lines:
                print(f"{path}: resumes behind {len(lines)} of {n} answers", file=sys.stderr)
            with _writing(card_path):
                write_json(card_path, card | {"finished": False})
            rows = _rows(run, name, request, log_probabilities, len(lines))
            reasons += _append(file, path, rows, lines, n)
            print(f"{path}: {_summary(reasons)}")
        if not card.get("finished"):
            with _writing(card_path):
                write_json(card_path, card | {"finished": True})


def doubts(
    run: Run, vocab: Vocabulary, texts: Sequence[str], ids: Sequence[np.ndarray]
) -> list[str]:
    """Say in what questions are unlike those that the run was trained on: tokens that the
    vocabulary does not know, and lengths (where the run still has its corpus).
    """
    out = []
    n, of, lost = unknown_share(vocab, texts, ids)
    if n:
        out.append(f"{n} of {of} tokens of what is asked are unknown to the vocabulary, most often "
                   f"{', '.join(map(repr, lost))}; the model does not see them")  # fmt: skip
    ends = run / "corpus/train/question_ends.npy"
    if ends.is_file():
        longest = int(np.diff(np.load(ends), prepend=0).max())
        longer = [len(own) for own in ids if len(own) > longest]
        if longer:
            out.append(f"{len(longer)} of {len(ids)} questions are longer than any trained on, up "
                       f"to {max(longer)} tokens instead of {longest}")  # fmt: skip
    return out


def chunks(n: int, samples: int, batch_size: int) -> list[tuple[int, int]]:
    """Return the borders of the chunks that n questions, each with some samples, are generated in.
    A last chunk of less than a batch would be another shape to compile, and joins the one before.
    """
    size = -(-max(CHUNK_CHAINS, CHUNK_BATCHES * batch_size) // samples)
    starts = list(range(0, n, size))
    if len(starts) > 1 and (n - starts[-1]) * samples < batch_size:
        starts.pop()
    return list(zip(starts, [*starts[1:], n], strict=True))


def _rows(
    run: Run, name: str, request: Request, log_probabilities: bool, there: int
) -> Iterator[tuple[int, dict]]:
    """Yield the place and the row of each question, in order, of every chunk not wholly there."""
    trained = load_method(run, name)
    config = trained.method.config
    buckets = tuple(config.decode.question_buckets)
    if config.decode.beams == 1:
        # The engine pads a call's questions to one bucket: one shape for the whole file.
        longest = max(map(len, request.questions))
        buckets = (min(bucket for bucket in buckets if bucket >= longest),)
    decoder = make_decoder(config, buckets)
    for start, end in chunks(len(request.rows), config.decode.samples, decoder.batch_size):
        if end <= there:
            continue
        assert request.records is not None
        waiting, following, part = {}, start, request.part(start, end)
        for i, chains in stream_answers(trained, part, decoder, run_mesh(run)):
            waiting[start + i] = chains
            while following in waiting:  # all before it are there
                record, own = request.records[following], waiting.pop(following)
                parts = (record, own, trained.method, trained.vocab, log_probabilities)
                yield following, prediction_row(*parts)
                following += 1


def _append(
    file: IO[bytes], path: Path, rows: Iterator[tuple[int, dict]], there: list[bytes], n: int
) -> list[str]:
    """Write the rows that are not there yet, each as it comes; return their finish reasons."""
    reasons, warned = [], False
    with contextlib.closing(Progress(path.name, n, len(there), "question")) as progress:
        for place, row in rows:
            line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
            if place < len(there):
                if there[place] != line and not warned:
                    warned = True
                    progress.say(
                        f"warning: row {place + 1} of {path} comes out otherwise now (another "
                        "machine or version?); the rows there are kept"
                    )
                continue
            with _writing(path):
                file.write(line)
                file.flush()
            reasons.append(row["finish_reason"])
            progress.show(place + 1)
        with _writing(path):
            os.fsync(file.fileno())
    return reasons


def _rows_there(file: IO[bytes], path: Path, request: Request) -> list[bytes]:
    """Cut off what a killed process left of a row, and return the whole rows as lines."""
    file.seek(0)
    lines = file.read().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        with _writing(path):
            file.truncate(sum(map(len, lines[:-1])))
        lines.pop()
    if len(lines) > len(request.rows):
        raise UserError(
            f"{path} has {len(lines)} rows for {len(request.rows)} questions; give another "
            "--output, or remove it to begin anew"
        )
    assert request.records is not None
    for number, (line, record) in enumerate(zip(lines, request.records, strict=False), 1):
        try:
            row = json.loads(line)
            same = (row["id"], row["question"]) == (record.id, record.question)
            same = same and "finish_reason" in row
        except (ValueError, KeyError, TypeError):
            same = False
        if not same:
            raise UserError(
                f"{path}:{number}: not the answer to question {number} of the input (id "
                f"{record.id!r}); give another --output, or remove {path} to begin anew"
            )
    return lines


def _card(run: Run, method: Method, request: Request, sha256: str, log_probabilities: bool) -> dict:
    """What an output is made from, as JSON."""
    config = method.config
    kept = reads(config, "decode") | method.reads("decode") | method.reads("train")
    kept["evaluate.metric"] = config.evaluate.metric
    kept |= {f"data.{name}": getattr(config.data, name) for name in _DATA}
    kept.pop("decode.curve_questions")
    checkpoints = {}
    for role in method.roles:
        place = find_whole(role_folder(run, method.name, role))
        content = fingerprint(read_json(place / "files.json"))
        checkpoints[role] = {"checkpoint": place.name, "fingerprint": content}
    card = {
        "method": method.name, "roles": checkpoints, "config": kept,
        "log_probabilities": log_probabilities,
        "input": {"sha256": sha256, "questions": len(request.rows)},
        "chunk": {"chains": CHUNK_CHAINS, "batches": CHUNK_BATCHES},
        # The rest only warns.
        "mesh": dataclasses.asdict(config.mesh),
        "versions": {name: version(name) for name in ("asesjax", "jax", "jaxlib")},
        "devices": [device.device_kind for device in jax.devices()],
    }  # fmt: skip
    return json.loads(json.dumps(card))


def _checked_card(path: Path, card_path: Path, card: dict) -> dict:
    """Return the card of an output of this command; UserError, with what differs, for any other."""
    if not path.stat().st_size:
        return card
    if not card_path.is_file():
        raise UserError(
            f"{path} exists, and no {card_path.name} beside it says that asesjax generate wrote "
            "it; nothing is overwritten, give another --output"
        )
    old = read_json(card_path)
    changed = {name: _changes(name, old.get(name), value)
               for name, value in card.items() if old.get(name) != value}  # fmt: skip
    softly = [changed.pop(name) for name in ("mesh", "versions", "devices") if name in changed]
    if changed:
        raise UserError(
            f"{path} holds answers that were made otherwise: {'; '.join(changed.values())}. "
            "Nothing is overwritten: restore that, give another --output, or remove the file to "
            "begin anew"
        )
    if softly:
        print(f"warning: {path} was begun otherwise ({'; '.join(softly)}); the last digits of log "
              "probabilities may differ", file=sys.stderr)  # fmt: skip
    return old


def _changes(name: str, old: Any, new: Any) -> str:
    """What differs, as ``name.field: old -> new``."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return f"{name}: {old!r} -> {new!r}"
    return "; ".join(
        _changes(f"{name}.{key}", old.get(key), new.get(key))
        for key in sorted(old | new)
        if old.get(key) != new.get(key)
    )


def _summary(reasons: list[str]) -> str:
    count = Counter(reasons)
    cut = ", ".join(f"{n} {reason}" for reason, n in count.items() if reason != "end")
    text = f"{len(reasons)} answers, {count['end']} of them brought to an end"
    text += f" (others: {cut})" if cut else ""
    if "nonfinite" in count:
        text += ("; where the reason is nonfinite, the model's output was not finite: its "
                 "parameters are damaged or too large for model.dtype")  # fmt: skip
    return text


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; fix that; the same command then resumes"
        ) from None


def read_questions(
    path: str | Path, config: Config, method: Method, vocab: Vocabulary
) -> tuple[Request, str]:
    """Read and check a file or folder of questions, with their references, bounds and prefixes;
    return them and the SHA-256 of what was read. UserErrors name file, line and field. A method
    that writes a single segment has only ``max_chain_tokens`` of the ``BUDGETS``.
    """
    sha256 = hashlib.sha256()
    records, lines, budgets, prefixes = [], [], [], []
    for file, number, row in _rows_of(Path(path), sha256):
        where = place(file, number)
        try:
            name = str(number) if file == Path(path) else f"{file.stem}-{number}"
            if isinstance(row, BadRow):
                raise row
            records.append(_question(row, name, file, number, config.data))
        except BadRow as error:
            raise UserError(f"{where}: {error}") from None
        lines.append(where)
        budgets.append({name: _budget(row, name, where, config) for name in BUDGETS})
        prefixes.append(_prefix(row, where, config))
    if not records:
        raise UserError(f"{path} holds no questions")
    questions = vocab.encode_batch([record.question for record in records])
    for where, ids in zip(lines, questions, strict=True):
        check_question(ids, where, config)
    _, plan = decode_spec(method, vocab)
    limits = _limits(budgets, plan, config)
    forced = _forced(prefixes, lines, limits or plan, vocab)
    rows = np.arange(len(questions))
    request = Request(questions, rows, limits, forced, records=records)
    return request, sha256.hexdigest()


def _rows_of(path: Path, sha256: Any) -> Iterator[tuple[Path, int, Row | BadRow]]:
    """Yield file, number and row of all that is in a file, pipe or folder, which is hashed."""
    files = [path]
    if path.is_dir():
        splits = folder_files(path)
        if len(splits) > 1:
            raise UserError(
                f"--input {path} holds the splits {', '.join(splits)}; give the file or folder of "
                "one of them"
            )
        (files,) = splits.values()
    for file in files:
        try:
            content = file.read_bytes()  # once: it may be a pipe
        except OSError as error:
            raise UserError(f"cannot read {file}: {error.strerror}") from None
        sha256.update(content)
        pipe = None if file.is_file() else io.BytesIO(content)
        for number, row in read_rows(file, file=pipe):
            yield file, number, row


def _question(row: Row, name: str, file: Path, number: int, data: Config) -> Record:
    """Read a question and the references that its row has: as the run's data set has them, or the
    fields that the configuration names. ``name`` is for one without an id.
    """
    source = SOURCES.get(data.source)
    if isinstance(source, Reader) and source.parse is not parse_fields:
        with contextlib.suppress(BadRow):
            return unclosed(source.parse(data, row, file, number)[0], data.answer_template)
    row, answer = with_usual_names(row), ""
    with contextlib.suppress(Missing):
        answer = given_answer(data, row)
    name = optional_text(row, data.id_field) or name
    rationale = optional_text(row, data.rationale_field)
    record = Record(name, question_text(data, row), rationale, answer)
    return unclosed(record, data.answer_template)


def _budget(row: dict, name: str, where: str, config: Config) -> int | list[int] | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.isdecimal():  # of a CSV file
        value = int(value)
    room = getattr(config.decode, name)
    several = name == "max_segment_tokens"
    numbers = value if several and isinstance(value, list) else [value]
    if not numbers or not all(type(n) is int and 1 <= n <= room for n in numbers):
        more = ", or a list of such, one for each segment" if several else ""
        raise UserError(
            f"{where}: field {name!r} must be a whole number from 1 to {room} (decode.{name})"
            f"{more}; got {value!r}"
        )
    if len(numbers) > config.decode.max_rounds:
        raise UserError(
            f"{where}: field {name!r} has bounds for {len(numbers)} segments, more than "
            f"decode.max_rounds={config.decode.max_rounds}"
        )
    return numbers if several else value


def _limits(budgets: list[dict], plan: Limits, config: Config) -> Limits | None:
    """The bounds of all rows, [N] and [N, segments]; None where no row has its own."""
    if not any(value is not None for row in budgets for value in row.values()):
        return None
    decode = config.decode
    chain = [row["max_chain_tokens"] or decode.max_chain_tokens for row in budgets]
    if plan.max_rounds == 1:
        return Limits(np.ones(len(chain), int), np.array(chain), np.array(chain))
    rounds = [min(row["max_rounds"] or plan.max_rounds, plan.max_rounds) for row in budgets]
    segment = [row["max_segment_tokens"] or [decode.max_segment_tokens] for row in budgets]
    longest = max(map(len, segment))
    segment = [row + row[-1:] * (longest - len(row)) for row in segment]
    return Limits(np.array(rounds), np.array(segment), np.array(chain))


def _prefix(row: dict, where: str, config: Config) -> str:
    prefix: Any = row.get("prefix")
    if prefix is None:
        return config.decode.prefix
    if not isinstance(prefix, str):
        raise UserError(f"{where}: field 'prefix' must be a text, got {prefix!r}")
    try:
        checked_text(prefix, "prefix")
    except BadRow as error:
        raise UserError(f"{where}: {error}") from None
    if prefix and config.decode.beams > 1:
        raise UserError(f"{where}: field 'prefix': beam search takes none; set decode.beams=1")
    return prefix


def _forced(prefixes, lines, limits: Limits, vocab) -> list[np.ndarray] | None:
    """The ids each chain begins with, all padded to the longest: one shape for the whole file."""
    if not any(prefixes):
        return None
    segment = np.asarray(limits.max_segment_tokens)
    first = segment[:, 0] if segment.ndim == 2 else segment
    room = np.broadcast_to(np.minimum(first, limits.max_chain_tokens), len(lines))
    ids = [encode_prefix(prefix, vocab, int(most), f"{where}: field 'prefix'")
           for prefix, where, most in zip(prefixes, lines, room, strict=True)]  # fmt: skip
    longest = max(map(len, ids))
    return [np.pad(row, (0, longest - len(row))) for row in ids]
