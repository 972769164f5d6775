"""List the configurations that come with the package.

asesjax configs            names and what they are
asesjax configs smoke      one of them, whole: commands, arguments, settings
"""

import argparse
import ast


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", nargs="?", default="", metavar="NAME")


def main(args: argparse.Namespace) -> None:
    """Print names and first lines, or one file."""
    from asesjax.config import shipped
    from asesjax.core.errors import unknown

    known = shipped()
    if args.name:
        if args.name not in known:
            raise unknown("configuration", args.name, known)
        print(known[args.name].read_text(encoding="utf-8"), end="")
        return
    for name, path in known.items():
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        first = doc.partition("\n\n")[0]
        print(f"{name:24} {' '.join(first.split())}")
    print("\nasesjax run --config NAME[:ARG] --workdir DIR")
