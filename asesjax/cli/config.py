"""Show the fields of a configuration: defaults, ranges and meanings.

asesjax config                 the sections
asesjax config train           the fields of one of them; "run": those of the run itself
asesjax config train.tokens    a field
"""

import argparse
import dataclasses
import textwrap


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("what", nargs="?", default="", metavar="SECTION[.FIELD]")


def main(args: argparse.Namespace) -> None:
    """Print sections, or the fields of one."""
    from asesjax.config import base_config
    from asesjax.core.errors import UserError
    from asesjax.core.options import SECTIONS, all_fields, near_fields

    base_config()  # loads every room
    if not args.what:
        for name in SECTIONS:
            cls = SECTIONS.get(name)
            n_fields, first = len(dataclasses.fields(cls)), str(cls.__doc__).splitlines()[0]
            print(f"{name or 'run':14} {n_fields:3} fields  {first}")
        print(
            "\nvariants.NAME.method and variants.NAME.SECTION.FIELD make a row with its own options"
            "\npretrain.method, .seed, .data.FIELD, .train.FIELD: a student that rows start from"
        )
        return
    known = all_fields()
    wanted = [n for n in known if n == args.what or n.rpartition(".")[0] == args.what
              or (args.what == "run" and "." not in n)]  # fmt: skip
    if not wanted:
        near = near_fields(args.what, ["run", *filter(None, SECTIONS), *known])
        raise UserError(
            f"unknown section or field {args.what[:100]!r}; did you mean "
            f"{' or '.join(map(repr, near))}? asesjax config lists the sections"
        )
    for name in wanted:
        print(_described(name, known[name]))


def _described(name: str, field: dataclasses.Field) -> str:
    from asesjax.core.options import range_text

    facts = field.metadata
    more = [facts["help"]]
    if facts["choices"] is not None:
        more.append("one of " + ", ".join(str(c) or "''" for c in facts["choices"]))
    more += [range_text(field)] if facts["bounds"] else []
    more += ["does not change results"] if facts["changes"] == "nothing" else []
    text = textwrap.fill("; ".join(more), 96, initial_indent="    ", subsequent_indent="    ")
    return f"{name} = {field.default!r}\n{text}"
