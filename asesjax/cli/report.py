"""Print the table of a run, finishing it where it is not; or compare the reports of several runs.

Of several runs it prints every row and, where runs differ in their seed alone, means and spread.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--workdir", nargs="+", required=True, help="one run or several")
    parser.add_argument("--config", metavar="FILE.py[:ARG]", help="with one workdir, as in run")
    parser.add_argument("--redo", action="store_true", help="with one workdir, as in run")
    parser.epilog = "--config.section.field=value changes one field of the configuration."


def main(args: argparse.Namespace) -> None:
    """Report one run or compare several."""
    from asesjax.core.errors import UserError
    from asesjax.core.files import read_json
    from asesjax.experiment import execute
    from asesjax.run import open_run
    from asesjax.viz.compare import comparison

    if len(args.workdir) == 1:
        execute(open_run(args.config, args.workdir[0], args.overrides), redo=args.redo)
        return
    if args.overrides or args.config or args.redo:
        raise UserError("--config, --config.field=value and --redo go with one --workdir only")
    print(comparison({folder: read_json(f"{folder}/report.json") for folder in args.workdir}))
