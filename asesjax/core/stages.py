"""Stages of a run: which are finished, which must run, and what changed since they ran.

A stage is known by the configuration fields it reads and by the stages it needs. A small record in
``workdir/stages`` is written when a stage starts and again when it ends. A stage whose record
differs from the configuration is never continued or reused: the run stops and names the fields, or,
when asked to redo, moves the old outputs aside first.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from asesjax.core.errors import UserError
from asesjax.core.files import read_json, write_json
from asesjax.core.options import fingerprint


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of a run."""

    name: str  # unique; also the name of its record
    run: Callable[[], None]  # does the work; must be able to continue after being killed
    # configuration fields that its result depends on, with their values (``options.reads``)
    reads: Mapping[str, Any]
    needs: tuple[str, ...] = ()  # names of the stages whose results it reads
    # files and folders below the workdir that are its own, moved aside when redone
    outputs: tuple[str, ...] = ()
    # takes the devices of all processes (``core/processes.py``); process 0 does the others alone
    together: bool = False


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


def run_stages(
    stages: Sequence[Stage],
    workdir: str | Path,
    redo: bool = False,
    say: Callable[[str], None] = print,
    before: Callable[[], object] = lambda: None,
) -> list[str]:
    """Run the stages that are not finished, in the order given; return the names of those that ran.
    ``redo`` moves outputs of stages whose configuration changed to ``superseded/`` and runs them;
    without it they are a UserError before the first stage runs. ``before`` is called once, between
    this check and the first stage; ``say`` gets a line for each stage.
    """
    workdir = Path(workdir)
    wanted = _wanted(stages)
    stale = {}
    for stage in stages:
        record = _read(workdir, stage.name)
        if record and record["fingerprint"] != wanted[stage.name]["fingerprint"]:
            stale[stage.name] = _changes(record, wanted[stage.name])
    if stale and not redo:
        raise UserError(_explain(stale, workdir))
    before()
    ran = []
    for stage in stages:
        record = None if stage.name in stale else _read(workdir, stage.name)
        if stage.name in stale:
            _set_aside(stage, workdir, say)
        elif record and record["finished"]:
            say(f"[{stage.name}] finished before ({record['seconds']:.0f} s); kept")
            continue
        path = workdir / "stages" / f"{stage.name}.json"
        spent = record["seconds"] if record else 0.0
        entry = wanted[stage.name] | {"finished": False, "seconds": spent}
        write_json(path, entry)
        say(f"[{stage.name}] {'resumes' if record else 'starts'}")
        start = time.perf_counter()
        refused = False
        try:
            stage.run()
        except UserError:
            made = any((workdir / output).exists() for output in stage.outputs)
            refused = not record and stage.outputs and not made
            raise
        finally:
            entry["seconds"] = spent + time.perf_counter() - start
            if refused:  # before it wrote anything: once corrected, nothing is to be redone
                path.unlink()
            else:
                write_json(path, entry)
        write_json(path, entry | {"finished": True})
        say(f"[{stage.name}] done in {entry['seconds']:.1f} s")
        ran.append(stage.name)
    return ran


def _wanted(stages: Sequence[Stage]) -> dict[str, dict]:
    wanted: dict[str, dict] = {}
    for stage in stages:
        fields = {name: list(value) if isinstance(value, tuple) else value
                  for name, value in stage.reads.items()}  # fmt: skip
        needs = {name: wanted[name]["fingerprint"] for name in stage.needs}
        wanted[stage.name] = {
            "fingerprint": fingerprint({"fields": fields, "needs": needs}),
            "fields": fields,
            "needs": needs,
        }
    return wanted


def _read(workdir: Path, name: str) -> dict | None:
    path = workdir / "stages" / f"{name}.json"
    return read_json(path) if path.exists() else None


def _changes(record: dict, wanted: dict) -> list[str]:
    old, new = record["fields"], wanted["fields"]
    lines = [
        f"{name}: {old.get(name, 'absent')!r} -> {new.get(name, 'absent')!r}"
        for name in sorted(old | new)
        if old.get(name, None) != new.get(name, None) or (name in old) != (name in new)
    ]
    lines += [
        f"result of stage {name}"
        for name in sorted(record["needs"] | wanted["needs"])
        if record["needs"].get(name) != wanted["needs"].get(name)
    ]
    return lines


def _explain(stale: dict[str, list[str]], workdir: Path) -> str:
    lines = [f"workdir {workdir} holds results of another configuration:"]
    for name, changes in stale.items():
        lines.append(f"  stage {name}: " + "; ".join(changes))
    lines.append(
        "give another --workdir, restore those fields, or add --redo to move these stages' old "
        f"outputs to {workdir / 'superseded'} and run them again"
    )
    return "\n".join(lines)


def _set_aside(stage: Stage, workdir: Path, say: Callable[[str], None]) -> None:
    number = 1
    while (target := workdir / "superseded" / f"{stage.name}-{number}").exists():
        number += 1
    target.mkdir(parents=True)
    for output in (*stage.outputs, f"stages/{stage.name}.json"):
        source = workdir / output
        if source.exists():
            (target / output).parent.mkdir(parents=True, exist_ok=True)
            source.rename(target / output)
    say(f"[{stage.name}] configuration changed; old outputs moved to {target}")
