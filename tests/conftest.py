"""Eight virtual CPU devices for every test, and the way to the real data."""

import atexit
import gc
import importlib.util
import os
import shutil
import signal
import tempfile
from pathlib import Path

from shared.environment import xla_flags

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags(8)}".strip()
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# What one process of this session has compiled, the others load: those of pytest-xdist, which
# inherit this, and all that tests start.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="asesjax-compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.02")
# Tracing makes many objects that live on, which need not be gone through again and again.
gc.set_threshold(100_000, 50, 50)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a script
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which children do not inherit

import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", autouse=True)
def room_for_programs():
    """The tests compile thousands of programs, more than one process can hold."""
    yield
    from asesjax.core.programs import drop_programs
    from asesjax.training import loop

    if drop_programs():
        loop._programs.cache_clear()


@pytest.fixture(scope="session")
def collect():
    """The program of ``notebooks`` that makes result files and tables."""
    spec = importlib.util.spec_from_file_location("collect", ROOT / "notebooks/collect.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder of real data: $ASESJAX_DATA, or ../shared/data beside the project.

    Skips where there is none, except under CI with the folder expected (ASESJAX_REQUIRE_DATA=1).
    """
    folder = Path(os.environ.get("ASESJAX_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        message = f"no real data at {folder}; set ASESJAX_DATA to the folder that holds gsm8k/ ..."
        if os.environ.get("ASESJAX_REQUIRE_DATA") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return folder
