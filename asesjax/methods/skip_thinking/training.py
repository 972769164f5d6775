"""Chunk-wise training, whose chunks change during training.

Phase k uses the boundaries in ``chunks/<k>/<split>.npz`` (``search.json`` says what moved), the
methods that come after it those in ``chunks/<split>.npz``. A variant has ``chunks-<row>/``.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asesjax.core.errors import UserError
from asesjax.core.files import read_json, write_json
from asesjax.core.processes import from_first, is_first
from asesjax.core.ragged import Ragged, write_annotations
from asesjax.core.types import Record
from asesjax.data.corpus import read_corpus
from asesjax.data.vocab import Vocabulary, load_saved
from asesjax.decode.score import score_examples
from asesjax.jobs.training import role_examples, role_steps, start_params, train_role, train_roles
from asesjax.methods.method import Method, TrainedMethod
from asesjax.methods.skip_thinking.chunks import (
    Boundaries,
    Sentences,
    average_boundaries,
    chunk_example,
    find_sentences,
    make_marks,
)
from asesjax.methods.skip_thinking.search import Candidate, Cost, Searched, objective, search
from asesjax.run import Run, load_role, model_config, own_mesh
from asesjax.training.loop import TrainResult

STUDENT = "cwt"  # the row whose training writes chunks, and that others start from
CHUNKS = "chunks/{split}.npz"  # array boundaries: of the chunks, in sentences
SPLITS = ("train", "validation")


def train_in_phases(run: Run, method: Method) -> None:
    """Train in phases of one run: before each but the first, the student moves the cuts. A
    rationale keeps its number of chunks, so the loop continues with the same schedule and
    optimizer. Finished phases are not repeated on resume. Raises UserError for too few steps.
    """
    vocab = load_saved(run / "vocab")
    model = model_config(run, vocab)
    start = start_params(run, method, model)
    chunk = run.config.chunk
    n_phases = 1 + (chunk.refreshes if chunk.chunking == "search" else 0)
    folder = run / chunk_folder(method.name)
    _once(folder / "0", lambda: _cut_evenly(run, folder / "0"))
    steps = role_steps(run, _phase_examples(run, method, 0)["train"])
    ends = [round((k + 1) * steps / n_phases) for k in range(n_phases)]
    if steps < n_phases:
        raise UserError(
            f"{steps} steps of training cannot be divided into the {n_phases} phases that "
            f"chunk.refreshes={chunk.refreshes} asks for; train for longer, or lower it"
        )

    def train_to(role: str, until: int) -> TrainResult:
        for k, end in enumerate(ends):
            if k:
                _once(folder / str(k), lambda: _search(run, method, vocab, k, ends[k - 1]))  # noqa: B023
            examples = _phase_examples(run, method, k)
            result = train_role(
                run, method.name, role, model, examples["train"], examples["validation"], steps,
                start, min(until, end),
            )  # fmt: skip
            # Short of the end of a phase, by train.patience, what follows has no checkpoint there.
            if result.steps < end or until == end:
                break
        return result

    result = train_roles(run, method, {"main": steps}, train_to)["main"]
    k = next(k for k, end in enumerate(ends) if result.steps <= end)

    def write() -> None:
        for split in SPLITS:
            samples = read_samples(run, split, _phase_file(method, k))
            _write_boundaries(folder, split, samples, [one.boundaries for one in samples])
        searches = [read_json(folder / f"{i}/search.json")["seconds"] for i in range(1, k + 1)]
        if searches:
            write_json(run / f"roles/{method.name}/prepared.json", {"chunk search": sum(searches)})

    from_first(write)


def chunk_folder(row: str) -> str:
    """Return where a row that is trained chunk-wise keeps its chunks, below the workdir."""
    return "chunks" if row == STUDENT else f"chunks-{row}"


class Sample(NamedTuple):
    """A record, the ids of its question, its sentences, and where its chunks are cut."""

    record: Record
    question: np.ndarray
    sentences: Sentences
    boundaries: Boundaries

    def ids(self, chunks: Sequence[int]) -> list[np.ndarray]:
        """Ids of some of its chunks."""
        return [self.sentences.run(self.boundaries[m], self.boundaries[m + 1]) for m in chunks]

    @property
    def texts(self) -> list[str]:
        """Texts of its chunks."""
        ends = [self.sentences.text_ends[b] for b in self.boundaries]
        return [self.record.rationale[a:b] for a, b in zip(ends, ends[1:], strict=False)]


def read_samples(run: Run, split: str, file: str = CHUNKS) -> list[Sample]:
    """Read the records of a split and the boundaries that a file has for them; none for ""."""
    template = run.config.data.answer_template
    records = read_corpus(run.workdir, split, template, [file] if file else [])
    return [
        Sample(one.record, one.question.ids, find_sentences(one),
               tuple(np.asarray(one.annotations.get("boundaries", ())).tolist()))
        for one in records
    ]  # fmt: skip


def search_boundaries(run: Run, student: TrainedMethod, samples: Sequence[Sample]) -> Searched:
    """Move the cuts of some samples by the loss of a student."""
    config, vocab = run.config, student.vocab
    marks = make_marks(config.chunk, vocab)
    buckets = config.train.source_buckets, config.train.target_buckets

    def score(candidates: Sequence[Candidate]) -> list[Cost]:
        examples = [
            chunk_example(vocab, marks, f"{samples[i].record.id}/{stage + 1}", samples[i].question,
                          samples[i].sentences, stage, start, end)
            for i, stage, start, end in candidates
        ]  # fmt: skip
        scores = score_examples(
            student.model, student.params["main"], examples, *buckets, mesh=own_mesh(run)
        )
        return [Cost(float(nll.sum(dtype=np.float64)), len(nll)) for nll, _ in scores]

    boundaries = [sample.boundaries for sample in samples]
    return search(boundaries, score, config.chunk.objective, config.chunk.threshold)


def _search(run: Run, method: Method, vocab: Vocabulary, k: int, step: int) -> None:
    """Write the boundaries of phase k, with the student as it is after a step."""
    params = {"main": load_role(run, method, "main", step, decoding=True)}
    student = TrainedMethod(method, model_config(run, vocab), params, vocab)
    folder = run / chunk_folder(method.name) / str(k)
    summary: dict[str, Any] = {}
    began = time.perf_counter()
    for split in SPLITS:
        samples = read_samples(run, split, _phase_file(method, k - 1))
        found = search_boundaries(run, student, samples)
        summary[split] = {"step": step, "cuts": found.cuts, "moved": found.moved}
        for name in ("total", "mean_of_means") if found.cuts else ():
            summary[split][name] = [
                float(np.mean([objective(own, name) for own in costs if own]))
                for costs in (found.before, found.after)
            ]
        if is_first():
            _write_boundaries(folder, split, samples, found.boundaries)
        run.say(
            f"  step {step}, {split}: {found.moved} of {found.cuts} cuts moved"
            + "".join(f"; {name} {summary[split][name][0]:.4f} -> {summary[split][name][1]:.4f}"
                      for name in ("total", "mean_of_means") if found.cuts)
        )  # fmt: skip
    summary["seconds"] = time.perf_counter() - began
    if is_first():
        write_json(folder / "search.json", summary)


def _cut_evenly(run: Run, folder: Path) -> None:
    if not is_first():
        return
    n = run.config.chunk.n_chunks
    for split in SPLITS:
        samples = read_samples(run, split, "")
        even = [average_boundaries(len(sample.sentences), n) for sample in samples]
        _write_boundaries(folder, split, samples, even)
    write_json(folder / "search.json", {})


def _write_boundaries(folder: Path, split: str, samples, boundaries) -> None:
    write_annotations(folder / f"{split}.npz", [sample.record.id for sample in samples],
                      boundaries=Ragged.of(boundaries, np.int32))  # fmt: skip


def _phase_file(method: Method, k: int) -> str:
    return f"{chunk_folder(method.name)}/{k}/{{split}}.npz"


def _phase_examples(run: Run, method: Method, k: int) -> dict[str, list]:
    files = (_phase_file(method, k),)
    return {split: role_examples(run, method, split, files)["main"] for split in SPLITS}


def _once(folder: Path, work: Callable[[], None]) -> None:
    """Do what ends with a file ``search.json``, unless it is there; all processes wait for it."""
    if from_first(lambda: not (folder / "search.json").exists()):
        work()
        from_first(lambda: None)
