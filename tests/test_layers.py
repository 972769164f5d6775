"""Imports go one way, and the core path needs no TensorFlow, torch or transformers."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from asesjax.core.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1] / "asesjax"

# What each layer may import from the package, itself always included.
CORE = {"core"}
MODEL = CORE | {"models", "sharding", "losses"}
ALLOWED = {
    "core": CORE,
    "segment": CORE,
    "data": CORE | {"segment"},
    "models": CORE,
    "sharding": CORE,
    "losses": CORE,
    "train": MODEL | {"segment", "data", "train"},
    "decode": MODEL | {"segment", "data", "decode"},
    "methods": MODEL | {"segment", "data", "train", "decode"},
    "evals": MODEL | {"segment", "data", "train", "decode", "methods"},
    "viz": CORE | {"methods"},
    "rooms": None,
    "run": None,  # everything
    "aot": None,
    "jobs": None,
    "seeds": None,
    "experiment": None,
    "tasks": None,
    "cli": None,
    "__init__": set(),
}
HEAVY = {"tensorflow", "seqio", "tensorflow_datasets", "torch", "transformers"}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(path):
    if len(path.relative_to(PACKAGE).parts) == 3 and "methods" in path.relative_to(PACKAGE).parts:
        return "rooms"
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_go_one_way(path):
    allowed = ALLOWED[layer(path)]
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "asesjax" or len(parts) == 1 or allowed is None:
            continue
        if parts[1] == "__version__":
            continue
        assert parts[1] in allowed | {layer(path)}, f"{path} imports {name}"


def test_flax_stays_in_models_and_orbax_in_checkpoint():
    for path in PACKAGE.rglob("*.py"):
        names = set(imports(path))
        if any(name.split(".")[0] == "flax" for name in names):
            assert layer(path) == "models", path
        if any(name.split(".")[0] == "orbax" for name in names):
            assert path.name == "checkpoint.py", path


def test_tensorflow_stays_in_tasks():
    """And no other module imports that folder at its top, which would bring TensorFlow along."""
    packages = {"tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio"}
    for path in PACKAGE.rglob("*.py"):
        if layer(path) != "tasks":
            assert not packages & {name.split(".")[0] for name in imports(path)}, path
            top = ast.parse(path.read_text()).body
            names = [a.name for node in top if isinstance(node, ast.Import) for a in node.names]
            names += [node.module for node in top if isinstance(node, ast.ImportFrom)]
            assert not any(name.startswith("asesjax.tasks") for name in names), path


def test_tasks_without_seqio_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "seqio", None)
    for name in [name for name in sys.modules if name.startswith("asesjax.tasks")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=r"pip install 'asesjax\[data\]'"):
        importlib.import_module("asesjax.tasks.load")


def test_core_path_without_heavy_packages():
    blocked = "\n".join(
        [
            "import sys",
            f"for name in {sorted(HEAVY)!r}: sys.modules[name] = None",
            "import asesjax, asesjax.experiment, asesjax.cli.main",
            "import asesjax.models.t5, asesjax.train.loop",
            "import asesjax.decode.iterative, asesjax.decode.score",
            "import asesjax.data.vocab, asesjax.data.batching",
        ]
    )
    subprocess.run([sys.executable, "-W", "error", "-c", blocked], check=True)
