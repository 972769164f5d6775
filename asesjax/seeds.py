"""The whole job for several seeds, each in a folder of its own, and comparisons over seeds.

``WORKDIR/config.json`` has the seeds, ``WORKDIR/seed-N`` is an ordinary run with seed N, which
every verb takes, and ``WORKDIR/compare.json`` and ``compare.md`` compare the methods over seeds.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asesjax.config import save_fields, saved_fields, swept
from asesjax.core.buckets import owned
from asesjax.core.errors import UserError
from asesjax.core.files import read_json, read_jsonl, write_json, write_text
from asesjax.core.options import fingerprint
from asesjax.core.processes import from_first, is_first
from asesjax.evals.paired import Outcomes, compare
from asesjax.evals.report import is_right
from asesjax.experiment import check_run, execute, same_run
from asesjax.run import Run
from asesjax.viz.compare import comparison_text


def execute_seeds(run: Run, redo: bool = False) -> None:
    """Run all stages (see ``experiment.execute``) once, or once for each seed of the configuration,
    and then compare the methods. The same call resumes, and seeds may be added.
    """
    same_run(run, redo=redo)
    seeds = run.config.seeds
    if not seeds:
        if (run / "config.json").is_file() and saved_fields(run.workdir).get("seeds"):
            raise UserError(f"{run.workdir} holds runs of several seeds; give another --workdir")
        return execute(run, redo=redo)
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(f"seeds must be different numbers from 0 on, got {tuple(seeds)}")
    if (run / "stages").exists():
        raise UserError(f"{run.workdir} holds a run of one seed; give another --workdir")
    with contextlib.ExitStack() as stack:
        from_first(lambda: stack.enter_context(owned(run.workdir)))
        there = (run / "config.json").exists()
        before = saved_fields(run.workdir).get("seeds", ()) if there else ()
        if lost := [seed for seed in before if seed not in seeds]:
            raise UserError(
                f"{run.workdir} compares seeds {', '.join(map(str, before))}, and seeds="
                f"{','.join(map(str, seeds))} leaves out {', '.join(map(str, lost))}; name these "
                "too, or give another --workdir"
            )
        if is_first() and not there:
            save_fields(run.workdir, run.config)
        for seed in seeds:
            folder = run / f"seed-{seed}"
            run.say(f"\nseed {seed}: {folder}")
            own = run.config.changed({"seed": seed, "seeds": ()})
            execute(Run(own, folder, run.say, shared=run.shared or run.workdir), redo=redo)
            if is_first():  # the run has been accepted
                save_fields(run.workdir, run.config)
        if is_first():
            group = compare_runs([run / f"seed-{seed}" for seed in seeds])
            text = comparison_text(group)
            write_json(run / "compare.json", group)
            write_text(run / "compare.md", text)
            run.say(f"\n{text}The same as JSON: {run / 'compare.json'}")


def check_seeds(run: Run) -> None:
    """Check the run of each seed before training (see ``experiment.check_run``)."""
    if not is_first():
        return
    for seed in run.config.seeds or (run.config.seed,):
        own = run
        if run.config.seeds:
            run.say(f"\nseed {seed}")
            config = run.config.changed({"seed": seed, "seeds": ()})
            own = Run(config, run / f"seed-{seed}", run.say, shared=run.workdir)
        check_run(own)
    run.say("nothing is refused, nothing was trained; without --check the same command trains")


def one_by_one(workdirs: Sequence[str | Path]) -> list[Path]:
    """Replace each workdir of a sweep or of several seeds by the folders of its runs."""
    out = []
    for folder in map(Path, workdirs):
        if points := swept(folder):
            out += one_by_one([folder / name for name in points])
            continue
        seeds = saved_fields(folder).get("seeds") if (folder / "config.json").is_file() else None
        out += [folder / f"seed-{seed}" for seed in seeds] if seeds else [folder]
    return out


def same_but_for_seed(workdirs: Sequence[Path]) -> list[list[Path]]:
    """Group runs that differ in their seed alone, as given; no group has a seed twice."""
    groups: list[tuple[str, dict[int, Path]]] = []
    for folder in workdirs:
        fields = saved_fields(folder)
        seed = fields.pop("seed")
        key = fingerprint(fields)
        for other, members in groups:
            if other == key and seed not in members:
                members[seed] = folder
                break
        else:
            groups.append((key, {seed: folder}))
    return [list(members.values()) for _, members in groups]


def compare_runs(workdirs: Sequence[Path]) -> dict[str, Any]:
    """Compare the methods of finished runs that differ in their seed alone. ``rows`` are those of
    ``evals.paired.compare``, with the means over seeds of the numbers in the reports' rows (None
    where one has none). Raises UserError for reports of different methods or missing predictions.
    """
    reports = [read_json(folder / "report.json") for folder in workdirs]
    names = [row["method"] for row in reports[0]["rows"]]
    for folder, report in zip(workdirs, reports, strict=True):
        if [row["method"] for row in report["rows"]] != names:
            raise UserError(
                f"{folder} has other methods than {workdirs[0]}; finish both with the same "
                "configuration"
            )
    by_method = [{row["method"]: row for row in report["rows"]} for report in reports]
    first, made_by = reports[0], [row for _, row in read_jsonl(workdirs[-1] / "run.jsonl")][-1]
    metric = first["metric"]
    how = metric, first.get("answer_template", "")
    outcomes = {name: [_outcomes(folder, name, *how) for folder in workdirs] for name in names}
    rows = compare(outcomes, first["against"])
    for row in rows:
        own = [one[row["method"]] for one in by_method]
        names = [name for name in own[0] if name not in row and name != "seed"]
        row |= {name: _mean([one[name] for one in own]) for name in names}
    return {
        **{name: first[name] for name in ("name", "budget", "metric", "against")},
        "made_by": made_by,
        "runs": [folder.name for folder in workdirs],
        "seeds": [report["seed"] for report in reports],
        "questions": [report["rows"][0]["questions"] for report in reports],
        "rows": rows,
    }


def _mean(values: Sequence[Any]) -> Any:
    """Return the mean of numbers, or of those of each name in dictionaries; None for others."""
    if all(isinstance(value, dict) for value in values):
        names = dict.fromkeys(name for value in values for name in value)
        return {name: _mean([value.get(name, 0) for value in values]) for name in names}
    known = all(isinstance(value, int | float) for value in values)
    return sum(values) / len(values) if known else None


def _outcomes(workdir: Path, method: str, metric: str, template: str) -> Outcomes:
    """Return whether a method answered right, by id and text of the question."""
    rows = [row for _, row in read_jsonl(workdir / f"predictions/{method}/test.jsonl")]
    return {(row["id"], row["question"]): is_right(row, metric, template) for row in rows}
