"""The ``asesjax`` command: finds the verb, reads overrides, prints user mistakes as one line."""

import argparse
import errno
import importlib
import itertools
import sys
import traceback
from collections.abc import Sequence

from asesjax.core import buckets, processes, signals
from asesjax.core.errors import (
    EXIT_LOST,
    EXIT_PREEMPTED,
    EXIT_STOPPED,
    EXIT_USER_ERROR,
    Preempted,
    UserError,
    harmless,
    unknown,
)
from asesjax.core.options import check_text

# Verb -> what it does. Each is a module here with add_arguments(parser) and main(args), unless
# it shares one (_MODULES); both read the verb from the parser's defaults or ``args.verb``.
VERBS = {
    "run": "the whole job: train, score, segment, train the roles, decode, report",
    "train": "train one method, with the stages it needs before",
    "score": "score the pieces of the training rationales with the direct model",
    "data": "show the data: counts, lengths, padding, decoded examples, segments",
    "segment": "cut and label rationales, of a run or of any JSONL file",
    "generate": "answer questions with a trained method",
    "evaluate": "measure a file of predictions",
    "compile": "compile for a TPU slice on any machine: memory, traffic, an estimated time",
    "convert": "read a Hugging Face checkpoint, or write one",
    "config": "the fields of a configuration: defaults, ranges and meanings",
    "configs": "the configurations that come with the package, to start from by name",
    "report": "table and figures of one run, or of several side by side",
    "completion": "a script that completes all this in bash, zsh or tcsh",
}
_MODULES = {"train": "run", "score": "run"}
# Options that may be addresses of buckets.
_INPUTS = "workdir", "input", "predictions", "checkpoint", "from_hf"
_OUTPUTS = "output", "out", "to_hf", "html"
_EXIT_HELP = (
    f"Exit status: 0; {EXIT_USER_ERROR} for a mistake that the message explains; "
    f"{EXIT_PREEMPTED} when stopped by SIGTERM, and\n{EXIT_STOPPED} by Ctrl-C (a second one stops "
    f"at once), with everything saved; {EXIT_LOST} where another process of the\nrun was lost or "
    "never came. The same command resumes."
)
# Failures of the disk and names that it cannot have, not faults of the program.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
         errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status: 0, 2 for a user's mistake, 42 when preempted."""
    with signals.noticed(to_the_end=argv is None):
        try:
            status = _status(list(sys.argv[1:] if argv is None else argv))
        except Exception:
            processes.let_loss_end()
            if not processes.linked():
                raise
            traceback.print_exc()
            status = 1
        processes.leave(status)
        return status


def _status(argv: list[str]) -> int:
    try:
        return _dispatch(argv)
    except UserError as error:
        status, text = error.status, str(error)
    except Preempted as stop:
        status, text = EXIT_PREEMPTED, str(stop)
    except KeyboardInterrupt as stop:
        status, text = EXIT_STOPPED, str(stop) or "interrupted; the same command resumes"
    except BrokenPipeError:
        return 1
    except OSError as error:
        if error.errno not in _DISK:
            raise
        where = f" {str(error.filename)[:300]}" if error.filename else ""
        status, text = EXIT_USER_ERROR, (
            f"cannot read or write{where}: {error.strerror}; fix that; the same command then "
            "resumes from what is finished"
        )  # fmt: skip
    except (MemoryError, RuntimeError) as error:
        # The second are also XLA's, of a device or of the host.
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        status, text = EXIT_USER_ERROR, (
            f"there is not enough memory: {(str(error).splitlines() or ['?'])[0][:300]}; lower "
            "the sizes of the configuration, such as train.batch_size, decode.batch_size, lengths "
            "or the model's"
        )  # fmt: skip
    print(f"asesjax: {harmless(buckets.named(text))}", file=sys.stderr)
    return status


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, VERBS))
        print("usage: asesjax VERB [options]; asesjax VERB --help says more\n")
        print("\n".join(f"  {verb:{width}}  {help_}" for verb, help_ in VERBS.items()))
        return 0
    if argv[0] == "--version":
        from asesjax import __version__

        print(__version__)
        return 0
    for i, (before, argument) in enumerate(itertools.pairwise(("", *argv)), 1):
        name = f" of {before}" if before.startswith("--") else ""
        check_text(argument, f"argument {i}{name}, {argument[:40]!r},")
    verb = argv[0]
    if verb not in VERBS:
        raise unknown("verb", verb, VERBS)
    module = importlib.import_module(module_of(verb))
    parser = argparse.ArgumentParser(
        f"asesjax {verb}", description=module.__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(verb=verb)
    module.add_arguments(parser)
    parser.epilog = "\n\n".join(filter(None, (parser.epilog, _EXIT_HELP)))
    rest, overrides = split_overrides(argv[1:])
    args = parser.parse_args(rest, argparse.Namespace(overrides=overrides))
    if overrides and not hasattr(args, "config"):
        raise UserError(f"asesjax {verb} takes no --config.field=value")
    if hasattr(args, "coordinator"):
        processes.start(args.coordinator, args.processes, args.process, args.start_timeout)
    _fetch_inputs(args)
    return module.main(args) or 0


def _fetch_inputs(args: argparse.Namespace) -> None:
    """Replace addresses in buckets by what lies here instead. Raises UserError for outputs."""
    for name in (*_INPUTS, *_OUTPUTS):
        value = getattr(args, name, None)
        if not any(map(buckets.is_address, _items(value))):
            continue
        if name in _OUTPUTS:
            raise UserError(
                f"--{name.replace('_', '-')} {value}: only a workdir and inputs may lie in a "
                "bucket; write into a folder, and copy that"
            )
        fetch = buckets.workdir if name == "workdir" else buckets.local
        found = [str(fetch(one)) for one in _items(value)]
        setattr(args, name, found if isinstance(value, list) else found[0])


def _items(value: object) -> list[str]:
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]


def module_of(verb: str) -> str:
    """Return the full name of a verb's module."""
    return f"asesjax.cli.{_MODULES.get(verb, verb)}"


def split_overrides(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Take ``--config.field=value`` (or ``--config.field value``) out of the arguments.

    >>> split_overrides(["--workdir", "w", "--config.seed=3", "--config.name", "x"])
    (['--workdir', 'w'], {'seed': '3', 'name': 'x'})
    """
    rest, overrides, arguments = [], {}, iter(argv)
    for argument in arguments:
        if not argument.startswith("--config."):
            rest.append(argument)
            continue
        name, equals, value = argument.removeprefix("--config.").partition("=")
        value = value if equals else next(arguments, None)
        if value is None:
            raise UserError(f"{argument} needs a value: {argument}=VALUE")
        if name in overrides:
            raise UserError(f"--config.{name} is given twice")
        overrides[name] = value
    return rest, overrides


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --config, --workdir, --redo and the options that start several processes."""
    parser.add_argument("--config", metavar="FILE.py[:ARG]", help="config file, "
                        "or a name that asesjax configs lists; for a new run")  # fmt: skip
    parser.add_argument("--workdir", required=True, help="folder of the run, made when absent; "
                        "or its address in a bucket, such as gs://BUCKET/NAME")  # fmt: skip
    parser.add_argument("--redo", action="store_true", help="where the configuration changed, move "
                        "old outputs to WORKDIR/superseded and redo")  # fmt: skip
    add_process_arguments(parser)
    parser.epilog = "--config.section.field=value changes one field of the configuration."


def add_process_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that start several processes."""
    group = parser.add_argument_group(
        "several processes, one command each; all see the same workdir"
    )
    group.add_argument("--coordinator", default="", metavar="HOST:PORT", help="of process 0; auto "
                       "on TPU pods and under SLURM, where nothing else is needed")  # fmt: skip
    group.add_argument("--processes", type=int, metavar="N", help="how many there are")
    group.add_argument("--process", type=int, metavar="I", help="number of this one, from 0")
    group.add_argument(
        "--start-timeout", type=float, default=processes.START_TIMEOUT, metavar="SECONDS",
        help="how long processes wait for each other before they name the missing ones and stop",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
