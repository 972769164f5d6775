"""Show the data of a configuration before training on it; nothing is trained.

    asesjax data --config FILE.py[:ARG] [--output DIR]
    asesjax data --workdir DIR                  # of a run that has its data

Prints the records of each split, what was skipped and why, what the vocabulary cannot write,
lengths in tokens, how full batches are (bucketed, and packed), and examples of each role as the
model sees them, with the weight before each stretch of the target. --segments also prints chains
coloured by label; --weights, in a run that has trained token weights, by weight. --output gets
lengths.png, segments.html and summary.json. Segments are those of the run where it has them.
Otherwise they are made here; where the strategy needs a trained scorer, by location instead.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--config", metavar="FILE.py[:ARG]", help="config file")
    parser.add_argument("--workdir", help="folder of a run; without it nothing is kept")
    parser.add_argument("--output", metavar="DIR", help="folder for the picture, page and numbers")
    parser.add_argument("--show", type=int, default=10, metavar="N", help="examples of each role")
    parser.add_argument("--segments", type=int, default=0, metavar="N", help="print N chains")
    parser.add_argument("--weights", type=int, default=0, metavar="N", help="N chains by weight")
    parser.epilog = "--config.section.field=value changes one field of the configuration."


def main(args: argparse.Namespace) -> None:
    """Print the view, and write it to --output."""
    from asesjax.cli.data_view import FILES, show_data
    from asesjax.core.errors import UserError
    from asesjax.experiment import execute, open_run
    from asesjax.jobs.data import prepare_data

    if min(args.show, args.segments, args.weights) < 0:
        raise UserError("--show, --segments and --weights must be 0 or more")
    for path in [Path(args.output) / name for name in FILES] if args.output else ():
        if path.exists():
            raise UserError(f"{path} exists; nothing is overwritten, give another --output")
    if not (args.workdir or args.config):
        raise UserError("give --config FILE.py, --workdir of a run, or both")
    with tempfile.TemporaryDirectory() as temporary:
        run = open_run(args.config, args.workdir or temporary, args.overrides)
        run = dataclasses.replace(run, say=lambda line: None)
        if args.workdir:
            execute(run, ("data",))
        else:
            prepare_data(run)
        show_data(run, args)
