"""The ``asesjax`` command: finds the verb, reads overrides, turns user mistakes into one line."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from asesjax.core.errors import Preempted, UserError, unknown

# Verb -> what it does. Each is a module here with add_arguments(parser) and main(args).
VERBS = {
    "run": "the whole job: train, score, segment, train the roles, decode, report",
    "train": "train one method, and what it needs before",
    "score": "score the pieces of the training rationales with the direct model",
    "segment": "cut and label rationales, of a run or of any JSONL file",
    "generate": "answer questions with a trained method",
    "evaluate": "measure a file of predictions",
    "convert": "read a Hugging Face checkpoint, or write one",
    "report": "table and figures of one run, or of several side by side",
}
EXIT_USER_ERROR = 2
EXIT_PREEMPTED = 42  # saved and stopped on request; the same command goes on


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status: 0, 2 for a user's mistake, 42 when preempted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(argv)
    except UserError as error:
        print(f"asesjax: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except Preempted as stop:
        print(f"asesjax: {stop}", file=sys.stderr)
        return EXIT_PREEMPTED
    except KeyboardInterrupt:
        print("asesjax: interrupted; the same command goes on from the last save", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, VERBS))
        print("usage: asesjax VERB [options]; asesjax VERB --help tells more\n")
        print("\n".join(f"  {verb:{width}}  {help_}" for verb, help_ in VERBS.items()))
        return 0
    if argv[0] == "--version":
        from asesjax import __version__

        print(__version__)
        return 0
    verb, rest = argv[0], argv[1:]
    if verb not in VERBS:
        raise unknown("verb", verb, VERBS)
    module = importlib.import_module(f"asesjax.cli.{verb}")
    parser = argparse.ArgumentParser(
        prog=f"asesjax {verb}", description=module.__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    rest, overrides = split_overrides(rest)
    args = parser.parse_args(rest)
    args.overrides = overrides
    if overrides and not hasattr(args, "config"):
        raise UserError(f"asesjax {verb} takes no --config.field=value")

    return module.main(args) or 0


def split_overrides(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Take ``--config.field=value`` (or ``--config.field value``) out of the arguments.

    Example:
      >>> split_overrides(["--workdir", "w", "--config.seed=3", "--config.name", "x"])
      (['--workdir', 'w'], {'seed': '3', 'name': 'x'})
    """
    rest, overrides = [], {}
    position = 0
    while position < len(argv):
        argument = argv[position]
        position += 1
        if not argument.startswith("--config."):
            rest.append(argument)
            continue
        name, equals, value = argument.removeprefix("--config.").partition("=")
        if not equals:
            if position == len(argv):
                raise UserError(f"{argument} needs a value: {argument}=VALUE")
            value = argv[position]
            position += 1
        if name in overrides:
            raise UserError(f"--config.{name} is given twice")
        overrides[name] = value
    return rest, overrides


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --config, --workdir and --redo, as every verb that works on a run takes them."""
    parser.add_argument(
        "--config", metavar="FILE.py[:ARG]",
        help="config file; not needed for a workdir that has run before",
    )
    parser.add_argument("--workdir", required=True, help="folder of the run, made when absent")
    parser.add_argument(
        "--redo", action="store_true",
        help="where the configuration changed, move old outputs to WORKDIR/superseded and redo",
    )
    parser.epilog = "--config.section.field=value changes one field of the configuration."


if __name__ == "__main__":
    sys.exit(main())
