"""seqio: our examples as its tasks, and its tasks as our examples. Only this folder imports
TensorFlow, and no module imports this folder at its top, so that all else runs without it.
"""

from asesjax.core.errors import UserError

try:
    import seqio  # noqa: F401
except ImportError as error:
    raise UserError(
        f"seqio and TensorFlow are needed ({error}): pip install 'asesjax[data]'"
    ) from None
