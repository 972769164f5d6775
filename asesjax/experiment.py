"""The whole job in stages, each of which can be interrupted, continued and kept.

    data -> train direct -> score -> segment -> train the other methods -> decode -> report

Everything a run knows lies in its workdir:

    config.json  run.jsonl            configuration; versions, command and machine of each start
    compiled/  stages/                compiled programs, for going on; what ran with which fields
    data/  vocab/                     records of each split; the vocabulary
    roles/<method>/<role>/            checkpoints, metrics.jsonl, TensorBoard files
    scores/  segments/                pieces with scores; labelled segments; agreement with gold
    chunks/  skip/                    where rationales are cut; which chunks their answers need
    kpod/                             token weights; what is given of each rationale at each stage
    predictions/<method>/             chains for the test split and for the learning curve
    report.json  report.md  figures/  what came out
"""

import dataclasses
import functools

from asesjax.core.config import flatten
from asesjax.core.files import locked, write_json
from asesjax.core.processes import check_same, follow, is_first, leading
from asesjax.core.run_card import add_run_card
from asesjax.core.stages import Stage, run_stages
from asesjax.evals.runner import check_decode
from asesjax.jobs.data import prepare_data
from asesjax.jobs.decoding import decode_method, make_report
from asesjax.jobs.training import train_method
from asesjax.methods.ases.stages import score_pieces, segment_pieces
from asesjax.methods.baselines.in_context_stage import stages as in_context_stages
from asesjax.methods.kpod.stages import stages as kpod_stages
from asesjax.methods.registry import get_method
from asesjax.methods.skip_thinking.skip_data import stages as skipping_stages
from asesjax.methods.skip_thinking.training import train_cwt
from asesjax.run import Run, keep_programs, one_seed

MODEL_STRATEGIES = ("entropy", "loss")  # those that ask a trained scorer
# Methods that are trained in a way of their own, and what they write besides their roles.
_TRAINING = {"cwt": (train_cwt, ("chunks",))}
# Fields that change how a run is watched, saved or placed, but not what comes out.
_FREE = (
    "train.log_every_steps", "train.save_every_steps", "train.remat",
    "train.scan_layers", "train.keep_last", "train.profile_steps", "train.skip_nonfinite",
)  # fmt: skip


def execute(run: Run, until: tuple[str, ...] = ("report",), redo: bool = False) -> None:
    """Run the stages up to and including some of them; finished ones are kept.

    Where several processes were started, all call this.

    Args:
      run: from ``open_run``.
      until: names of stages; those they need run first.
      redo: move aside the outputs of stages whose configuration changed, and run them again.

    Raises:
      UserError: anything a user can mend; what was written before stays.
    """
    one_seed(run)
    stages = {stage.name: stage for stage in make_stages(run)}
    wanted: set[str] = set()

    def want(name: str) -> None:
        if name not in wanted:
            wanted.add(name)
            for other in stages[name].needs:
                want(other)

    for name in until:
        want(name)
    keep_programs(run)
    fields = flatten(run.config)
    chosen = [stage for name, stage in stages.items() if name in wanted]
    same_run(run, until=until, redo=redo)
    if not is_first():
        return follow([stage.run for stage in chosen])
    with leading() as together, locked(run.workdir):
        chosen = [
            dataclasses.replace(stage, run=together(i, stage.run)) if stage.together else stage
            for i, stage in enumerate(chosen)
        ]
        ran = run_stages(
            chosen, fields, run.workdir, redo, run.say,
            before=lambda: (write_json(run / "config.json", fields), add_run_card(run.workdir)),
        )
    if "report" in wanted and "report" not in ran:
        run.say("\n" + (run / "report.md").read_text(encoding="utf-8"))


def same_run(run: Run, **more: object) -> None:
    """Check that all processes were started for the same run; only the first call asks.

    Raises:
      UserError: in every process, naming those that differ and in what.
    """
    fields = {f"config.{name}": value for name, value in flatten(run.config).items()}
    check_same(fields | {"workdir": str(run.workdir)} | more)


def make_stages(run: Run) -> list[Stage]:
    """List the stages of a run in an order in which each comes after those it needs."""
    config = run.config
    fields = [name for name in flatten(config) if name not in _FREE]
    of = lambda *sections: tuple(n for n in fields if n.split(".")[0] in sections)  # noqa: E731
    methods = [get_method(name, config) for name in config.methods]
    check_decode(config)
    # Methods that the configuration does not list, but that listed ones build on.
    scorer = config.segment.strategy in MODEL_STRATEGIES and any(m.segmented for m in methods)
    trained = list(methods)
    more = ["direct"] if scorer else []
    more += [method.start_from for method in methods if method.start_from]
    for name in more:
        if name not in {method.name for method in trained}:
            trained.append(get_method(name, config))
    has_scorer = any(m.name == "direct" for m in trained)
    segmented = [m for m in methods if m.segmented]
    # Several chains of a question vote with their answers, which depend on the metric.
    voting = ("evaluate.metric",) if config.decode.samples > 1 else ()

    filtering = ("evaluate.metric",) if config.data.only_right_chains else ()
    stages = [
        Stage("data", lambda: prepare_data(run), ("seed", *of("data", "vocab"), *filtering),
              outputs=("data", "vocab"))
    ]  # fmt: skip
    if segmented:
        cut = ("segment.short", "segment.min_words", "segment.given", "segment.reduce")
        stages += [
            Stage("score", lambda: score_pieces(run, has_scorer), (*cut, "evaluate.language"),
                  ("data", *(("train-direct",) if has_scorer else ())), outputs=("scores",)),
            Stage("segment", lambda: segment_pieces(run), of("segment"), ("score",),
                  outputs=("segments",)),
        ]  # fmt: skip
    for method in trained:
        before = (f"train-{method.start_from}",) if method.start_from else ()
        work, written = _TRAINING.get(method.name, (train_method, ()))
        stages.append(
            Stage(
                f"train-{method.name}",
                functools.partial(work, run, method),
                ("seed", *of("model", "train"), *method.train_fields),
                ("data", *method.needs, *before),
                outputs=(f"roles/{method.name}", *written),
                together=True,
            )
        )
    stages += skipping_stages(run, methods)
    stages += in_context_stages(run, methods)
    stages += kpod_stages(run, trained, of)
    for method in methods:
        stages.append(
            Stage(
                f"decode-{method.name}",
                functools.partial(decode_method, run, method),
                (*of("decode"), *method.decode_fields, *voting),
                (f"train-{method.name}",),
                outputs=(f"predictions/{method.name}",),
            )
        )
    needs = [f"decode-{method.name}" for method in methods] + (["segment"] if segmented else [])
    stages.append(
        Stage("report", lambda: make_report(run), ("name", "methods", *of("evaluate")),
              tuple(needs), outputs=("report.json", "report.md", "figures"))
    )  # fmt: skip
    return _in_order(stages)


def _in_order(stages: list[Stage]) -> list[Stage]:
    """Put every stage behind those it needs, and otherwise leave the order."""
    left, out = list(stages), []
    while left:
        done = {stage.name for stage in out}
        ready = next(stage for stage in left if done.issuperset(stage.needs))
        left.remove(ready)
        out.append(ready)
    return out
