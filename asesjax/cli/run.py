"""Run the whole job of a configuration: train, score, segment, train the roles, decode, report.

Finished stages are kept, an interrupted one goes on where it stopped, and a changed configuration
is refused with the fields that changed (--redo moves the old outputs aside).
"""

import argparse

from asesjax.cli.main import add_run_arguments as add_arguments

__all__ = ["add_arguments", "main"]


def main(args: argparse.Namespace) -> None:
    """Run every stage, for each seed; the last one prints the table."""
    from asesjax.run import open_run
    from asesjax.seeds import execute_seeds

    execute_seeds(open_run(args.config, args.workdir, args.overrides), redo=args.redo)
