"""Configurations: files, command-line overrides, plug-ins, and what a workdir remembers of them.

A config file is Python with ``get_config(arg: str = "") -> ConfigDict``, which starts from
``base_config()`` and sets fields of the sections (``core.options``). ``--config path.py:arg`` gives
it ``arg``; a file that comes with the package is found by its name alone (``smoke``).
``--config.section.field=value`` changes one field afterwards. A file may register methods, data
sources, scores, samplers and sections of its own, or name modules that do (``plugins``); packages
do so by entry points of the group ``asesjax``.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import pkgutil
import re
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

import asesjax.data.options
import asesjax.data.sources
import asesjax.decode.options
import asesjax.evals.options
import asesjax.models.presets
import asesjax.segmentation.options
import asesjax.sharding.mesh
import asesjax.training.options  # noqa: F401
from asesjax import methods
from asesjax.core.errors import UserError, nearest, unknown
from asesjax.core.files import read_json, write_json
from asesjax.core.options import (
    NOTHING,
    SECTIONS,
    Config,
    all_fields,
    checked,
    find_field,
    flatten,
    from_fields,
    option,
    parsed,
    section,
)
from asesjax.core.registry import Registry
from asesjax.data.options import TRAINED
from asesjax.methods.method import METHODS, method_class
from asesjax.training.describe import fill_starts

__all__ = ["base_config", "load_config", "finish", "flatten", "Config"]
_LONGEST_NAME = 100  # of a row of the table
WORKDIR_FORMAT = 3  # of everything a run writes; other formats are refused


@section("")
class RunOptions:
    """Fields of the run itself."""

    name: str = option("", "shown in reports; the config file's name when empty", changes="report")
    seed: int = option(0, "of initialisation, batch order and generated data", least=0)
    seeds: tuple[int, ...] = option((), "the whole job for each, in WORKDIR/seed-N, and then all "
                                    "compared", items=int, least=0)  # fmt: skip
    methods: tuple[str, ...] = option(
        ("answer_only", "direct", "dsm", "usm"), "rows of the results table, in order: methods, or "
        "variants (variants.NAME.method, variants.NAME.section.field)", changes="report",
    )  # fmt: skip
    students: str = option("", "folder of pretrained students, which runs may share; one in "
                           "the workdir when empty", changes=NOTHING)  # fmt: skip
    plugins: tuple[str, ...] = option((), "modules, or Python files, that register things of the "
                                      "user's own", changes="report")  # fmt: skip


@functools.cache
def _load_rooms() -> None:
    """Import every method's room, and what installed packages register."""
    for room in pkgutil.iter_modules(methods.__path__):
        if room.ispkg:
            package = importlib.import_module(f"{methods.__name__}.{room.name}")
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{package.__name__}.{module.name}")
    for entry in importlib.metadata.entry_points(group="asesjax"):
        entry.load()


def base_config(spec: str = "") -> ConfigDict:
    """Return the defaults of every field, or the settings of another configuration
    (``finetune``, ``path.py:arg``). Config files change what they need and no more.
    """
    _load_rooms()
    if spec:
        before = Registry.registrations
        config, path, _ = _read_config(spec)
        if Registry.registrations > before:  # a later process finds what it registers
            config.plugins = (*config.plugins, str(path.resolve()))
        return config
    sections = {name: {f.name: f.default for f in dataclasses.fields(SECTIONS.get(name))}
                for name in SECTIONS}  # fmt: skip
    # Types are checked once, by ``core.options``.
    return ConfigDict(sections.pop("") | sections | {"variants": {}, "pretrain": {}},
                      type_safe=False)  # fmt: skip


def shipped() -> dict[str, Path]:
    """Return the configurations that come with the package, by name."""
    here = Path(__file__).parent
    folder = next(f for f in (here / "configs", here.parent / "configs") if f.is_dir())
    files = {path.relative_to(folder).with_suffix("").as_posix(): path
             for path in sorted(folder.rglob("*.py"))}  # fmt: skip
    return {name: path for name, path in files.items() if path.stem != "common"}


def _config_file(spec: str) -> tuple[Path, str]:
    """Return the file and the argument of ``path.py[:arg]`` or ``name[:arg]``."""
    path, _, arg = spec.partition(".py:")
    path = Path(path + ".py" if arg else spec)
    if path.is_file():
        return path, arg
    name, _, arg = spec.partition(":")
    known = shipped()
    if name in known:
        return known[name], arg
    raise UserError(
        f"config file {path} does not exist; give --config path/to/file.py[:arg], or a name that "
        f"asesjax configs lists; {nearest(name, known)}".rstrip("; ")
    )


def load_config(spec: str, overrides: Mapping[str, Any] | None = None) -> Config:
    """Load ``path.py[:arg]``, or by name what comes with the package, and apply overrides (dotted
    field to value, or to the command line's text). Raises UserError.
    """
    _load_rooms()
    before = Registry.registrations
    config, path, arg = _read_config(spec)
    fields = _flat(config)
    if fields.get("name", "") == "":
        fields["name"] = path.stem + (f":{arg}" if arg else "")
    return _whole(fields, overrides, path, Registry.registrations > before)


def _read_config(spec: str) -> tuple[ConfigDict, Path, str]:
    """Return what a configuration sets, its file and its argument."""
    path, arg = _config_file(spec)
    if path.suffix != ".py":
        raise UserError(f"config file {path} is not a Python file; its name must end in .py")
    module = load_file(path)
    if not hasattr(module, "get_config"):
        raise UserError(f"{path} has no get_config(arg), which returns the configuration")
    with _mistakes_in(path):
        config = module.get_config(arg)
        if not isinstance(config, ConfigDict) or "plugins" not in config:
            raise UserError(
                f"{path}: get_config must return base_config() with fields changed, got "
                f"{type(config).__name__}"
            )
    return config, path, arg


def whole_config(
    config: ConfigDict | Config, overrides: Mapping[str, Any] | None = None
) -> Config:
    """Take a configuration as ``load_config`` takes that of a file."""
    fields = flatten(config) if isinstance(config, Config) else _flat(config)
    if "plugins" not in fields:
        raise UserError("a configuration must start from asesjax.config.base_config()")
    return _whole(fields, overrides, Path("config"), False)


def _whole(
    fields: dict[str, Any], overrides: Mapping[str, Any] | None, path: Path, registers: bool
) -> Config:
    """Apply overrides, find the plug-ins, and fill in what the weights say that rows start from.
    ``registers`` tells that the file itself is a plug-in.
    """
    known, overrides = all_fields(), dict(overrides or {})
    if "plugins" in overrides:
        fields["plugins"] = parsed("plugins", overrides.pop("plugins"), known["plugins"])
    plugins = checked("plugins", fields["plugins"], known["plugins"])
    plugins = tuple(_resolved(name, path.parent) for name in plugins)
    own = str(path.resolve())
    if own not in plugins and registers:
        plugins += (own,)  # a later process finds what it registers
    fields["plugins"] = plugins
    found = _checked(fields, overrides, str(path))
    fields = flatten(found)
    defaults = {name: field.default for name, field in all_fields().items()}
    explicit = set(overrides) | {k for k, v in fields.items() if v != defaults.get(k, 0)}
    found = from_fields(fill_starts(fields, explicit), str(path))
    unread = sorted({f"vocab.{name}" for name in TRAINED} & overrides.keys())
    if unread and found.vocab.kind != "train":
        raise UserError(
            f"{', '.join(unread)}: only a vocabulary that is trained has these, and this run takes "
            f"one of kind {found.vocab.kind} from {found.vocab.path or 'its weights'}; leave them "
            "out"
        )
    return found


def finish(config: ConfigDict | Config, overrides: Mapping[str, Any] | None = None) -> Config:
    """Apply overrides (dotted field to value or text, which is a Python literal unless the field is
    a string) and check every field. Raises UserError for unknown fields and wrong values.

    >>> finish(base_config(), {"segment.beta": "1.0"}).segment.beta
    1.0
    """
    values = flatten(config) if isinstance(config, Config) else _flat(config)
    return _checked(values, overrides or {}, "config")


def _checked(values: dict[str, Any], overrides: Mapping[str, Any], origin: str) -> Config:
    """Apply overrides to dotted fields, load the plug-ins, and check every field, row of the table,
    variant and the student. ``origin`` is named in errors about fields.
    """
    _load_rooms()
    if "plugins" in overrides:  # first, because they may register sections
        names = parsed("plugins", overrides["plugins"], all_fields()["plugins"])
        values["plugins"] = tuple(_resolved(name, Path()) for name in names)
    known = all_fields()
    for plugin in checked("plugins", values.get("plugins", ()), known["plugins"]):
        load_plugin(plugin)
    known = all_fields()
    for name, text in overrides.items():
        if name != "plugins":
            field = find_field(name, known)
            values[name] = checked(name, parsed(name, text, field), field)
    config = from_fields(values, origin)
    if not config.methods:
        raise UserError("methods is empty; name the rows of the results table, such as direct,usm")
    for name in (*config.methods, *config.variants):
        if not re.fullmatch(r"[^/\s.][^/\s]*", name) or len(name.encode()) > _LONGEST_NAME:
            raise UserError(
                f"a row cannot be called {name[:_LONGEST_NAME]!r}: files are called by it; take a "
                f"name of at most {_LONGEST_NAME} bytes with no / or white space"
            )
        method_class(name, config)
    if twice := [name for name, n in Counter(config.methods).items() if n > 1]:
        raise UserError(
            f"methods names {twice[0]} twice; leave one out, or make the other a row of its own: "
            f"variants.NAME.method={twice[0]}, and NAME in methods"
        )
    if config.pretrain and config.pretrain.get("method") not in METHODS:
        raise unknown("pretrain.method", config.pretrain.get("method"), METHODS)
    return config


def read_workdir(workdir: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Return the configuration of a workdir, its plug-ins loaded; UserError where there is none."""
    return _checked(saved_fields(workdir), overrides or {}, str(Path(workdir) / "config.json"))


def saved_fields(workdir: str | Path) -> dict[str, Any]:
    """Return the dotted fields that a workdir remembers, as JSON values."""
    path = Path(workdir) / "config.json"
    if points := swept(workdir):
        raise UserError(
            f"{workdir} is a sweep, which asesjax run and report take; give one of its runs, such "
            f"as {Path(workdir) / next(iter(points))}"
        )
    if not path.is_file():
        raise UserError(
            f"{workdir} holds no run yet; give the folder of a run, or make one by asesjax run "
            f"--config FILE.py --workdir {workdir}"
        )
    values = read_json(path)
    found = values.pop("workdir_format", 1)
    if found != WORKDIR_FORMAT:
        raise UserError(
            f"{workdir} is of workdir format {found} and this version reads format "
            f"{WORKDIR_FORMAT}; give another --workdir, or use the version that wrote it"
        )
    return values


def swept(workdir: str | Path) -> dict[str, dict[str, str]]:
    """Return the points of a sweep (``sweeps``): folder below the workdir to the text of each swept
    field; nothing for other workdirs.
    """
    path = Path(workdir) / "sweep.json"
    return read_json(path)["points"] if path.is_file() else {}


def save_fields(workdir: str | Path, config: Config) -> None:
    """Write the configuration into a workdir."""
    write_json(Path(workdir) / "config.json", {"workdir_format": WORKDIR_FORMAT} | flatten(config))


def load_file(path: Path) -> ModuleType:
    """Run a Python file of the user's as a module; UserError if it is missing or not valid."""
    if not path.is_file():
        raise UserError(
            f"{path} does not exist; it registers things that this run uses; put it back, or give "
            "asesjax run its new place by --config.plugins=FILE.py"
        )
    name = _module_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # no __pycache__ beside it
    try:
        with _mistakes_in(path):
            spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


@contextlib.contextmanager
def _mistakes_in(path: Path) -> Iterator[None]:
    """Turn what a file of the user's raises into a UserError with its line."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_file():
            raise UserError(f"{error.filename}:{error.lineno}: {error.msg}") from error
        calls = traceback.extract_tb(error.__traceback__)
        own = [at for at in calls if Path(at.filename).resolve() == path.resolve()]
        where = f"{path}:{own[-1].lineno}" if own else str(path)
        if not own and calls[-1].filename != __file__:
            where += f" ({calls[-1].filename}:{calls[-1].lineno})"
        raise UserError(f"{where}: {type(error).__name__}: {str(error).strip()}") from error


def _module_name(path: Path) -> str:
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()
    return f"asesjax_user_{path.stem}_{digest[:8]}"


def load_plugin(name: str) -> None:
    """Import a module, or run a Python file, that registers things of the user's own."""
    if name.endswith(".py"):
        if _module_name(Path(name)) not in sys.modules:
            load_file(Path(name))
        return
    try:
        with _mistakes_in(Path(name)):
            importlib.import_module(name)
    except UserError as error:
        cause = error.__cause__
        absent = isinstance(cause, ModuleNotFoundError) and f"{name}.".startswith(f"{cause.name}.")
        if not absent:  # it is there and fails, perhaps by what it imports itself
            raise
        raise UserError(
            f"plugins: there is no module {name}; install it, add its folder to PYTHONPATH, or "
            "give the path of its .py file"
        ) from error


def _resolved(name: str, folder: Path) -> str:
    """The plug-in's absolute path, where it is a file here or beside the config file."""
    for path in (Path(name), folder / name, folder / f"{name}.py"):
        if path.suffix == ".py" and path.is_file():
            return str(path.resolve())
    return name


def _flat(config: ConfigDict, lead: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in config.items():
        inner = isinstance(value, ConfigDict)
        out |= _flat(value, f"{lead}{key}.") if inner else {f"{lead}{key}": value}
    return out
