"""No network in this folder, and the module that makes Hugging Face models as a fixture."""

import importlib.util
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported

import pytest  # noqa: E402

collect_ignore = ["hf_models.py"]  # imports torch, and has no doctests


@pytest.fixture(scope="session")
def hf():
    """The module hf_models.py; skips without torch and transformers, in CI it fails."""
    if os.environ.get("ASESJAX_REQUIRE_DATA") != "1":
        pytest.importorskip("torch")
        pytest.importorskip("transformers")
    path = Path(__file__).with_name("hf_models.py")
    spec = importlib.util.spec_from_file_location("hf_models", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def saved(hf, tmp_path):
    """A function that saves a model and returns the folder."""
    return lambda kind, shape="shallow", **more: hf.save(
        hf.make(kind, shape), tmp_path / f"{kind}-{shape}", **more
    )
