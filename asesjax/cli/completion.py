"""Print a script that completes verbs, options, fields and their choices in a shell.

For bash, in this shell or in ~/.bashrc; zsh and tcsh likewise:

    eval "$(asesjax completion bash)"
"""

import argparse
import importlib


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))


def main(args: argparse.Namespace) -> None:
    """Print the script of one shell."""
    import shtab

    print(shtab.complete(whole_parser(), args.shell))


def whole_parser() -> argparse.ArgumentParser:
    """Return a parser of all verbs; those that take a configuration have its fields as options."""
    import shtab

    from asesjax.cli.main import VERBS, module_of
    from asesjax.config import base_config, shipped
    from asesjax.core.options import all_fields

    base_config()  # loads every room
    whole = argparse.ArgumentParser("asesjax")
    verbs = whole.add_subparsers()
    for verb, help_ in VERBS.items():
        parser = verbs.add_parser(verb, help=help_)
        importlib.import_module(module_of(verb)).add_arguments(parser)
        takes_fields = False
        for action in parser._actions:
            if action.dest == "config":
                action.choices, takes_fields = list(shipped()), True
            elif action.option_strings and action.choices is None and action.nargs != 0:
                # Most are paths; others have nothing to offer.
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # what shtab reads
        for name, field in all_fields().items() if takes_fields else ():
            parser.add_argument(f"--config.{name}", choices=field.metadata["choices"])
    return whole
