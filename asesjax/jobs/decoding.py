"""Chains for the test split and for the learning curve, and the report of them all."""

from typing import Any

from asesjax.core.files import read_json, write_json, write_jsonl
from asesjax.data.corpus import EncodedRecord, read_corpus
from asesjax.data.vocab import load_saved
from asesjax.evals.predictions import prediction_row
from asesjax.evals.report import build_report, decode_speed
from asesjax.evals.runner import answer_questions
from asesjax.methods.method import Method, ReportPart, TrainedMethod, make_method
from asesjax.run import Run, load_method, load_role, own_mesh, role_folder, trained
from asesjax.train.checkpoint import read_cursor
from asesjax.viz.report import write_report


def decode_method(run: Run, method: Method) -> None:
    """Answer the test questions, and validation questions with each kept checkpoint."""
    config = run.config
    vocab = load_saved(run / "vocab")
    folders = [role_folder(run, method.name, role) for role in method.roles]
    folder = run / f"predictions/{method.name}"
    curve = []
    template = config.data.answer_template
    records = read_corpus(run.workdir, "validation", template)[: config.decode.curve_questions]
    steps = [read_json(own / "result.json")["kept_steps"] for own in folders]
    # A role that stopped early keeps its last checkpoint while the other trains on.
    longest = max(map(len, steps))
    steps = [own + own[-1:] * (longest - len(own)) for own in steps]
    for kept in zip(*steps, strict=True) if records else ():
        params = {role: load_role(run, method, role, step, decoding=True)
                  for role, step in zip(method.roles, kept, strict=True)}  # fmt: skip
        rows, _ = _predictions(run, trained(run, method, params, vocab), records)
        cursors = [read_cursor(own, step) for own, step in zip(folders, kept, strict=True)]
        name = f"curve-{len(curve)}.jsonl"
        write_jsonl(folder / name, rows)
        curve.append({
            "file": name, "steps": list(kept),
            "tokens": sum(sum(c["totals"][k] for k in ("source_tokens", "target_tokens"))
                          for c in cursors),
            "seconds": sum(c["seconds"] for c in cursors),
        })  # fmt: skip
    write_json(folder / "curve.json", curve)
    counts: dict[str, int] = {}
    records = read_corpus(run.workdir, "test", template)
    using = load_method(run, method.name)
    rows, seconds = _predictions(run, using, records, timed=True, counts=counts)
    write_jsonl(folder / "test.jsonl", rows)
    decode = {"questions": len(records), "seconds": seconds} | counts
    write_json(folder / "decode.json", decode)
    speed = decode_speed(decode)
    shares = [f", {speed[name]:.0%} of {what} useful" for name, what in
              (("slot_utilisation", "decoder slots"), ("row_utilisation", "encoded rows"))
              if speed[name] is not None]  # fmt: skip
    run.say(f"  {speed['questions_per_second']:.1f} questions/s" + "".join(shares))
    for row in rows[:1]:
        run.say(f"  {row['question'][:200]}\n  -> {row['chain'][:300]}")


def _predictions(
    run: Run, using: TrainedMethod, records: list[EncodedRecord], **options: Any
) -> tuple[list[dict], float]:
    answers, seconds = answer_questions(using, records, own_mesh(run), **options)
    rows = [prediction_row(record.record, chains, using.method, using.vocab)
            for record, chains in zip(records, answers, strict=True)]  # fmt: skip
    return rows, seconds


def make_report(run: Run) -> None:
    """Measure the predictions, print the table and draw the figures."""
    methods = [make_method(name, run.config) for name in run.config.methods]
    report = build_report(run.config, run.workdir, {m.name: m.roles for m in methods})
    parts: dict[str, ReportPart] = {}
    for method in methods:
        part = method.report(run, report["rows"])
        if part is not None:
            before = parts.get(part.name, part)
            parts[part.name] = part._replace(columns=before.columns | part.columns)
    run.say("\n" + write_report(run.workdir, report, list(parts.values())))
