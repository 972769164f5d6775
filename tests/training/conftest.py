"""The tiny role of ``tiny.py`` as a fixture."""

import importlib.util
from pathlib import Path

import pytest

from asesjax.training import loop


@pytest.fixture(scope="session")
def tiny():
    """The module tiny.py."""
    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).with_name("tiny.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def programs_of_this_test_alone():
    """Compile anew, because tests count programs."""
    loop._programs.cache_clear()
