"""The training loop, its compiled step, optimisers and checkpoints.

Called, ``asesjax.train(config, workdir)``, the package runs a whole experiment (``api.train``).
"""

import sys

from asesjax import CallablePackage

sys.modules[__name__].__class__ = CallablePackage
