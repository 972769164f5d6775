"""The whole job in stages, each of which can be interrupted, continued and kept.

    data -> what methods need -> train every row -> decode -> report

Everything a run knows lies in its workdir:

    config.json  run.jsonl            configuration; versions, command and machine of each start
    compiled/  stages/                compiled programs; what ran with which fields
    data/  vocab/  corpus/            records of each split; the vocabulary; records in ids
    lengths.json                      bounds of decoding that were chosen from the data
    roles/<row>/<role>/               checkpoints, metrics.jsonl, TensorBoard files
    predictions/<row>/  curves/<row>/ chains for the test split, and at each evaluation
    report.json  report.md  report.html  figures/    what came out
and a folder for what each method's own stages find out.
"""

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from asesjax.config import (
    WORKDIR_FORMAT,
    load_config,
    read_workdir,
    save_fields,
    saved_fields,
    whole_config,
)
from asesjax.core import buckets
from asesjax.core.errors import UserError, unknown
from asesjax.core.files import check_writable
from asesjax.core.options import Config, flatten, reads
from asesjax.core.processes import check_same, follow, is_first, leading
from asesjax.core.programs import drop_programs
from asesjax.core.run_card import add_run_card
from asesjax.core.stages import Stage, builds_on, check_stages, in_order, run_stages
from asesjax.core.trackers import check_trackers
from asesjax.evals.runner import check_decode
from asesjax.jobs.curve import FOLDER, check_selection, measure_reads
from asesjax.jobs.data import content_read, prepare_data
from asesjax.jobs.decoding import decode_method, make_report
from asesjax.jobs.lengths import check_rows
from asesjax.jobs.training import train_method, whole_roles
from asesjax.methods.method import Method, make_method
from asesjax.run import (
    LENGTHS,
    Run,
    check_size,
    describe_devices,
    has_lengths,
    keep_programs,
    one_seed,
    student_run,
    with_lengths,
)
from asesjax.training.duration import length
from asesjax.training.optim import check
from asesjax.training.options import DECODED


def open_run(
    spec: str | ConfigDict | Config | None, workdir: str | Path,
    overrides: Mapping[str, Any] | None = None,
) -> Run:  # fmt: skip
    """Open a run by a config file (``file.py`` or ``file.py:arg``), by the configuration that such
    a file makes, or by what its workdir holds, a folder or the address of one in a bucket. Raises
    UserError for missing files, wrong fields, and another format as workdir.
    """
    if not str(workdir).strip():
        raise UserError("--workdir is empty; name a folder, or . for the one you are in")
    workdir = buckets.workdir(workdir)
    if spec is None or spec == "":
        return Run(read_workdir(workdir, overrides), workdir)
    if (workdir / "config.json").is_file():
        saved_fields(workdir)  # refuses another format
    elif (workdir / "stages").is_dir():
        raise UserError(f"{workdir} holds stages without a config.json; give another --workdir")
    if isinstance(spec, str):
        return Run(load_config(spec, overrides), workdir)
    config = whole_config(spec, overrides)
    return Run(config if config.name else config.changed({"name": workdir.name}), workdir)


def execute(
    run: Run, until: tuple[str, ...] = ("report",), redo: bool = False, wait: bool = False
) -> None:
    """Run the stages up to and including ``until``, and before them those of the student that rows
    start from; finished ones are kept. All processes call this. ``redo`` moves aside the outputs of
    stages whose configuration changed and runs them again; ``wait`` waits for another run in the
    same folder. Raises UserError for anything a user can fix; what was written before stays.
    """
    one_seed(run)
    stages = {stage.name: stage for stage in make_stages(run)}
    wanted = set(until)
    if not wanted:  # asked to score or to segment
        raise UserError("no method of this configuration uses segments; add usm or dsm to methods")
    for name in wanted - stages.keys():
        raise unknown("stage", name, stages)
    for name, stage in reversed(stages.items()):  # each comes after those it needs
        wanted.update(stage.needs if name in wanted else ())
    same_run(run, until=until, redo=redo)
    for name in run.config.methods:
        if f"train-{name}" in wanted:
            check_size(make_method(name, run.config).config)
    _check_packages(run.config, all_rows(run), "report" in wanted)
    only_data = wanted == {"data"}
    ready = functools.cache(lambda: None if only_data else check_rows(run, all_rows(run)))
    # Even where all of its stages are taken from another run, asesjax generate reads the lengths.
    known = (run / LENGTHS).exists() or all(map(has_lengths, all_rows(run)))
    asking = stages.keys() - {"data", *(("report",) if known else ())}
    chosen = [_prepared(stage, ready, name in asking)
              for name, stage in stages.items() if name in wanted]  # fmt: skip
    if (student := student_run(run)) is not None:
        run.say(f"the student that all rows start from: {student.workdir}")
        execute(student, ("data",), wait=True)
        if not only_data:  # nothing is trained that this run would then refuse
            if is_first() and not redo:
                check_stages(chosen, run.workdir)
            _run_stages(run, chosen[:1], redo, wait)
            ready()
            execute(student, wait=True)
        run.say("")
    keep_programs(run)
    if jax.device_count() > 1 and not only_data:
        run.say(describe_devices(run))
    ran = _run_stages(run, chosen, redo, wait)
    if "report" in wanted and is_first() and chosen[-1].name not in ran:
        run.say("\n" + (run / "report.md").read_text(encoding="utf-8"))


def check_run(run: Run) -> None:
    """Do all that comes before training, say what was found and chosen, and keep nothing. Raises
    the UserErrors of ``execute`` for what would be refused before or after training.
    """
    one_seed(run)
    check_writable(run.workdir)
    _check_packages(run.config, all_rows(run), report=True)
    with tempfile.TemporaryDirectory() as folder:
        for own in _in_folder(run, Path(folder)):
            for name in own.config.methods:
                check_size(make_method(name, own.config).config)
            check_rows(own, all_rows(own), dry=True)


def _in_folder(run: Run, folder: Path) -> Iterator[Run]:
    """Yield the student's run and the run, with their data: where it is there, or in a folder."""
    if (student := student_run(run)) is not None:
        if "data" not in check_stages(make_stages(student), student.workdir):
            run = dataclasses.replace(run, config=run.config.changed({"students": str(folder)}))
            student = student_run(run)
            assert student is not None  # it is that from above, elsewhere
            run.say("data of the student")
            prepare_data(student)
        yield student
    if "data" not in check_stages(make_stages(run), run.workdir):
        shared = run.shared or run.workdir  # where the student is
        run = dataclasses.replace(run, workdir=folder / "run", shared=shared)
        run.say("data")
        prepare_data(run)
    yield run


def _check_packages(config: Config, rows: list[Method], report: bool) -> None:
    """Refuse a run that lacks a package, now and not when everything else is done."""
    check_trackers(config.log.trackers)
    needs = dict.fromkeys(("matplotlib", "jinja2", "sacrebleu"), "the report") if report else {}
    for own in (row.config for row in rows):
        if own.train.keep_best == "bleu":
            needs.setdefault("sacrebleu", "train.keep_best=bleu")
        if own.evaluate.metric == "math":
            needs["math_verify"] = "evaluate.metric=math"
    absent = [name for name in needs if find_spec(name) is None]
    if absent:
        raise UserError(
            f"{needs[absent[0]]} needs {' and '.join(absent)}, not installed here: pip install "
            "'asesjax[viz,eval]'"
        )


def _run_stages(run: Run, stages: Sequence[Stage], redo: bool, wait: bool) -> list[str]:
    """Run stages in all processes; return the names of those that ran, in process 0."""
    if not is_first():
        follow([stage.run for stage in stages])
        return []
    with leading() as together, buckets.owned(run.workdir, wait):
        stages = [
            dataclasses.replace(stage, run=together(i, stage.run)) if stage.together else stage
            for i, stage in enumerate(stages)
        ]

        def write_down() -> None:
            save_fields(run.workdir, run.config)
            add_run_card(run.workdir)

        return run_stages(
            stages, run.workdir, redo, run.say, before=write_down, shared=run.shared
        )


def _prepared(stage: Stage, ready: Callable[[], None], asks: bool) -> Stage:
    """Have rows checked in the data stage, or, where the data was kept, before one that asks."""

    def work() -> None:
        drop_programs()
        if asks:
            ready()
        stage.run()
        if stage.name == "data":
            ready()

    return dataclasses.replace(stage, run=work)


def same_run(run: Run, **more: object) -> None:
    """Check that all processes were started for the same run; only the first call asks. Raises
    UserError in every process, naming those that differ and in what.
    """
    fields = {f"config.{name}": value for name, value in flatten(run.config).items()}
    check_same(fields | {"workdir": buckets.address(run.workdir), "format": WORKDIR_FORMAT} | more)


def make_stages(run: Run) -> list[Stage]:
    """List the stages of a run, each after those it needs. Rows that the configuration does not
    list are trained where others need them. Raises UserError for options that do not go together.
    """
    config = run.config
    rows = [make_method(name, config) for name in config.methods]
    stages: list[Stage] = [_data_stage(run)]
    for method in all_rows(run):
        check(method.config.train)
        length(method.config.train)
        check_selection(method.config)
        stages += _row_stages(run, method)
    for method in rows:
        check_decode(method.config)
        stages.append(_decode_stage(run, method))
    fields = reads(config, "name", "evaluate") | {"methods": config.methods}
    for method in rows:
        own = method.reads("report")
        fields |= {f"{method.name}: {name}": value for name, value in own.items()}
    needs = tuple(f"decode-{method.name}" for method in rows)
    ordered = in_order(stages)
    before = {row.name: [*_pretraining(run, row), *builds_on(ordered, f"train-{row.name}")]
              for row in rows}  # fmt: skip
    outputs = "report.json", "report.md", "report.html", "figures"
    return [*ordered, Stage("report", lambda: make_report(run, before), fields, needs, outputs)]


def all_rows(run: Run) -> list[Method]:
    """Return the rows of a configuration, and those that are trained because others need them."""
    waiting = [make_method(name, run.config) for name in run.config.methods]
    rows: dict[str, Method] = {}
    made: set[str] = set()
    while waiting:
        method = waiting.pop(0)
        if method.name in rows:
            continue
        rows[method.name] = method
        own = _row_stages(run, method)
        made.update(stage.name for stage in own)
        needs = [need for stage in own for need in stage.needs if need not in made]
        waiting += [make_method(need.removeprefix("train-"), run.config)
                    for need in needs if need.startswith("train-")]  # fmt: skip
    return list(rows.values())


def _row_stages(run: Run, method: Method) -> list[Stage]:
    return [_train_stage(run, method), *method.stages(run)]


def _pretraining(run: Run, row: Method) -> list[Stage]:
    """Return the training of the student that a row starts from as a stage of its own run."""
    student = None if row.config.model.init_from else student_run(run)
    if student is None:
        return []
    made = (student / f"roles/{student.config.methods[0]}").absolute()
    return [Stage("pretraining", lambda: None, {}, outputs=(str(made),))]


def _data_stage(run: Run) -> Stage:
    fields = reads(run.config, "seed", "data", "vocab") | content_read(run)
    if (student := student_run(run)) is not None:  # whose vocabulary it takes
        fields["pretrain"] = student.workdir.name
    if run.config.data.only_right_chains:
        fields["evaluate.metric"] = run.config.evaluate.metric
    return Stage("data", lambda: prepare_data(run), fields, outputs=("data", "vocab", "corpus"))


def _train_stage(run: Run, method: Method) -> Stage:
    work = method.train or (lambda run: train_method(run, method))
    before = (f"train-{method.start_from}",) if method.start_from else ()
    fields = reads(method.config, "seed", "model", "train") | method.reads("train")
    outputs = (f"roles/{method.name}", *method.outputs)
    if method.config.train.keep_best in DECODED:
        fields |= _decode_fields(method) | measure_reads(method.config)
        outputs += (FOLDER.format(row=method.name),)
    def train() -> None:
        chosen = method if method.config.train.microbatches else with_lengths(run, method)
        work(dataclasses.replace(run, config=chosen.config))

    return Stage(f"train-{method.name}", train, fields,
                 ("data", *method.needs, *before), outputs, together=True,
                 whole=lambda: whole_roles(run, method.name, method.roles))  # fmt: skip


def _decode_fields(method: Method) -> dict[str, Any]:
    fields = reads(method.config, "decode") | method.reads("decode")
    if method.config.decode.samples > 1:  # chains vote with their answers
        fields["evaluate.metric"] = method.config.evaluate.metric
    return fields


def _decode_stage(run: Run, method: Method) -> Stage:
    own = dataclasses.replace(run, config=method.config)
    outputs = (f"predictions/{method.name}",)
    if method.config.train.keep_best not in DECODED:
        outputs += (FOLDER.format(row=method.name),)
    return Stage(f"decode-{method.name}", lambda: decode_method(own, method),
                 _decode_fields(method), (f"train-{method.name}",), outputs,
                 together=True)  # fmt: skip
