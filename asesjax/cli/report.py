"""Print the table of a run, finishing it first where needed; or compare several runs.

For several runs it prints one table, with the fields in which they differ as columns, and, where
runs differ in their seed alone, means over seeds, their intervals and tests against direct. A
folder of several seeds, or of a sweep, stands for all its runs.
"""

import argparse
from collections import Counter
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--workdir", nargs="+", required=True, help="one run or several")
    parser.add_argument("--output", metavar="FOLDER", help="with several: write the table there, "
                        "as CSV and LaTeX too, and a figure for each field")  # fmt: skip
    parser.add_argument("--config", metavar="FILE.py[:ARG]", help="with one workdir, as in run")
    parser.add_argument("--redo", action="store_true", help="with one workdir, as in run")
    parser.epilog = "--config.section.field=value changes one field of the configuration."


def main(args: argparse.Namespace) -> None:
    """Report one run or compare several."""
    from asesjax.config import swept
    from asesjax.core.errors import UserError
    from asesjax.experiment import open_run
    from asesjax.seeds import compare_runs, execute_seeds, one_by_one, same_but_for_seed
    from asesjax.sweeps import execute_sweep, write_comparison
    from asesjax.viz.compare import comparison_text

    if len(args.workdir) == 1:
        (workdir,) = args.workdir
        if args.output:
            several = one_by_one(args.workdir) != [Path(workdir)]
            made = "sweep.md" if swept(workdir) else "compare.md" if several else "report.md"
            raise UserError(f"--output needs several workdirs; the table of one is {made} in it")
        if swept(workdir):
            return execute_sweep(args.config, workdir, args.overrides, redo=args.redo)
        return execute_seeds(open_run(args.config, workdir, args.overrides), redo=args.redo)
    if args.overrides or args.config or args.redo:
        raise UserError("--config, --config.field=value and --redo need a single --workdir")
    workdirs = one_by_one(args.workdir)
    for folder, n in Counter(folder.resolve() for folder in workdirs).items():
        if n > 1:
            raise UserError(f"--workdir names {folder} {n} times; name every run once")
    for folder in workdirs:
        if not (folder / "report.json").is_file():
            raise UserError(f"{folder} holds no report; finish it by asesjax run, or leave it out")
    print(write_comparison(workdirs, args.output))
    for group in same_but_for_seed(workdirs):
        if len(group) > 1:
            print("\n" + comparison_text(compare_runs(group)), end="")
