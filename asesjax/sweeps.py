"""A run for each point of a grid of fields, and one table of them all.

``WORKDIR/sweep.json`` has the points. ``WORKDIR/FIELD=VALUE,...`` is an ordinary run (or one for
each seed) with these values, which every verb takes. What a point has in common with another is
computed once, whatever it is: each stage that the other has finished with the same fields is taken
from it (``core.stages``). ``sweep.md``, ``.csv``, ``.tex`` and ``figures/`` compare the points.
"""

import contextlib
import dataclasses
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from asesjax.config import save_fields, saved_fields, swept
from asesjax.core import processes
from asesjax.core.buckets import owned
from asesjax.core.errors import UserError
from asesjax.core.files import read_json, write_json, write_text
from asesjax.core.options import (
    NOTHING,
    all_fields,
    checked,
    find_field,
    fingerprint,
    flatten,
    parsed,
)
from asesjax.experiment import make_stages, open_run
from asesjax.run import Run
from asesjax.seeds import check_seeds, compare_runs, execute_seeds, one_by_one, same_but_for_seed
from asesjax.training.describe import FILLED
from asesjax.viz.sweeps import accuracy_against, varied_csv, varied_latex, varied_table

# They name and compare runs, and are no settings of one.
_OF_ALL = ("name", "seed", "seeds", "methods", "students", "plugins")
_LONGEST_NAME = 100


def execute_sweep(
    spec: str | None, workdir: str | Path, overrides: Mapping[str, str],
    sweep: Sequence[str] = (), redo: bool = False,
) -> None:  # fmt: skip
    """Run all stages at each point of the grid of ``sweep``, texts ``FIELD=VALUE,VALUE``, and
    compare the points. The same call resumes; other grids add points, and finished ones stay.
    ``spec`` and ``overrides`` are those of ``experiment.open_run``; without ``sweep`` the points
    are those the workdir remembers.

    Raises UserError for wrong fields and values before anything runs, and, when all others are
    done, for points that failed.
    """
    workdir = Path(workdir)
    if (workdir / "config.json").exists() or (workdir / "stages").exists():
        raise UserError(f"{workdir} holds a run, and no sweep; give another --workdir")
    if sweep and not spec:
        raise UserError("--sweep needs --config, the configuration whose fields it changes")
    if spec:
        open_run(spec, workdir, overrides)  # loads plug-ins, which may have fields of their own
    wanted = {_name(point): point for point in _grid(sweep, overrides)}
    with contextlib.ExitStack() as stack:
        processes.from_first(lambda: stack.enter_context(owned(workdir)))
        points = processes.from_first(lambda: _points(workdir, wanted))
        runs: dict[str, Run] = {}
        for name, point in points.items():
            fields = {**overrides, **point} if spec else overrides
            run = open_run(spec, workdir / name, fields)
            twins = [n for n, r in runs.items() if flatten(r.config) == flatten(run.config)]
            if twins:
                run.say(f"{name} has the same fields as {twins[0]}, and is left out")
                continue
            make_stages(run)  # options that conflict are told now
            runs[name] = dataclasses.replace(run, shared=workdir)
        processes.from_first(lambda: _remember(workdir, points, runs))
        failed: dict[str, str] = {}
        for number, (name, run) in enumerate(runs.items(), 1):
            run.say(f"\npoint {number} of {len(runs)}: {run.workdir}")
            try:
                execute_seeds(run, redo)
            except UserError as error:
                if jax.process_count() > 1:  # the others have stopped
                    raise
                failed[name] = str(error)
                run.say(f"this point failed: {error}")
        if processes.is_first() and len(failed) < len(runs):
            done = [workdir / name for name in runs if name not in failed]
            swept_fields = list(dict.fromkeys(itertools.chain(*points.values())))
            run.say("\n" + write_comparison(done, workdir, swept_fields))
    if failed:
        reasons = "\n".join(f"  {name}: {why}" for name, why in failed.items())
        raise UserError(
            f"{len(failed)} of {len(runs)} points failed; the same command tries them again:\n"
            f"{reasons}"
        )


def check_sweep(
    spec: str | None, workdir: str | Path, overrides: Mapping[str, str], sweep: Sequence[str] = ()
) -> None:
    """Check each point before training (see ``experiment.check_run``); arguments are those of
    ``execute_sweep``.
    """
    if not (sweep and spec):
        raise UserError("--check of a sweep needs its --config and --sweep")
    open_run(spec, workdir, overrides)
    for point in _grid(sweep, overrides):
        run = open_run(spec, Path(workdir) / _name(point), {**overrides, **point})
        run.say(f"\n{_name(point)}")
        check_seeds(dataclasses.replace(run, shared=Path(workdir)))


def _grid(sweep: Sequence[str], overrides: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the points of a grid, each the text of every swept field."""
    known, axes = all_fields(), {}
    for text in sweep:
        name, equals, values = text.partition("=")
        where = f"--sweep {name}"
        if not (equals and values):
            raise UserError(f"{where} needs values: --sweep {name or 'FIELD'}=VALUE,VALUE")
        if name in axes or name in overrides:
            raise UserError(f"{where}: the field is given twice; give all values to one --sweep")
        if name in _OF_ALL:
            raise UserError(
                f"{where} is no setting of a single run; several seeds are --config.seeds=0,1,2, "
                "and rows of one table --config.methods"
            )
        field = find_field(name, known)
        if field is not None and field.metadata["changes"] == NOTHING:
            raise UserError(f"{where}: the field changes no results, so nothing can be compared")
        # Items of a list have commas between them, so lists have semicolons.
        several = field is not None and isinstance(field.default, tuple)
        texts = [value.strip() for value in values.split(";" if several else ",")]
        found = [checked(name, parsed(name, value, field), field) for value in texts]
        if len(set(found)) < len(found):
            raise UserError(f"{where}: a value is given twice: {values}")
        axes[name] = texts
    points = itertools.product(*axes.values()) if axes else ()
    return [dict(zip(axes, values, strict=True)) for values in points]


def _name(point: Mapping[str, str]) -> str:
    """Name the folder of a point."""
    text = ",".join(f"{field}={value}" for field, value in point.items())
    name = re.sub(r"[^\w.=,+-]", "_", text)
    return name if name == text and len(name) <= _LONGEST_NAME else (
        f"{name[: _LONGEST_NAME - 20]}-{fingerprint(point)}")  # fmt: skip


def _points(workdir: Path, wanted: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Return the points to run and compare: those wanted, and the finished ones of other grids."""
    known = swept(workdir)
    if not (known or wanted):
        raise UserError(f"{workdir} holds no sweep; give --config and --sweep FIELD=VALUE,VALUE")
    if not wanted:
        return known
    ends = "report.json", "compare.json"
    there = [name for name in known if any((workdir / name / end).is_file() for end in ends)]
    left = [name for name in known if name not in there and name not in wanted]
    if left:
        processes.say(f"not in this grid and not finished, so left out: {', '.join(left)}")
    return {name: known[name] for name in there} | wanted


def _remember(workdir: Path, points: dict[str, dict[str, str]], runs: dict[str, Run]) -> None:
    """Write the points, and the configurations of new ones, by which a bare workdir resumes."""
    for run in runs.values():
        if not (run / "config.json").exists():
            save_fields(run.workdir, run.config)
    write_json(workdir / "sweep.json", {"points": {name: points[name] for name in runs}})


def write_comparison(
    workdirs: Sequence[str | Path], folder: str | Path | None = None, first: Sequence[str] = ()
) -> str:
    """Compare finished runs, those that differ in their seed alone as one, in the fields in which
    they differ, ``first`` those named: return the table. Into ``folder`` go table, CSV, LaTeX and a
    figure for each field.
    """
    fields, rows = varied_rows(same_but_for_seed(one_by_one(workdirs)))
    fields.sort(key=lambda name: first.index(name) if name in first else len(first))
    if first:
        rows.sort(key=lambda row: [_order(row[name]) for name in fields])
    text = varied_table(fields if first else ["run", *fields], rows)
    if folder is None:
        return text
    folder = Path(folder)
    write_text(folder / "sweep.csv", varied_csv(fields, rows))
    write_text(folder / "sweep.tex", varied_latex(fields, rows))
    figures = [accuracy_against(rows, field, fields, folder / f"figures/{field}.png")
               for field in fields]  # fmt: skip
    text += "".join(f"Figure: {path.relative_to(folder)}\n" for path in figures)
    write_text(folder / "sweep.md", text)
    return f"{text}The same as CSV and LaTeX: {folder / 'sweep.csv'}, {folder / 'sweep.tex'}\n"


def _order(value: Any) -> tuple[float, str]:
    return (value, "") if isinstance(value, int | float) else (0.0, str(value))


def varied_rows(groups: Sequence[Sequence[Path]]) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the fields in which groups of runs differ, and a row for each method of each group:
    what ``seeds.compare_runs`` says, the values of these fields, the folder as ``run``, and the
    ``interval`` over test questions where there is one seed.
    """
    known = all_fields()
    leave = {*_OF_ALL, *(n for n, field in known.items() if field.metadata["changes"] == NOTHING)}
    saved = [saved_fields(group[0]) for group in groups]
    names = [n for n in dict.fromkeys(itertools.chain(*saved)) if n not in leave]

    def differ(name: str) -> bool:
        # A field that a checkpoint fills says no more than the checkpoint's name.
        start = "model.init_from" if name in FILLED else ""
        found = {json.dumps([own.get(start), own.get(name)]) for own in saved}
        return len(found) > len({own.get(start) for own in saved})

    fields = [name for name in names if differ(name)]
    rows = []
    for own, group in zip(saved, groups, strict=True):
        values = {name: own.get(name) for name in fields}
        first = {row["method"]: row for row in read_json(group[0] / "report.json")["rows"]}
        for row in compare_runs(group)["rows"]:
            if len(group) == 1:
                row["interval"] = first[row["method"]]["accuracy_interval"]
            run = group[0] if len(group) == 1 else group[0].parent
            rows.append(values | row | {"run": str(run), "seeds": len(group)})
    return fields, rows
