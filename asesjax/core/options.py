"""Typed options: a frozen dataclass for each section of a configuration, beside the code it serves.

    @section("ases")
    class AsEsOptions:
        gamma: float = option(1.0, "loss weight of AS tokens; ES tokens weigh 1", least=0)

The fields of configurations (``config.base_config``) are generated from these classes, and all
values are checked here, once.
"""

import ast
import dataclasses
import difflib
import hashlib
import json
import math
import operator
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

from asesjax.core.errors import UserError, unknown
from asesjax.core.registry import Registry

T = TypeVar("T")
SECTIONS: Registry[type] = Registry("section")
MOST = 2**31 - 1  # steps, ids and sizes are int32 in compiled programs
NOTHING = "nothing"  # a field that changes how a run is watched, saved or placed, not its results


def option(
    default: Any, help: str, *, least: float | None = None, most: float | None = None,
    above: float | None = None, below: float | None = None, choices: Iterable[str] | None = None,
    changes: str = "train", items: type = str,
) -> Any:  # fmt: skip
    """Declare a field of a section; the type of the default is that of the field.

    ``least``, ``most``, ``above`` and ``below`` bound it, or each item of a tuple; whole numbers
    are at most ``MOST`` where nothing less is said, and floats finite. ``choices`` may be a
    registry that grows later. ``changes`` is the kind of stage whose results depend on it:
    "train" (and all that follows), "decode", a kind that a method's own stages use, or "nothing".
    ``items`` is the type of the items of an empty tuple.
    """
    if isinstance(default, tuple) and default:
        items = type(default[0])
    if most is None and (items if isinstance(default, tuple) else type(default)) is int:
        most = MOST
    bounds = {"at least": least, "above": above, "at most": most, "below": below}
    return dataclasses.field(default=default, metadata={
        "help": help, "choices": choices, "changes": changes, "items": items,
        "bounds": {words: bound for words, bound in bounds.items() if bound is not None},
    })  # fmt: skip


@dataclass_transform(frozen_default=True)
def section(name: str) -> Callable[[type[T]], type[T]]:
    """Return a decorator that makes a frozen dataclass of options and registers it as a section."""

    def make(cls: type[T]) -> type[T]:
        made: Any = dataclasses.dataclass(frozen=True)(cls)
        made.section = name
        SECTIONS.register(name)(made)
        return made

    return make


class Config:
    """All options of a run: a dataclass for each section, and the run's own fields beside them.
    ``variants`` holds the dotted fields of rows with options of their own, ``pretrain`` those in
    which the training of a student differs (``run.student_run``).
    """

    def __init__(
        self, sections: Mapping[str, Any], variants: Mapping[str, dict[str, Any]],
        pretrain: Mapping[str, Any],
    ):  # fmt: skip
        own = vars(sections[""])
        self.__dict__.update(sections | own, variants=dict(variants), pretrain=dict(pretrain),
                             _sections=dict(sections))  # fmt: skip

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a configuration does not change; use config.changed({name}=...)")

    if TYPE_CHECKING:  # the sections are registered ones, which no type names

        def __getattr__(self, name: str) -> Any: ...

    def changed(self, fields: Mapping[str, Any]) -> "Config":
        """Return a configuration with some dotted fields changed; values are checked."""
        return from_fields(flatten(self) | dict(fields))


def flatten(config: Config) -> dict[str, Any]:
    """Return dotted field names and values, those of variants included."""
    out: dict[str, Any] = {}
    for name, part in config._sections.items():
        out |= {f"{name}.{field}".lstrip("."): value for field, value in vars(part).items()}
    for row, fields in config.variants.items():
        out |= {f"variants.{row}.{name}": value for name, value in fields.items()}
    return out | {f"pretrain.{name}": value for name, value in config.pretrain.items()}


def all_fields() -> dict[str, dataclasses.Field]:
    """Return every field of every section by its dotted name."""
    return {f"{name}.{field.name}".lstrip("."): field
            for name in SECTIONS for field in dataclasses.fields(SECTIONS.get(name))}  # fmt: skip


def from_fields(values: Mapping[str, Any], origin: str = "config") -> Config:
    """Check dotted fields and make a configuration of them; absent ones have their defaults. Values
    are those of ``flatten``, not text (see ``parsed``); ``origin`` is named in errors. Raises
    UserError for a field that no section has, or as ``checked`` does.
    """
    known = all_fields()
    own: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    variants: dict[str, dict[str, Any]] = {}
    pretrain: dict[str, Any] = {}
    for name, value in values.items():
        field = find_field(name, known, origin)
        try:
            value = checked(name, value, field)
        except UserError as error:
            raise UserError(f"{origin}: {error}" if origin != "config" else str(error)) from None
        if name.startswith("variants."):
            _, row, inner = name.split(".", 2)
            variants.setdefault(row, {})[inner] = value
        elif name.startswith("pretrain."):
            pretrain[name.removeprefix("pretrain.")] = value
        else:
            part, _, leaf = name.rpartition(".")
            own[part][leaf] = value
    sections = {name: SECTIONS.get(name)(**own[name]) for name in SECTIONS}
    return Config(sections, variants, pretrain)


def find_field(
    name: str, known: Mapping[str, dataclasses.Field], origin: str = ""
) -> dataclasses.Field | None:
    """Return the field of a dotted name; None for the method of a variant or of the student. Raises
    UserError with the nearest names if there is none.
    """
    inner = name
    if name.startswith("pretrain."):
        inner = name.removeprefix("pretrain.")
        if inner == "method":
            return None
        if inner.split(".")[0] not in _OF_STUDENT:
            raise UserError(
                f"{name}: the student has the run's model and vocabulary; of its own are "
                f"pretrain.method and fields of {', '.join(_OF_STUDENT)}, such as "
                "pretrain.data.max_steps"
            )
    if name.startswith("variants."):
        inner = ".".join(name.split(".")[2:])
        if inner == "method":
            return None
        if inner.split(".")[0] in _SHARED or "." not in inner:
            raise UserError(
                f"{name}: a variant has fields of its own in sections of training and decoding, "
                f"such as variants.NAME.train.learning_rate, and variants.NAME.method; those of "
                f"{', '.join(_SHARED)} and of the run itself are for all rows"
            )
    if inner not in known:
        near = near_fields(inner, known)
        where = f" in {origin}" if origin else ""
        raise UserError(
            f"unknown config field{where} {inner[:100]!r}; did you mean "
            f"{' or '.join(map(repr, near))}? asesjax config lists all"
        )
    return known[inner]


def near_fields(got: str, known: Iterable[str]) -> list[str]:
    """Return the three fields whose names are nearest to a wrong one: those that other programs
    call so, then by their whole name or, in another section, by the last part of it.
    """
    got = got[:100].lower().replace("-", "_")
    part, _, leaf = got.rpartition(".")
    other = _OTHER_NAMES.get(leaf)

    def nearness(name: str) -> float:
        own_part, _, own = name.rpartition(".")
        if other in (own, name):
            return 2 + (own_part == part) + 0.5 * (own_part == "train")
        whole, last = (difflib.SequenceMatcher(None, *pair).ratio()
                       for pair in ((got, name), (leaf, own)))  # fmt: skip
        return max(whole, 0.94 * last)

    return sorted(known, key=nearness, reverse=True)[:3]


# What fields are called elsewhere, by their last part.
_OTHER_NAMES = {
    "lr": "learning_rate", "bs": "batch_size", "batch": "batch_size", "epoch": "epochs",
    "n_epochs": "epochs", "num_epochs": "epochs", "num_train_epochs": "epochs",
    "max_steps": "train.steps", "n_steps": "train.steps", "num_steps": "train.steps",
    "iterations": "train.steps", "wd": "weight_decay", "optim": "optimizer",
    "optimiser": "optimizer", "lr_scheduler": "schedule", "warmup": "warmup_share",
    "warmup_ratio": "warmup_share", "grad_clip": "clip_norm", "max_grad_norm": "clip_norm",
    "gradient_accumulation_steps": "microbatches", "accumulate": "microbatches",
    "gradient_checkpointing": "remat", "early_stopping": "patience", "ema": "ema_decay",
    "per_device_train_batch_size": "batch_size", "precision": "dtype", "fp16": "dtype",
    "bf16": "dtype", "hidden_size": "d_model", "dim": "d_model", "heads": "n_heads",
    "num_heads": "n_heads", "layers": "n_encoder_layers", "num_layers": "n_encoder_layers",
    "dropout_rate": "dropout", "checkpoint": "init_from", "pretrained": "init_from",
    "model_name_or_path": "init_from", "max_new_tokens": "max_chain_tokens",
    "max_length": "max_chain_tokens", "num_beams": "beams", "beam_size": "beams",
    "temp": "temperature", "num_samples": "samples", "n_samples": "samples",
    "dataset": "data.source", "train_file": "data.path", "file": "data.path",
    "tokenizer": "vocab.path", "logger": "log.trackers", "report_to": "log.trackers",
    "random_seed": "seed",
}  # fmt: skip


_SHARED = ("data", "vocab", "evaluate", "mesh", "log")
_OF_STUDENT = ("seed", "data", "train", "decode")


def checked(name: str, value: Any, field: dataclasses.Field | None) -> Any:
    """Return the value of a field, whole numbers as floats and lists as tuples where it has these.
    Raises UserError for another type, a value outside the range, or none of the choices.
    """
    if field is None:  # the name of a method
        field = _METHOD
    default, facts = field.default, field.metadata
    if isinstance(value, list | tuple) and len(value) > _MOST_ITEMS:
        raise UserError(f"{name} holds {len(value)} items; at most {_MOST_ITEMS} are possible")
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        if not all(type(item) is facts["items"] for item in value):
            raise UserError(f"{name} must hold only {facts['items'].__name__}, got {_short(value)}")
        value = tuple(value)
    elif isinstance(default, float) and type(value) is int:
        # As long as a float holds it; otherwise no range does.
        value = float(value) if abs(value) <= sys.float_info.max else math.inf
    elif type(value) is not type(default):
        kind = type(value).__name__
        raise UserError(f"{name} must be {_kind(field)}, got {_short(value)} ({kind})")
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, str):
            check_text(item, name)
        if facts["choices"] is not None and item not in facts["choices"]:
            raise unknown(name, item, facts["choices"])
        if isinstance(item, float) and not math.isfinite(item):
            raise UserError(f"{name} must be a finite number, got {item!r}")
        if not all(_HOLDS[words](item, bound) for words, bound in facts["bounds"].items()):
            raise UserError(f"{name} must be {range_text(field)}, got {_short(item)}")
    return value


_METHOD = option("", "the method of a variant or of the student")
_MOST_ITEMS, _MOST_CHARACTERS = 1000, 5000  # of a field, which messages must hold


def check_text(text: str, what: str) -> None:
    """Raise UserError for a text that no UTF-8 file, or no name of a file, can hold."""
    if len(text) > _MOST_CHARACTERS:
        raise UserError(
            f"{what} has {len(text):,} characters; at most {_MOST_CHARACTERS:,} are possible"
        )
    surrogate = next((c for c in text if "\ud800" <= c <= "\udfff"), None)
    if surrogate is not None:
        raise UserError(
            f"{what} is not UTF-8 text: it holds {surrogate!r}, half of a character; write it anew"
        )
    if "\0" in text:
        raise UserError(f"{what} holds the character of code 0, which no name can; remove it")


def _short(value: Any) -> str:
    """Write a value in an error; whole numbers of thousands of digits cannot be written."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return "a number of more than 70 digits"
    try:
        text = repr(value)
    except Exception as error:  # a list of such numbers, or an object of the user's own
        return f"a {type(value).__name__} that cannot be shown ({type(error).__name__})"
    return text if len(text) <= 200 else f"{text[:200]}..."


_HOLDS = {"at least": operator.ge, "at most": operator.le,
          "above": operator.gt, "below": operator.lt}  # fmt: skip


def range_text(field: dataclasses.Field) -> str:
    """Write the range of a field, such as "at least 0 and below 1"; empty for none."""
    return " and ".join(f"{words} {bound}" for words, bound in field.metadata["bounds"].items())


def _kind(field: dataclasses.Field) -> str:
    """Write the type of a field, as errors do."""
    name = type(field.default).__name__
    if name == "tuple":
        return f"a list of {field.metadata['items'].__name__} with commas between"
    return f"{'an' if name == 'int' else 'a'} {name}"


def parsed(name: str, text: Any, field: dataclasses.Field | None) -> Any:
    """Read the command line's text for a field; return what is no text as it is. Raises UserError
    if it is no such value.
    """
    if not isinstance(text, str):
        return text
    if field is None or isinstance(field.default, str):
        return text
    default = field.default
    several = isinstance(default, tuple)
    if several and field.metadata["items"] is str:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise UserError(f"{name} must be true or false, got {_short(text)}")
        return text.lower() == "true"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is refused anyway
            value = ast.literal_eval("()" if several and not text else text)
    # The last three: {{}}, brackets nested too deeply, and so deeply that the parser gives up.
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise UserError(f"{name} must be {_kind(field)}, got {_short(text)}") from None
    return (value,) if several and not isinstance(value, list | tuple) else value


def reads(config: Config, *what: str) -> dict[str, Any]:
    """Return the fields that a stage reads, with their values. ``what`` are names of fields of the
    run itself, of sections ("model": all that changes results), or of those fields of a section
    that change one kind of stage:

    >>> import asesjax.config as c
    >>> reads(c.finish(c.base_config()), "seed", "ases:decode")
    {'seed': 0, 'ases.stop_text': 'answer is'}
    """
    out = {}
    for name in what:
        part, _, kind = name.partition(":")
        own = getattr(config, part)
        if part not in SECTIONS:
            out[part] = own
            continue
        for field in dataclasses.fields(own):
            changes = field.metadata["changes"]
            if changes != NOTHING and kind in ("", changes):
                out[f"{part}.{field.name}"] = getattr(own, field.name)
    return out


def fingerprint(fields: Mapping[str, Any]) -> str:
    """Return a short hash of JSON values, the same in every process and version."""
    text = json.dumps(fields, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
