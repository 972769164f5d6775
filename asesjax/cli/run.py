"""Run the stages of a configuration, in order: all of them, or as many as the verb needs.

  run    every stage, for each seed and each point of a --sweep, and the table of the report
  train  the training stages, of every method or of --method, with the stages they need before
  score  entropy, loss, BLEU or ROUGE of the pieces of the training rationales, in WORKDIR/scores;
         trains the direct model first where the strategy needs a scorer

Finished stages are kept and an interrupted one resumes where it stopped. A changed configuration is
refused with the fields that changed (--redo moves the old outputs aside).
"""

import argparse

from asesjax.cli.main import add_run_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_run_arguments(parser)
    if parser.get_default("verb") == "train":
        parser.add_argument("--method", action="append", help="default: every method of the config")
    if parser.get_default("verb") == "run":
        parser.add_argument("--check", action="store_true", help="do all that comes before "
                            "training, say what was chosen, keep nothing")  # fmt: skip
        parser.add_argument("--sweep", action="append", default=[], metavar="FIELD=VALUE,VALUE",
                            help="a run for each value, and one table of them all; several make a "
                            "grid (lists are separated by semicolons)")  # fmt: skip


def main(args: argparse.Namespace) -> None:
    """Run the stages of the verb."""
    from asesjax.config import swept
    from asesjax.core.errors import unknown
    from asesjax.experiment import execute, make_stages, open_run
    from asesjax.seeds import check_seeds, execute_seeds
    from asesjax.sweeps import check_sweep, execute_sweep

    if args.verb == "run" and (args.sweep or swept(args.workdir)):
        where = args.config, args.workdir, args.overrides, args.sweep
        return check_sweep(*where) if args.check else execute_sweep(*where, args.redo)
    run = open_run(args.config, args.workdir, args.overrides)
    if args.verb == "run" and args.check:
        return check_seeds(run)
    if args.verb == "run":
        return execute_seeds(run, redo=args.redo)
    names = [stage.name for stage in make_stages(run)]
    if args.verb == "score":
        scores = tuple(name for name in names if name.partition("-")[0] == "score")
        return execute(run, scores, redo=args.redo)
    methods = [name.removeprefix("train-") for name in names if name.startswith("train-")]
    for method in args.method or ():
        if method not in methods:
            raise unknown("--method", method, methods)
    execute(run, tuple(f"train-{name}" for name in args.method or methods), redo=args.redo)
