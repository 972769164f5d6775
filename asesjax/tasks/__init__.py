"""Tasks of seqio: ours for its pipelines, and its for our training loop.

The only folder that imports TensorFlow, and nothing at the top of another module imports it: all
else runs without (``pip install 'asesjax[data]'`` brings both).
"""

from asesjax.core.errors import UserError

try:
    import seqio  # noqa: F401
except ImportError as error:
    raise UserError(
        f"seqio and TensorFlow are needed ({error}): pip install 'asesjax[data]'"
    ) from None
