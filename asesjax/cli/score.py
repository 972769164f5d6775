"""Score the pieces of a run's training rationales: entropy, loss, BLEU, ROUGE.

Trains the direct model first where the strategy needs a scorer. Writes WORKDIR/scores.
"""

import argparse

from asesjax.cli.main import add_run_arguments as add_arguments

__all__ = ["add_arguments", "main"]


def main(args: argparse.Namespace) -> None:
    """Run the stages up to ``score``."""
    from asesjax.core.errors import UserError
    from asesjax.experiment import execute, make_stages
    from asesjax.run import open_run

    run = open_run(args.config, args.workdir, args.overrides)
    if "score" not in [stage.name for stage in make_stages(run)]:
        raise UserError("no method of this configuration uses segments; add usm or dsm to methods")
    execute(run, ("score",), redo=args.redo)
