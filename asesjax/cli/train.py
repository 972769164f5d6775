"""Train one method of a run, with the stages it needs before (data, scorer, segments)."""

import argparse

from asesjax.cli.main import add_run_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_run_arguments(parser)
    parser.add_argument("--method", action="append", help="default: every method of the config")


def main(args: argparse.Namespace) -> None:
    """Run the training stages."""
    from asesjax.core.errors import unknown
    from asesjax.experiment import execute, make_stages
    from asesjax.run import open_run

    run = open_run(args.config, args.workdir, args.overrides)
    stages = [s.name for s in make_stages(run) if s.name.startswith("train-")]
    for method in args.method or ():
        if f"train-{method}" not in stages:
            raise unknown("--method", method, [name.removeprefix("train-") for name in stages])
    chosen = [f"train-{method}" for method in args.method] if args.method else stages
    execute(run, tuple(chosen), redo=args.redo)
