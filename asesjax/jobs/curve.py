"""Validation questions decoded with the checkpoints of each evaluation: learning curves, and the
selection of checkpoints by what they write (``train.keep_best`` of ``DECODED``).
"""

import json
from collections.abc import Sequence
from typing import Any

from asesjax.core.errors import UserError, counted
from asesjax.core.files import checksum, read_json, read_jsonl, write_json, write_jsonl
from asesjax.core.options import Config
from asesjax.core.processes import all_gather, from_first, is_first
from asesjax.data.corpus import EncodedRecord, read_corpus
from asesjax.data.vocab import load_saved
from asesjax.decode.passes import in_parts, n_parts
from asesjax.evals.predictions import prediction_row
from asesjax.evals.report import accuracy
from asesjax.evals.runner import answer_questions, check_decode
from asesjax.evals.text import corpus_bleu
from asesjax.methods.method import Method, TrainedMethod
from asesjax.run import Run, load_role, own_mesh, role_folder, trained
from asesjax.training.options import DECODED

FOLDER = "curves/{row}"  # below the workdir; a file for each evaluation, named by its roles' steps


def check_selection(config: Config) -> None:
    """Raise UserError for a selection by decoded questions that has none to decode."""
    if config.train.keep_best not in DECODED:
        return
    check_decode(config)
    if config.decode.curve_questions < 1:
        raise UserError(
            f"train.keep_best={config.train.keep_best} decodes validation questions, and "
            "decode.curve_questions=0 asks for none; set it to how many are decoded at each "
            "evaluation, at least 1, or set train.keep_best=validation_loss"
        )


def measure_reads(config: Config) -> dict[str, Any]:
    """Return the field of ``evaluate`` that a measure of ``DECODED`` depends on."""
    name = "language" if config.train.keep_best == "bleu" else "metric"
    return {f"evaluate.{name}": getattr(config.evaluate, name)}


def curve_records(run: Run) -> list[EncodedRecord]:
    """Read the validation questions that are decoded at each evaluation."""
    records = read_corpus(run.workdir, "validation", run.config.data.answer_template)
    return records[: run.config.decode.curve_questions]


def decode_curve(run: Run, method: Method, evaluations: Sequence[Sequence[int]]) -> list[str]:
    """Return the file (below the workdir) of the prediction rows of each evaluation, given as the
    step of each role. What is in its file already, as written, is not decoded again; nothing is,
    without ``decode.curve_questions``. All processes call this.
    """
    vocab, records = load_saved(run / "vocab"), curve_records(run)
    folder = FOLDER.format(row=method.name)
    there = run / folder / "files.json"
    names = {f"{folder}/{'-'.join(map(str, steps))}.jsonl": steps
             for steps in (evaluations if records else ())}  # fmt: skip

    def left() -> tuple[dict[str, list[int]], list[str]]:
        sums = read_json(there) if there.exists() else {}
        return sums, [name for name in names if not (run / name).is_file()
                      or sums.get(name) != checksum(run / name)]  # fmt: skip

    sums, missing = from_first(left)
    spent = 0.0
    for name in missing:
        at = zip(method.roles, names[name], strict=True)
        params = {role: load_role(run, method, role, step, decoding=True) for role, step in at}
        rows, work = predict(run, trained(run, method, params, vocab), records)
        spent += max(own["seconds"] for own in work)
        if is_first():
            write_jsonl(run / name, rows)
            sums[name] = checksum(run / name)
            write_json(there, sums)
    if missing:
        n = len(missing)
        results = [role_folder(run, method.name, role) / "result.json" for role in method.roles]
        trained_for = sum(read_json(path)["seconds"] for path in results if path.is_file())
        share = (f", {spent / trained_for:.0%} of the {trained_for:.1f} s of training without"
                 if trained_for >= 0.1 else "")  # fmt: skip
        run.say(f"  {counted(n, 'evaluation')} of {counted(len(records), 'question')} decoded in "
                f"{spent:.1f} s with compiling{share}")  # fmt: skip
    return list(names)


def curve_points(
    run: Run, method: Method, evaluations: Sequence[Sequence[int]]
) -> list[dict[str, Any]]:
    """Return the points of the learning curve, as ``curve.json`` has them."""
    folders = [role_folder(run, method.name, role) for role in method.roles]
    results = [read_json(folder / "result.json") for folder in folders]
    points = []
    for steps, name in zip(evaluations, decode_curve(run, method, evaluations), strict=False):
        own = [result["kept"][str(step)] for result, step in zip(results, steps, strict=True)]
        points.append({
            "file": f"../../{name}", "steps": list(steps),
            **{what: sum(one[what] for one in own) for what in ("tokens", "seconds")},
        })  # fmt: skip
    return points


def decoded_measures(
    run: Run, method: Method, evaluations: Sequence[Sequence[int]]
) -> list[dict[str, Any]]:
    """Return ``train.keep_best`` of each evaluation, a share or BLEU of the chains that the roles
    write together, with the place of the evaluation as "step".
    """
    measure, evaluate = run.config.train.keep_best, run.config.evaluate

    def measured(name: str) -> float | None:
        rows = [row for _, row in read_jsonl(run / name)]
        if measure != "bleu":
            return accuracy(rows, evaluate.metric, run.config.data.answer_template)[0]
        chains, references = ([row[of] for row in rows] for of in ("chain", "reference_chain"))
        return corpus_bleu(chains, references, evaluate.language)

    names = decode_curve(run, method, evaluations)
    return from_first(lambda: [{"step": i, measure: measured(name)}
                               for i, name in enumerate(names)])  # fmt: skip


def predict(
    run: Run, using: TrainedMethod, records: list[EncodedRecord], timed: bool = False
) -> tuple[list[dict[str, Any]], list[dict[str, float]]]:
    """Answer questions, all processes their part; return prediction rows, and of each process the
    questions and seconds that it took, and the engine's counts.
    """
    mesh = own_mesh(run)
    work: list[dict[str, float]] = []

    def answer(numbers: Sequence[int]) -> list[dict[str, Any]]:
        own = [records[i] for i in numbers]
        counts: dict[str, int] = {}
        answers, seconds = answer_questions(using, own, mesh, timed, counts, numbers)
        work.append({"questions": len(own), "seconds": seconds} | counts)
        return [prediction_row(record.record, chains, using.method, using.vocab)
                for record, chains in zip(own, answers, strict=True)]  # fmt: skip

    # The longest questions first: they tend to have the longest chains, and what comes last
    # leaves slots idle.
    order = sorted(range(len(records)), key=lambda i: -len(records[i].question.ids))
    rows = in_parts(order, answer, mesh)
    rows = [row for _, row in sorted(zip(order, rows, strict=True), key=lambda pair: pair[0])]
    if n_parts(mesh) > 1:
        told = all_gather(json.dumps(work).encode(), 0.0)
        work = [own for one in told for own in json.loads(one)]
    return rows, work
