"""Command lines of these scripts: their own options, and the arguments of ``asesjax run``."""

import argparse
import os
import re
import shlex
from collections.abc import Mapping, Sequence

from slices import UserError

ZONE = "--zone --project --dry-run"
SLICE_KIND = "--topology --spot --reserved --at-once"
_WORKDIR = re.compile(r"gs://([a-z0-9][-_.a-z0-9]{1,61}[a-z0-9])/.+")
_OPTIONS = {
    "--name": {"required": True, "help": "of the slice, or of the run on a cluster"},
    "--cluster": {"required": True},
    "--zone": {"required": True},
    "--project": {"default": "", "help": "default: gcloud's own"},
    "--dry-run": {"action": "store_true", "help": "print the commands, run none"},
    "--topology": {"required": True, "help": "such as v5e:4x4; slices.py lists them"},
    "--spot": {"action": "store_true", "help": "cheaper, may be taken away"},
    "--reserved": {"action": "store_true", "help": "from the project's reservation"},
    "--at-once": {"action": "store_true",
                  "help": "now or not at all, instead of waiting in the queue"},
    "--slices": {"type": int, "default": 1, "help": "set mesh.slices to the same"},
    "--image": {"required": True, "help": "REGISTRY/NAME:TAG"},
    "--poll": {"type": float, "default": 30.0, "metavar": "SECONDS",
               "help": "between checks, and the first pause after a failure"},
    "--tries": {"type": int, "default": 10, "metavar": "N",
                "help": "failures in a row before it gives up"},
    "--follow": {"action": "store_true", "help": "until Ctrl-C"},
    "--worker": {"type": int, "default": 0, "help": "default: the first"},
    "--lines": {"type": int, "default": 50},
}  # fmt: skip


def parse(
    doc: str, argv: Sequence[str], options: str,
    verbs: Mapping[str, tuple[str, str]] | None = None, run_verb: str = "",
) -> argparse.Namespace:
    """Read a command line.

    Args:
      doc: the help text.
      argv: what follows ``--`` becomes ``args.arguments``, for ``asesjax run``.
      options: names in the table above, separated by spaces.
      verbs: help and further options of each verb.
      run_verb: the only verb that takes ``args.arguments``.
    """
    at = list(argv).index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if verbs is None:
        _add_options(parser, options)
    else:
        parsers = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
        for verb, (help_, more) in verbs.items():
            _add_options(parsers.add_parser(verb, help=help_), f"{options} {more}")
    args = parser.parse_args(argv[:at])
    args.arguments = [argument for argument in argv[at + 1 :] if argument != "--dry-run"]
    args.dry_run |= "--dry-run" in argv[at:]  # never one of the run's own
    if args.arguments and verbs is not None and args.verb != run_verb:
        parser.error(f"{args.verb} takes nothing after --")
    return args


def _add_options(parser: argparse.ArgumentParser, names: str) -> None:
    price = parser.add_mutually_exclusive_group() if "--spot" in names else None
    for name in names.split():
        group = price if name in ("--spot", "--reserved") else parser
        group.add_argument(name, **_OPTIONS[name])


def check_run_arguments(arguments: Sequence[str]) -> str:
    """Check the arguments of ``asesjax run``; returns the name of the workdir's bucket.

    Raises:
      UserError: no workdir in a bucket, or an option that these scripts add themselves.
    """
    workdirs = [b for a, b in zip(arguments, arguments[1:], strict=False) if a == "--workdir"]
    workdirs += [a.partition("=")[2] for a in arguments if a.startswith("--workdir=")]
    found = _WORKDIR.fullmatch(workdirs[0]) if len(workdirs) == 1 else None
    if found is None:
        raise UserError(
            "after -- there has to be one --workdir gs://BUCKET/FOLDER, which outlives the slice; "
            f"got {shlex.join(arguments) or 'nothing'}"
        )
    for argument in arguments:
        if argument.split("=")[0] in ("--coordinator", "--processes", "--process"):
            raise UserError(f"{argument}: these scripts add --coordinator auto themselves")
    return found[1]


def cache_setting() -> str:
    """Return what stands before a command so that it has the ASESJAX_CACHE of this one, if any."""
    cache = os.environ.get("ASESJAX_CACHE", "")
    return shlex.join(["env", f"ASESJAX_CACHE={cache}"]) + " " if cache else ""
