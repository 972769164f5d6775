"""The exceptions that are no defects: a mistake the user can mend, and a stop on request."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in input, configuration or files, told in a sentence that says what to change.

    The command line prints the message alone and exits with status 2; everything else is a defect
    of the program and keeps its traceback.
    """


class Preempted(Exception):
    """Training stopped before its end on request; the same call goes on from the last save."""


def unknown(what: str, got: str, valid: Iterable[str], few: bool = False) -> UserError:
    """Build the error for a name that is not one of the valid ones.

    Args:
      what: what kind of name it is, for the message ("segment.strategy").
      got: the name that was given.
      valid: the names that would have been right.
      few: name the nearest alone, of many.

    Returns:
      An error naming the nearest valid names first and then all of them.

    Example:
      >>> print(unknown("segment.strategy", "entrpy", ["entropy", "loss"]))
      unknown segment.strategy 'entrpy'; did you mean 'entropy'? Valid: entropy, loss
    """
    names = [str(name) for name in valid]
    near = difflib.get_close_matches(str(got), names, n=3, cutoff=0.5)
    hint = "did you mean " + " or ".join(repr(name) for name in near) + "?" if near else ""
    if few:
        return UserError(f"unknown {what} {got!r}; {hint or 'asesjax config lists all'}")
    return UserError(f"unknown {what} {got!r}; {hint}{' ' * bool(hint)}Valid: {', '.join(names)}")
