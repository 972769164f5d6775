"""Stages of a run: which are finished, which must run, and what changed since they ran.

A stage is known by the configuration fields it reads and by the stages it needs. A small record in
``workdir/stages`` is written when a stage starts and again when it ends, then with size and
checksum of each file that it wrote. A stage whose record differs from the configuration, or whose
files differ from the record, is never continued or reused: the run stops and names the fields or
files, or, when asked to redo, moves the old outputs aside first. What a stage left that did not end
and has no checkpoint is no result, and is moved aside without being asked.
"""

import contextlib
import dataclasses
import glob
import itertools
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from asesjax.core import buckets
from asesjax.core.errors import UserError
from asesjax.core.files import changed_files, checksum, read_record, write_record
from asesjax.core.options import fingerprint
from asesjax.core.signals import check_stop
from asesjax.core.trackers import TRACKERS


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of a run."""

    name: str  # unique; also the name of its record
    run: Callable[[], None]  # does the work; must be able to continue after being killed
    reads: Mapping[str, Any]  # fields that its result depends on, and values (``options.reads``)
    needs: tuple[str, ...] = ()  # names of the stages whose results it reads
    outputs: tuple[str, ...] = ()  # its own paths below the workdir, moved aside when redone
    together: bool = False  # on the devices of all processes; process 0 does the others alone
    # tells whether large results with checksums of their own are whole, or can be made anew by
    # running the stage again; asked where a stage that reads them is about to run
    whole: Callable[[], bool] = lambda: True
    # stages that those it needs read for other ends, such as a comparison in the report
    without: tuple[str, ...] = ()


def in_order(stages: Sequence[Stage]) -> list[Stage]:
    """Put every stage behind those it needs; those of one name, which must agree, become one."""
    left: dict[str, Stage] = {}
    for stage in stages:
        there = left.setdefault(stage.name, stage)
        wrong = [name for name in {**there.reads, **stage.reads}
                 if there.reads.get(name) != stage.reads.get(name)]  # fmt: skip
        if wrong:
            raise UserError(
                f"stage {stage.name} is shared by rows that want different {', '.join(wrong)}; "
                "give these rows the same values, or a workdir each"
            )
        needs = tuple(dict.fromkeys((*there.needs, *stage.needs)))
        left[stage.name] = dataclasses.replace(there, needs=needs)
    out: list[Stage] = []
    while left:
        done = {stage.name for stage in out}
        ready = next((s for s in left.values() if done.issuperset(s.needs)), None)
        if ready is None:
            missing = {need for stage in left.values() for need in stage.needs} - done - set(left)
            raise UserError(
                f"stages {', '.join(left)} need {', '.join(missing) or 'each other'}, which "
                "nothing provides; see the needs of the methods"
            )
        out.append(left.pop(ready.name))
    return out


def builds_on(stages: Sequence[Stage], name: str) -> list[Stage]:
    """Return the stages whose results went into that of one stage, in the order given."""
    by_name = {stage.name: stage for stage in stages}

    def behind(name: str, without: frozenset[str]) -> set[str]:
        without |= set(by_name[name].without)
        needs = set(by_name[name].needs) - without
        return needs.union(*(behind(need, without) for need in needs))

    found = behind(name, frozenset())
    return [stage for stage in stages if stage.name in found]


def run_stages(
    stages: Sequence[Stage],
    workdir: str | Path,
    redo: bool = False,
    say: Callable[[str], None] = print,
    before: Callable[[], object] = lambda: None,
    shared: Path | None = None,
) -> list[str]:
    """Run the stages that are not finished, in the order given; return the names of those that ran.
    ``redo`` moves outputs of stages whose configuration changed to ``superseded/`` and runs them;
    without it they are a UserError before the first stage runs. ``before`` is called once, between
    this check and the first stage; ``say`` gets a line for each stage. What another run below
    ``shared`` (a folder, or a folder in one) has finished with the same fields is taken from there.
    """
    workdir = Path(workdir)
    wanted = _wanted(stages)
    records, aside = _compare(stages, wanted, workdir, redo)
    before()
    finished = _finished(records, aside)
    read = {need for stage in stages if stage.name not in finished for need in stage.needs}
    ran = []
    for stage in stages:
        check_stop()
        record = records[stage.name]
        if stage.name in aside:
            record = None
            _set_aside(stage, aside[stage.name], workdir, say)
            buckets.publish()
        elif record and record["finished"] and (stage.name not in read or stage.whole()):
            say(f"[{stage.name}] finished before ({record['seconds']:.0f} s); kept")
            continue
        elif shared and not record:
            if other := _taken(stage, wanted[stage.name], workdir, shared):
                buckets.publish()
                say(f"[{stage.name}] taken from {other}")
                continue
        path = workdir / _record(stage)
        spent = record["seconds"] if record else 0.0
        entry = wanted[stage.name] | {"finished": False, "seconds": spent}
        write_record(path, entry)
        buckets.publish()
        say(f"[{stage.name}] {'resumes' if record else 'starts'}")
        start = time.perf_counter()
        try:
            stage.run()
        finally:
            entry["seconds"] = spent + time.perf_counter() - start
            write_record(path, entry)
        buckets.publish()  # all that the record names, before it
        write_record(path, entry | {"finished": True, "files": _files(stage, workdir)})
        buckets.publish()
        say(f"[{stage.name}] done in {entry['seconds']:.1f} s")
        ran.append(stage.name)
    return ran


def check_stages(stages: Sequence[Stage], workdir: str | Path) -> set[str]:
    """Return the names of the stages that are finished. Raises the UserError of ``run_stages`` for
    results of another configuration, or other files than the stages wrote.
    """
    records, aside = _compare(stages, _wanted(stages), Path(workdir), redo=False)
    return _finished(records, aside)


def _finished(records: dict[str, dict | None], aside: dict[str, list[str]]) -> set[str]:
    return {name for name, record in records.items()
            if record and record["finished"] and name not in aside}  # fmt: skip


def _compare(
    stages: Sequence[Stage], wanted: dict[str, dict], workdir: Path, redo: bool
) -> tuple[dict[str, dict | None], dict[str, list[str]]]:
    """Return the record of each stage, and of those that run anew what is moved aside before."""
    records: dict[str, dict | None] = {}
    aside: dict[str, list[str]] = {}
    stale: dict[str, str] = {}
    damaged: set[str] = set()
    for stage in stages:
        try:
            records[stage.name] = record = _read(workdir, stage)
        except UserError as error:
            records[stage.name], aside[stage.name] = None, [_record(stage)]
            stale[stage.name] = str(error)
            damaged.add(stage.name)
            continue
        if record and record["fingerprint"] != wanted[stage.name]["fingerprint"]:
            aside[stage.name] = [*stage.outputs, _record(stage)]
            if record["finished"] or _has_checkpoint(stage, workdir):
                stale[stage.name] = _changes(record, wanted[stage.name])
        elif record and (wrong := changed_files(workdir, record.get("files", {}))):
            stale[stage.name] = "; ".join(text for _, text in wrong[:5])
            stale[stage.name] += f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            # What training resumes from lies beside, and what it reads elsewhere.
            inside = all(name.startswith("roles/") for name, _ in wrong)
            names = [name for name, _ in wrong] if inside else stage.outputs
            aside[stage.name] = [*names, _record(stage)]
            damaged.add(stage.name)
    if stale and not redo:
        changed = "".join(f"  stage {name}: {changes}\n" for name, changes in stale.items())
        what = "results of another configuration" if stale.keys() - damaged else "changed files"
        left = [name for name, record in records.items()
                if record and not record["finished"] and name not in stale]  # fmt: skip
        hint = f"; stage {left[0]} is not finished: repeat --redo if that began it" if left else ""
        raise UserError(
            f"workdir {workdir} holds {what}:\n{changed}give another "
            "--workdir, restore those fields or files, or add --redo to move these stages' old "
            f"outputs to {workdir / 'superseded'} and run them again{hint}"
        )
    return records, aside


def _wanted(stages: Sequence[Stage]) -> dict[str, dict]:
    wanted: dict[str, dict] = {}
    for stage in stages:
        fields = {name: list(value) if isinstance(value, tuple) else value
                  for name, value in stage.reads.items()}  # fmt: skip
        needs = {name: wanted[name]["fingerprint"] for name in stage.needs}
        facts = {"fields": fields, "needs": needs}
        wanted[stage.name] = {"fingerprint": fingerprint(facts)} | facts
    return wanted


def _record(stage: Stage) -> str:
    return f"stages/{stage.name}.json"


def _read(workdir: Path, stage: Stage) -> dict | None:
    """Return the record of a stage; none for one that was stopped before it wrote anything."""
    path = workdir / _record(stage)
    if not path.exists():
        return None
    record = read_record(path)
    made = record["finished"] or not stage.outputs or any(
        found.is_file() for output in stage.outputs
        for found in (workdir / output, *(workdir / output).rglob("*"))
    )  # fmt: skip
    return record if made else None


def _has_checkpoint(stage: Stage, workdir: Path) -> bool:
    """Tell whether a stage that did not end has left what took long to make."""
    return any("checkpoints" in Path(name).parts for name in _written(stage, workdir))


def _files(stage: Stage, workdir: Path) -> dict[str, list[int]]:
    """Return size and checksum of each file that a stage wrote, but of checkpoints, which have
    their own, and of what is only looked at.
    """
    return {name: checksum(workdir / name) for name in _written(stage, workdir)
            if "checkpoints" not in Path(name).parts}  # fmt: skip


def _written(stage: Stage, workdir: Path) -> list[str]:
    """Return the names of the files that a stage wrote, but of what is only looked at."""
    return [
        path.relative_to(workdir).as_posix()
        for output in stage.outputs
        for path in sorted((workdir / output, *(workdir / output).rglob("*")))
        if path.is_file() and not path.name.startswith(".")
        and not {"profile", *TRACKERS}.intersection(path.relative_to(workdir).parts)
    ]  # fmt: skip


def _taken(stage: Stage, wanted: dict, workdir: Path, shared: Path) -> Path | None:
    """Link to what another run has finished with the same fields, and return its folder. Nothing
    writes into a finished file, so a link is as good as a copy.
    """
    name = glob.escape(_record(stage))
    for path in sorted((*shared.glob(f"*/{name}"), *shared.glob(f"*/*/{name}"))):
        other = path.parents[1]
        with contextlib.suppress(UserError):  # a damaged record: that run says so
            record = read_record(path)
            same = record["finished"] and record["fingerprint"] == wanted["fingerprint"]
            if not same or other == workdir or changed_files(other, record["files"]):
                continue
            for own in _written(stage, other):
                target = workdir / own
                target.parent.mkdir(parents=True, exist_ok=True)
                target.unlink(missing_ok=True)  # of a process that was killed here
                try:
                    os.link(other / own, target)
                except OSError:  # a file system without links
                    shutil.copy2(other / own, target)
            write_record(workdir / _record(stage), record)
            return other
    return None


def _changes(record: dict, wanted: dict) -> str:
    def differing(part: str) -> list[tuple[str, Any, Any]]:
        old, new = record[part], wanted[part]
        pairs = [(name, old.get(name, "absent"), new.get(name, "absent")) for name in old | new]
        return sorted(row for row in pairs if row[1] != row[2])

    fields = [f"{name}: {old!r} -> {new!r}" for name, old, new in differing("fields")]
    return "; ".join(fields + [f"result of stage {name}" for name, *_ in differing("needs")])


def _set_aside(
    stage: Stage, names: Sequence[str], workdir: Path, say: Callable[[str], None]
) -> None:
    targets = (workdir / "superseded" / f"{stage.name}-{i}" for i in itertools.count(1))
    target = next(path for path in targets if not path.exists())
    target.mkdir(parents=True)
    for name in names:
        source = workdir / name
        if source.exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            source.rename(target / name)
    say(f"[{stage.name}] not as it is wanted now; old outputs moved to {target}")
