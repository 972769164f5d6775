"""The exceptions that are not bugs: a mistake that the user can fix, and a stop on request."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in input, configuration or files; the message says what to change.

    The command line prints the message alone and exits with status 2; every other exception is a
    bug and keeps its traceback.
    """


class Preempted(Exception):
    """Training stopped before its end on request; the same call resumes from the last save."""


def unknown(what: str, got: str, valid: Iterable[str], few: bool = False) -> UserError:
    """Build the error for a wrong name: the nearest names, then all valid ones unless ``few``.

    >>> print(unknown("segment.strategy", "entrpy", ["entropy", "loss"]))
    unknown segment.strategy 'entrpy'; did you mean 'entropy'? Valid: entropy, loss
    """
    names = [str(name) for name in valid]
    near = difflib.get_close_matches(str(got), names, n=3, cutoff=0.5)
    hint = "did you mean " + " or ".join(repr(name) for name in near) + "?" if near else ""
    if few:
        return UserError(f"unknown {what} {got!r}; {hint or 'asesjax config lists all'}")
    listed = ", ".join(name or "'' (none)" for name in names)
    return UserError(f"unknown {what} {got!r}; {hint}{' ' * bool(hint)}Valid: {listed}")
