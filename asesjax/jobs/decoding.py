"""Chains for the test split and for the learning curve, and the report of them all."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

from asesjax.core.files import read_json, read_jsonl, write_json, write_jsonl
from asesjax.core.processes import is_first
from asesjax.core.stages import Stage
from asesjax.data.corpus import read_corpus
from asesjax.evals.report import build_report, compared_chains, decode_speed
from asesjax.jobs.curve import curve_points, predict
from asesjax.jobs.training import log_opener
from asesjax.methods.method import Method, ReportPart, make_method
from asesjax.run import Run, load_method, role_folder, student_run
from asesjax.viz.report import write_report


def decode_method(run: Run, method: Method) -> None:
    """Answer the test questions, and validation questions with each kept checkpoint."""
    results = [read_json(role_folder(run, method.name, r) / "result.json") for r in method.roles]
    folder = run / f"predictions/{method.name}"
    steps = [result["kept_steps"] for result in results]
    # A role that stopped early keeps its last checkpoint while the other trains on.
    longest = max(map(len, steps))
    steps = [own + own[-1:] * (longest - len(own)) for own in steps]
    evaluations = list(dict.fromkeys(zip(*steps, strict=True)))
    points = curve_points(run, method, evaluations)
    records = read_corpus(run.workdir, "test", run.config.data.answer_template)
    rows, work = predict(run, load_method(run, method.name), records, timed=True)
    if not is_first():
        return
    write_json(folder / "curve.json", points)
    write_jsonl(folder / "test.jsonl", rows)
    decode: dict[str, Any] = {name: sum(own.get(name, 0) for own in work) for name in work[0]}
    decode["seconds"] = max(own["seconds"] for own in work)
    if len(work) > 1:
        decode["processes"] = work
    write_json(folder / "decode.json", decode)
    speed = decode_speed(decode)
    shares = [f", {speed[name]:.0%} of {what} useful" for name, what in
              (("slot_utilisation", "decoder slots"), ("row_utilisation", "encoded rows"))
              if speed[name] is not None]  # fmt: skip
    run.say(f"  {speed['questions_per_second']:.1f} questions/s" + "".join(shares))
    for row in rows[:1]:
        run.say(f"  {row['question'][:200]}\n  -> {row['chain'][:300]}")


def make_report(run: Run, before: dict[str, list[Stage]]) -> None:
    """Measure the predictions, print the table and draw the figures. ``before`` has the stages that
    the training of each row builds on.
    """
    methods = [make_method(name, run.config) for name in run.config.methods]
    report = build_report(run.config, run.workdir, {m.name: m.roles for m in methods}, before)
    short = [method.name for method in methods if not method.writes_rationales]
    for row in report["rows"]:
        if row["method"] in short:  # there is no chain to compare
            row |= {"chain_accuracy": None, "first_wrong": None}
    for method, row in zip(methods, report["rows"], strict=True):
        _show(dataclasses.replace(run, config=method.config), method, row)
    parts = _student_part(run)
    for method in methods:
        part = method.report(run, report["rows"])
        if part is not None:
            before = parts.get(part.name, part)
            parts[part.name] = part._replace(columns=before.columns | part.columns)
    chains = compared_chains(run.config, run.workdir, run.config.methods, short)
    run.say("\n" + write_report(run.workdir, report, chains, list(parts.values())))


def _show(run: Run, method: Method, row: dict[str, Any]) -> None:
    """Give the trackers some chains of each evaluation, and of the test, and the final scores."""
    folder = run / f"predictions/{method.name}"
    files = {max(point["steps"]): folder / point["file"] for point in row["curve"]}
    last = max([*row["selected_steps"], *files], default=0)
    names = [name for name in run.config.log.trackers if name != "jsonl"]  # predictions/ has it
    log = log_opener(run, method.name)(run / f"roles/{method.name}", say=run.say, trackers=names)
    with log:
        for step, path in files.items():
            log.write("samples", step, **_samples(path))
        scores = {name: value for name, value in row.items() if type(value) in (int, float)}
        log.write("test", last, **scores, **_samples(folder / "test.jsonl"))


def _samples(path: Path) -> dict[str, str]:
    rows = itertools.islice(read_jsonl(path), 3)
    return {
        f"sample_{n}": f"**{row['question']}**\n\n{row['chain']}\n\n"
        f"*answer: {row['answer']}; reference: {row['reference_answer']}*"
        for n, (_, row) in enumerate(rows, 1)
    }


def _student_part(run: Run) -> dict[str, ReportPart]:
    """Return what the report says of the student that rows start from, where there is one."""
    if (student := student_run(run)) is None:
        return {}
    (row,) = read_json(student / "report.json")["rows"]
    names = ("method", "seed", "questions", "accuracy", "train_tokens", "train_seconds")
    facts = {"folder": student.workdir.name} | {name: row[name] for name in names}
    line = (
        f"Rows start from a student, {row['method']} on problems of its own: "
        f"{row['train_tokens']:,} tokens, {row['train_seconds']:.0f} s; it answers "
        f"{row['accuracy']:.1%} of {row['questions']} new ones of that kind."
    )
    return {"student": ReportPart("student", facts=facts, lines=[line])}
