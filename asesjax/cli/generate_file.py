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
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import jax

from asesjax.cli.questions import doubts, read_questions
from asesjax.core.errors import UserError, counted
from asesjax.core.files import read_json, write_json
from asesjax.core.options import fingerprint, reads
from asesjax.core.processes import from_first, is_first
from asesjax.core.progress import Progress
from asesjax.core.signals import check_stop
from asesjax.data.vocab import load_saved
from asesjax.decode.passes import in_parts, n_parts
from asesjax.decode.predict import Generated
from asesjax.evals.predictions import prediction_row
from asesjax.evals.runner import make_decoder, stream_answers
from asesjax.experiment import same_run
from asesjax.methods.method import Method, Request, make_method
from asesjax.run import Run, load_method, own_mesh, role_folder, with_lengths
from asesjax.training.checkpoint_files import find_whole

# Chains in a chunk, and how many times those that are written at once they are at least: at the
# end of a chunk some slots of the engine wait for the last chains.
CHUNK_CHAINS = 1024
CHUNK_BATCHES = 8
# Fields of the data section that change what is written.
_DATA = ("answer_template", "question_field", "rationale_field", "answer_field", "options_field",
         "id_field")  # fmt: skip



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
    card = _card(run, method, request, sha256, log_probabilities)
    same_run(run, output=output, card=card)
    if not is_first():
        for _ in _rows(run, name, request, log_probabilities, from_first(int)):
            check_stop()
        return
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
        card = _checked_card(path, card_path, card)
        lines = _rows_there(file, path, request)
        reasons = [json.loads(line)["finish_reason"] for line in lines]
        n = len(request.rows)
        from_first(lambda: len(lines))  # the others begin
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
    mesh, batch_size = own_mesh(run), config.decode.batch_size
    decoder = make_decoder(config, buckets, parts=n_parts(mesh))

    def row(place: int, chains: tuple[Generated, ...]) -> dict[str, Any]:
        assert request.records is not None
        record = request.records[place]
        return prediction_row(record, chains, trained.method, trained.vocab, log_probabilities)

    def rows_of(places: Sequence[int]) -> list[dict[str, Any]]:
        found = dict(stream_answers(trained, request.part(places), decoder, mesh))
        return [row(place, found[i]) for i, place in enumerate(places)]

    for start, end in chunks(len(request.rows), config.decode.samples, batch_size):
        if end <= there:
            continue
        if n_parts(mesh) > 1:
            yield from enumerate(in_parts(range(start, end), rows_of, mesh), start)
            continue
        waiting, following = {}, start
        for i, chains in stream_answers(trained, request.part(range(start, end)), decoder, mesh):
            waiting[start + i] = chains
            while following in waiting:  # all before it are there
                yield following, row(following, waiting.pop(following))
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
    text = f"{counted(len(reasons), 'answer')}, {count['end']} of them brought to an end"
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
