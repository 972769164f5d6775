"""Imports go one way, and the core path needs no TensorFlow, torch or transformers."""

import ast
import collections
import functools
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from asesjax.config import base_config
from asesjax.core.errors import UserError
from asesjax.data.registry import SOURCES
from asesjax.methods.method import METHODS
from asesjax.segmentation.score import SCORES

PACKAGE = Path(__file__).resolve().parents[1] / "asesjax"

# What each layer may import from the package besides itself, those of lower layers included.
LOWER = {
    "core": (),
    "segmentation": ("core",),
    "data": ("segmentation",),
    "models": ("core",),
    "sharding": ("core",),
    "losses": ("core",),
    "training": ("data", "models", "sharding", "losses"),
    "decode": ("data", "models", "sharding", "losses"),
    "methods": ("training", "decode"),
    "evals": ("methods",),
    "viz": ("core",),
    "run": ("evals",),
    "jobs": ("run", "viz"),
    "rooms": ("jobs",),  # of methods, see below
    "config": ("data", "training", "decode", "methods", "evals"),  # finds the rooms by itself
    "experiment": ("jobs", "config"),
    "seeds": ("experiment",),
    "sweeps": ("seeds",),
    "aot": ("sweeps",),
    "tasks": ("seeds",),
    "api": ("seeds", "rooms"),
    "cli": ("api", "aot", "tasks", "rooms"),
    "__init__": (),
}
HEAVY = {"tensorflow", "seqio", "tensorflow_datasets", "torch", "transformers"}


def nodes(tree):
    """Yield every node but those below ``if TYPE_CHECKING``."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not typing:
            yield from nodes(child)


@functools.cache
def syntax(path):
    return tuple(nodes(ast.parse(path.read_text())))


def imports(path):
    """Yield what a file imports, at its top or later: modules, and names of modules."""
    for node in syntax(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_name(path):
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    return name.removesuffix(".__init__")


FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {module_name(path): path for path in FILES}


def room(path):
    """Return the folder of a method's files; "" for other files."""
    parts = path.relative_to(PACKAGE).parts
    return parts[1] if parts[0] == "methods" and len(parts) == 3 else ""


def layer(path):
    return "rooms" if room(path) else path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path):
    """Return the files of the package that a file imports; of packages, their ``__init__``."""
    names = {name for name in imports(path) if name in MODULES}
    # ``from asesjax.core import files`` is of the module files alone.
    return {
        MODULES[name]
        for name in names
        if MODULES[name].stem != "__init__" or not any(n.startswith(f"{name}.") for n in names)
    }


def allowed(name):
    return {name}.union(*(allowed(lower) for lower in LOWER[name]))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_from_higher_layers_to_lower_ones(path):
    for other in imported_modules(path):
        if other == PACKAGE / "__init__.py":
            continue  # the version
        assert layer(other) in allowed(layer(path)), f"{path} imports {other}"
        if room(path) and room(other):
            assert room(other) == room(path), f"{path} imports {other}, of another method"


def test_no_modules_import_each_other():
    """Not even where the import is inside a function."""
    left = {path: imported_modules(path) - {path} for path in FILES}
    ends = True
    while ends:  # files that import none of the others, or that none of them imports
        imported = set().union(*left.values())
        ends = {path for path in left if not left[path] or path not in imported}
        left = {path: others - ends for path, others in left.items() if path not in ends}
    assert not left, {module_name(path): sorted(map(module_name, others))
                      for path, others in left.items()}  # fmt: skip


def test_no_two_classes_have_one_name():
    found = collections.defaultdict(set)
    for path in FILES:
        for node in syntax(path):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].add(str(path.relative_to(PACKAGE)))
    assert not {name: places for name, places in found.items() if len(places) > 1}


# Names that are also words with another meaning, and the folders or files where they have it.
HOMONYMS = {
    # formats of files, and a file
    **dict.fromkeys(("json", "csv", "parquet", "arrow"), ("data",)),
    "jsonl": ("data", "core/trackers.py", "core/metric_log.py", "jobs/decoding.py"),
    "file": ("cli/segment.py", "evals", "jobs", "core/options.py"),
    "svamp": ("data/readers/palm.py",),  # a folder there
    # a metric of predictions
    "bleu": ("evals", "viz", "seeds.py", "tasks", "training/options.py", "jobs/curve.py",
             "experiment.py"),
    "loss": ("training", "viz"),  # of training
}  # fmt: skip


def test_methods_scores_and_sources_are_named_only_where_they_are_defined():
    """Other files know them by their registries; defaults of options may name them."""
    base_config()
    homes = {}
    for registry in (METHODS, SCORES, SOURCES):
        for name in registry:
            home = MODULES[registry.get(name).__module__]
            homes[name] = home.parent if room(home) else home
    wrong = []
    for path in FILES:
        place = path.relative_to(PACKAGE)
        defaults = {
            inner for node in syntax(path)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "option"
            for inner in ast.walk(node.args[0])
        }  # fmt: skip
        for node in set(syntax(path)) - defaults:
            name = node.value if isinstance(node, ast.Constant) else None
            if not isinstance(name, str) or homes.get(name, path) in (path, path.parent):
                continue
            if not any(place.is_relative_to(other) for other in HOMONYMS.get(name, ())):
                wrong.append(f"{place}:{node.lineno}: {name!r}")
    assert not wrong, "\n".join(sorted(wrong))


def test_flax_stays_in_models_and_orbax_in_checkpoint():
    for path in FILES:
        names = set(imports(path))
        if any(name.split(".")[0] == "flax" for name in names):
            assert layer(path) == "models", path
        if any(name.split(".")[0] == "orbax" for name in names):
            assert path.name == "checkpoint.py", path


def test_tensorflow_stays_in_tasks():
    """And no other module imports that folder at its top, which would bring TensorFlow along."""
    packages = {"tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio"}
    for path in FILES:
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
            "import asesjax.models.t5, asesjax.training.loop",
            "import asesjax.decode.iterative, asesjax.decode.score",
            "import asesjax.data.vocab, asesjax.data.batching",
        ]
    )
    subprocess.run([sys.executable, "-W", "error", "-c", blocked], check=True)
