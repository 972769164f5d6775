"""The exceptions that are not bugs: a mistake that the user can fix, and a stop on request."""

import difflib
import re
from collections.abc import Iterable

EXIT_USER_ERROR = 2
EXIT_LOST = 3  # another process of the run was lost
EXIT_PREEMPTED = 42  # stopped by SIGTERM; the same command resumes
EXIT_STOPPED = 130  # the same by Ctrl-C


class UserError(Exception):
    """A mistake in input, configuration or files; the message says what to change.

    The command line prints the message alone and exits with its status; every other exception is a
    bug and keeps its traceback.
    """

    status = EXIT_USER_ERROR


class Lost(UserError):
    """Another process of the run was lost, or never came."""

    status = EXIT_LOST


class Preempted(BaseException):
    """Stopped by SIGTERM; the same call resumes from the last save. Like KeyboardInterrupt it is no
    Exception, which a handler of failures might catch.
    """


# Control characters but line ends and tabs, marks that turn the direction of text, line separators.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    r"""Return a text as a terminal may show it: control characters, which could hide, overwrite or
    answer, are written as escapes.

    >>> print(harmless("\x1b[8mhidden"))
    \x1b[8mhidden
    """
    return _HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)


def counted(n: int, what: str) -> str:
    """Return a number of things, in the plural where it is not one.

    >>> counted(1, "test question"), counted(0, "row")
    ('1 test question', '0 rows')
    """
    return f"{n} {what}{'s' * (n != 1)}"


def nearest(got: str, names: Iterable[str]) -> str:
    """Ask whether a wrong name was meant to be one of the nearest; empty if none is near."""
    near = difflib.get_close_matches(got, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else ""


def unknown(what: str, got: str, valid: Iterable[str]) -> UserError:
    """Build the error for a wrong name: the nearest names, then all valid ones.

    >>> print(unknown("segment.strategy", "entrpy", ["entropy", "loss"]))
    unknown segment.strategy 'entrpy'; did you mean 'entropy'? Valid: entropy, loss
    """
    names = [str(name) for name in valid]
    got = str(got) if len(str(got)) <= 100 else f"{str(got)[:100]}..."
    hint = nearest(got, names)
    listed = ", ".join(name or "'' (none)" for name in names)
    return UserError(f"unknown {what} {got!r}; {hint}{' ' * bool(hint)}Valid: {listed}")
