"""Every method by the name it has in configurations."""

from ml_collections import ConfigDict

from asesjax.core.errors import unknown
from asesjax.methods.ases import method as ases
from asesjax.methods.baselines import direct
from asesjax.methods.baselines import others as baselines
from asesjax.methods.kpod import method as kpod
from asesjax.methods.method import Method
from asesjax.methods.skip_thinking import chunks
from asesjax.methods.socratic import method as socratic

_ALL = (
    direct.ANSWER_ONLY, direct.DIRECT, ases.DSM, ases.USM,
    baselines.STEP_BY_STEP, baselines.IN_CONTEXT, baselines.DIVERSE,
    chunks.CWT, chunks.SKIP_THINKING, chunks.FULL_THINKING, socratic.SOCRATIC, socratic.UNIFIED,
    *kpod.KPOD, ases.USM_KPOD, ases.DSM_KPOD,
)  # fmt: skip
_METHODS = {method.name: method for method in _ALL}


def get_method(name: str, config: ConfigDict | None = None) -> Method:
    """Return a method.

    Args:
      name: as in the configuration's ``methods``.
      config: adapts its roles, where they depend on the configuration (``Method.adapt``).

    Raises:
      UserError: no method has this name.

    Example:
      >>> get_method("dsm").roles
      ('es', 'as')
    """
    if name not in _METHODS:
        raise unknown("method", name, _METHODS)
    method = _METHODS[name]
    return method.adapt(method, config) if config is not None and method.adapt else method
