"""Every method by the name it has in configurations."""

from asesjax.core.errors import unknown
from asesjax.methods import ases, direct
from asesjax.methods.method import Method

_METHODS = {m.name: m for m in (direct.ANSWER_ONLY, direct.DIRECT, ases.DSM, ases.USM)}


def get_method(name: str) -> Method:
    """Return a method.

    Raises:
      UserError: no method has this name.

    Example:
      >>> get_method("dsm").roles
      ('es', 'as')
    """
    if name not in _METHODS:
        raise unknown("method", name, _METHODS)
    return _METHODS[name]
