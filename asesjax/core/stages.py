"""Stages of a run: which are finished, which must run, and what changed since they ran.

A stage is known by the configuration fields it reads and by the stages it needs. A small record in
``workdir/stages`` is written when a stage starts and again when it ends. A stage whose record
differs from the configuration is never continued or reused: the run stops and names the fields, or,
when asked to redo, moves the old outputs aside first.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from asesjax.core.errors import UserError
from asesjax.core.files import read_json, write_json
from asesjax.core.options import fingerprint
from asesjax.core.signals import check_stop


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of a run."""

    name: str  # unique; also the name of its record
    run: Callable[[], None]  # does the work; must be able to continue after being killed
    reads: Mapping[str, Any]  # fields that its result depends on, and values (``options.reads``)
    needs: tuple[str, ...] = ()  # names of the stages whose results it reads
    outputs: tuple[str, ...] = ()  # its own paths below the workdir, moved aside when redone
    together: bool = False  # on the devices of all processes; process 0 does the others alone
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
        changed = "".join(f"  stage {name}: {changes}\n" for name, changes in stale.items())
        raise UserError(
            f"workdir {workdir} holds results of another configuration:\n{changed}give another "
            "--workdir, restore those fields, or add --redo to move these stages' old outputs to "
            f"{workdir / 'superseded'} and run them again"
        )
    before()
    ran = []
    for stage in stages:
        check_stop()
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
        facts = {"fields": fields, "needs": needs}
        wanted[stage.name] = {"fingerprint": fingerprint(facts)} | facts
    return wanted


def _read(workdir: Path, name: str) -> dict | None:
    path = workdir / "stages" / f"{name}.json"
    return read_json(path) if path.exists() else None


def _changes(record: dict, wanted: dict) -> str:
    def differing(part: str) -> list[tuple[str, Any, Any]]:
        old, new = record[part], wanted[part]
        pairs = [(name, old.get(name, "absent"), new.get(name, "absent")) for name in old | new]
        return sorted(row for row in pairs if row[1] != row[2])

    fields = [f"{name}: {old!r} -> {new!r}" for name, old, new in differing("fields")]
    return "; ".join(fields + [f"result of stage {name}" for name, *_ in differing("needs")])


def _set_aside(stage: Stage, workdir: Path, say: Callable[[str], None]) -> None:
    targets = (workdir / "superseded" / f"{stage.name}-{i}" for i in itertools.count(1))
    target = next(path for path in targets if not path.exists())
    target.mkdir(parents=True)
    for output in (*stage.outputs, f"stages/{stage.name}.json"):
        source = workdir / output
        if source.exists():
            (target / output).parent.mkdir(parents=True, exist_ok=True)
            source.rename(target / output)
    say(f"[{stage.name}] configuration changed; old outputs moved to {target}")
