"""The data of skip-thinking: which chunks of a rationale its answer needs, as the student has it.

``skip/<split>.jsonl`` has a row for each record, ``skip/summary.json`` what was left out.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from asesjax.core.files import write_json, write_jsonl
from asesjax.core.options import Config, reads
from asesjax.core.processes import is_first
from asesjax.core.ragged import Ragged, write_annotations
from asesjax.core.stages import Stage
from asesjax.core.types import FILLER
from asesjax.decode.passes import in_parts, n_parts
from asesjax.decode.predict import predict
from asesjax.decode.sampling import greedy
from asesjax.decode.spec import DecodeSpec, Limits
from asesjax.evals.answers import is_correct, marker_of
from asesjax.evals.runner import decode_spec, for_questions, make_decoder
from asesjax.methods.method import TrainedMethod
from asesjax.methods.skip_thinking.report import left_out
from asesjax.methods.skip_thinking.training import SPLITS, STUDENT, Sample, read_samples
from asesjax.run import Run, load_method, own_mesh

SKIP_DATA = "skip/{split}.npz"  # array kept: numbers of the chunks that are written


class Trial(NamedTuple):
    """A sample's answer is asked for, given some of its chunks."""

    sample: int  # its place
    given: Sequence[int]  # numbers of chunks, from 0
    # chunks between these and the answer: the teacher's, or the student's last stages
    following: Sequence[int] = ()


def skip_data_stage(run: Run, config: Config) -> Stage:
    """Return the stage between chunk-wise and skip-thinking training."""
    decode = ("max_segment_tokens", "max_chain_tokens", "int8", "repeat_ngram")
    fields = reads(config, "skip:data") | {"evaluate.metric": config.evaluate.metric}
    fields |= {f"decode.{name}": getattr(config.decode, name) for name in decode}
    own = dataclasses.replace(run, config=config)
    return Stage("skip-data", lambda: make_skip_data(own), fields, (f"train-{STUDENT}",), ("skip",),
                 together=True)  # fmt: skip


def make_skip_data(run: Run) -> None:
    """Find out with the chunk-wise student which chunks its answers need, for each record. Rows of
    ``skip/<split>.jsonl`` hold ``id``, ``boundaries``, ``chunks`` (texts), ``kept`` (numbers from
    0), and whether the student answers rightly from all chunks (``right_before``) and from those
    kept (``right_after``).
    """
    student = load_method(run, STUDENT)
    summaries = {}
    for split in SPLITS:
        samples = read_samples(run, split)
        rows = skip_rows(run, student, samples)
        if not is_first():
            continue
        write_jsonl(run / f"skip/{split}.jsonl", rows)
        write_annotations(run / SKIP_DATA.format(split=split), [row["id"] for row in rows],
                          kept=Ragged.of([row["kept"] for row in rows], np.int32))  # fmt: skip
        summaries[split] = left_out(rows, [sample.record for sample in samples])
        run.say(f"  {split}: {_words(summaries[split])}")
    if is_first():
        write_json(run / "skip/summary.json", summaries)


def skip_rows(run: Run, student: TrainedMethod, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Make the rows of the skip data of some records, see ``make_skip_data``."""
    n_chunks = [len(sample.boundaries) - 1 for sample in samples]
    protect_first, protect_last = run.config.skip.protect_first, run.config.skip.protect_last

    def may_go(i: int, m: int) -> bool:
        return not (protect_first and m == 0 or protect_last and m == n_chunks[i] - 1)

    def right(trials: Sequence[Trial]) -> list[bool]:
        own = functools.partial(answered_rightly, run, student, samples)
        results = in_parts(trials, own, own_mesh(run))
        run.say(f"  {sum(results):,} of {len(results):,} trials end in the right answer")
        return results

    kept, before, after = find_kept(n_chunks, may_go, right, run.config.skip.order)
    return [
        {
            "id": sample.record.id, "boundaries": list(sample.boundaries),
            "chunks": sample.texts, "kept": own, "right_before": b, "right_after": a,
        }
        for sample, own, b, a in zip(samples, kept, before, after, strict=True)
    ]  # fmt: skip


def find_kept(
    n_chunks: Sequence[int],
    may_go: Callable[[int, int], bool],
    right: Callable[[Sequence[Trial]], list[bool]],
    order: str = "front_to_back",
) -> tuple[list[list[int]], list[bool], list[bool]]:
    """Leave out chunk after chunk where the answer stays right without it, all samples at once.

    ``may_go`` says whether chunk m of a sample may be left out, ``right`` whether the answer of
    each trial is right. In "front_to_back" the student writes all chunks behind the one left out,
    from those kept before; it may write that one again and omit a later one. In "back_to_front" it
    writes, from all chunks before, no more than were kept behind, in the last stages. Orders and
    last test (what is kept must suffice, or all is kept) are ours. Returns the kept chunks, and
    whether the answer is right from all chunks and from these.
    """
    kept: list[list[int]] = [[] for _ in n_chunks]
    backwards = order == "back_to_front"
    for turn in range(max(n_chunks, default=0)):
        at = {i: n - 1 - turn if backwards else turn for i, n in enumerate(n_chunks) if turn < n}
        tried = [i for i, m in at.items() if may_go(i, m)]
        results = right([
            Trial(i, range(at[i]), kept[i]) if backwards
            else Trial(i, kept[i], range(at[i] + 1, n_chunks[i]))
            for i in tried
        ])  # fmt: skip
        needless = {i for i, is_right in zip(tried, results, strict=True) if is_right}
        for i in at.keys() - needless:
            kept[i] = sorted([*kept[i], at[i]])
    everything = [list(range(n)) for n in n_chunks]
    before = right([Trial(i, own) for i, own in enumerate(everything)])
    after = right([Trial(i, own) for i, own in enumerate(kept)])
    for i, is_right in enumerate(after):
        if not is_right:
            kept[i], after[i] = everything[i], before[i]
    return kept, before, after


def answered_rightly(
    run: Run,
    student: TrainedMethod,
    samples: Sequence[Sample],
    trials: Sequence[Trial],
) -> list[bool]:
    """Let the student continue from some chunks with the most probable tokens and judge its
    answers. It writes the missing chunks, or fewer where it ends them itself, and the answer. With
    ``skip.continuation`` "teacher" the sample's own chunks replace what it would write.
    """
    config, vocab, mesh = run.config, student.vocab, own_mesh(run)
    parts = n_parts(mesh)
    decoder = make_decoder(student.method.config, parts=parts)
    spec, limits = decode_spec(student.method, vocab)
    answers = dataclasses.replace(spec, sampler=greedy, beams=1)
    answer_turn = spec.n_turns - 1
    # The mark of the answer ends a chain here, so that only chunks are written.
    chunks = dataclasses.replace(
        answers, n_turns=answer_turn, sentinel_id=spec.turns[-1].mark,
        turns=tuple(turn._replace(mark=-1) for turn in spec.turns),
    )  # fmt: skip
    contexts, left = [], []
    for i, given, following in trials:
        by_teacher = config.skip.continuation == "teacher"
        own = samples[i].ids([*given, *following] if by_teacher else given)
        contexts.append(np.concatenate([samples[i].question, *own]).astype(np.int32))
        left.append(0 if by_teacher else len(following))

    def write(
        spec: DecodeSpec, rows: Sequence[int], turns: list[int], rounds: list[int]
    ) -> list[np.ndarray]:
        # Always so many rows, some of them idle: batches of one size are compiled once.
        most = min(-(-len(samples) // parts), decoder.batch_size)
        idle = [spec.n_turns - 1] * max(0, most - len(rows)) if rows else []
        asked = [contexts[row] for row in rows] + contexts[:1] * len(idle)
        bounds = Limits(np.array(rounds + [1] * len(idle)), *limits[1:])
        found = predict(
            student.model, student.params, asked, bounds, spec,
            for_questions(decoder, asked), mesh,
            first_turns=np.array(turns + idle),
        )  # fmt: skip
        return [chain.ids for chain in found[: len(rows)]]

    rows = [row for row, n in enumerate(left) if n]
    turns = [len(samples[trials[row].sample].boundaries) - 1 - left[row] for row in rows]
    more = write(chunks, rows, turns, [left[row] for row in rows])
    for row, ids in zip(rows, more, strict=True):
        contexts[row] = np.concatenate([contexts[row], ids]).astype(np.int32)
    n = len(trials)
    said = write(answers, range(n), [answer_turn] * n, [1] * n)
    how = config.evaluate.metric, marker_of(config.data.answer_template)
    return [
        is_correct(vocab.decode(ids), samples[trial.sample].record.answer, *how)
        for ids, trial in zip(said, trials, strict=True)
    ]


def _words(summary: dict) -> str:
    text = (
        f"{summary['kept_share']:.1%} of {summary['chunks']:,} chunks kept; answers right from all "
        f"chunks {summary['right_before']:.1%}, from those kept {summary['right_after']:.1%}"
    )
    for label, n in summary.get("sentences", {}).items():
        what = "filler" if label == FILLER else label
        text += f"; {what} left out {summary['left_out'][label]} of {n}"
    return text
