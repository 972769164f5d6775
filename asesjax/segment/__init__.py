"""Rationales to labelled segments: pure functions on text and numpy arrays.

Called, ``asesjax.segment(question, rationale)``, the package cuts and labels one (``api.segment``).
"""

import sys

from asesjax import CallablePackage

sys.modules[__name__].__class__ = CallablePackage
