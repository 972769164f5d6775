"""What a checkpoint says of itself: shape of the model, vocabulary, and what it was trained as.

A checkpoint ``step_<n>`` holds ``model.json`` and ``vocab/``, a folder of Hugging Face the same in
``config.json`` and the files of its tokenizer. So a run can start from either, and both can be
moved.
"""

import dataclasses
from pathlib import Path
from typing import Any

from asesjax.core.buckets import address, is_address, local
from asesjax.core.errors import UserError
from asesjax.core.files import read_json, write_json
from asesjax.data.hf_tokenizer import copy_tokenizer, read_hf_vocabulary
from asesjax.data.vocab import Vocabulary, load_saved
from asesjax.models.hf_config import config_from_hf, read_config
from asesjax.models.presets import preset
from asesjax.models.t5_config import T5Config
from asesjax.training.checkpoint_files import find_checkpoint

FORMAT = 2
# Fields of the model section that the parameters decide.
SHAPE = (
    "d_model", "d_ff", "n_heads", "d_kv", "n_encoder_layers", "n_decoder_layers", "mlp", "tied",
)  # fmt: skip
# Fields of a configuration that a checkpoint fills.
FILLED = (*(f"model.{name}" for name in (*SHAPE, "vocab_rows")),
          *(f"vocab.{name}" for name in ("kind", "path", "extra_ids")))  # fmt: skip
_FREE = ("dropout", "dtype")  # fields of T5Config that a run may change


@dataclasses.dataclass(frozen=True)
class Description:
    """What is needed to use parameters."""

    model: T5Config
    vocab: Vocabulary | None  # None where it is not known
    method: str = ""  # row of the results table that was trained; empty after a conversion
    role: str = ""
    model_type: str = "t5"  # for exporting; or "mt5"
    origin: str = ""  # what it was converted from
    place: Path | None = None  # checkpoint or folder of Hugging Face that it was read from

    @property
    def is_hf(self) -> bool:
        """Whether the parameters are files of Hugging Face."""
        return self.place is not None and (self.place / "config.json").is_file()

    @property
    def vocab_folder(self) -> Path | None:
        """Where the files of the vocabulary and of transformers' tokenizer lie."""
        return self.place if self.is_hf or self.place is None else self.place / "vocab"

    def without_field(self) -> list[tuple[str, Any, Any]]:
        """Return what no configuration can say: field of T5Config, value here, value of a run."""
        return [
            (field.name, value, field.default)
            for field in dataclasses.fields(T5Config)
            if field.name not in (*SHAPE, *_FREE, "vocab_size")
            and (value := getattr(self.model, field.name)) != field.default
        ]

    def write(self, place: Path) -> None:
        """Write ``model.json`` and ``vocab/`` into the folder of a checkpoint."""
        facts = {name: getattr(self, name) for name in ("method", "role", "model_type", "origin")}
        facts = {"format": FORMAT} | {name: value for name, value in facts.items() if value}
        if self.vocab_folder is not None:
            copy_tokenizer(self.vocab_folder, place / "vocab")
        if self.vocab is not None:
            self.vocab.save(place / "vocab")
            facts["vocabulary"] = {name: getattr(self.vocab, name)
                                   for name in ("kind", "size", "fingerprint")}  # fmt: skip
        write_json(place / "model.json", facts | {"model": dataclasses.asdict(self.model)})

    def check_rows(self) -> None:
        """Refuse weights with fewer rows than their vocabulary has ids."""
        if self.vocab is not None and self.vocab.size > self.model.vocab_size:
            raise UserError(
                f"{self.place} has a tokenizer of {self.vocab.size} ids and an embedding of "
                f"{self.model.vocab_size} rows; add rows with asesjax convert --vocab-rows "
                "tokenizer, or remove the tokens that were added after training"
            )

    def check_start(self, model: T5Config, vocab: Vocabulary) -> None:
        """Refuse a run of another shape, or of a vocabulary whose ids mean something else."""
        where = f"model.init_from {self.place}"
        if self.vocab is not None and self.vocab.fingerprint != vocab.fingerprint:
            raise UserError(
                f"{where} has another vocabulary ({_named(self.vocab)}) than this run "
                f"({_named(vocab)}), so its ids mean something else; leave out the vocab section, "
                "which model.init_from of the run fills, or start from another checkpoint"
            )
        wrong = [
            f"{name} is {getattr(model, name)!r} here and {theirs!r} there"
            for name, theirs in dataclasses.asdict(self.model).items()
            if name not in _FREE and getattr(model, name) != theirs
        ]
        if wrong:
            raise UserError(
                f"{where} is of another model: {'; '.join(wrong)}; leave out the model section, "
                "which is then filled from there (asesjax convert --vocab-rows changes vocab_size)"
            )


def describe_hf(folder: Path) -> Description:
    """Describe a folder of Hugging Face: T5 or mT5, with or without a tokenizer."""
    fields, vocab = read_config(folder), read_hf_vocabulary(folder)
    model = config_from_hf(fields, f"{folder}/config.json")
    return Description(model, vocab, model_type=fields["model_type"], place=folder)


def describe_start(path: str | Path) -> Description:
    """Describe what ``model.init_from`` names: what ``find_checkpoint`` takes, or a folder of
    Hugging Face. Raises a UserError for anything else.
    """
    path = local(path)
    if (path / "roles").is_dir():
        roles = sorted(str(role.parent) for role in path.glob("roles/*/*/checkpoints"))
        raise UserError(f"{path} is the folder of a run; give one of its roles: {', '.join(roles)}")
    if (path / "config.json").is_file():
        return describe_hf(path)
    place = find_checkpoint(path)
    file = place / "model.json"
    if not file.is_file():
        raise UserError(
            f"checkpoint {place} has no model.json, so its shape and vocabulary cannot be known; "
            "it was written by an earlier version: train or convert it again"
        )
    facts = read_json(file)
    try:
        if facts["format"] != FORMAT:
            raise UserError(f"{file} has format {facts['format']}; this version reads {FORMAT}")
        model, vocab = T5Config(**facts["model"]), facts.get("vocabulary")
        fingerprint = vocab and vocab["fingerprint"]
    except (TypeError, KeyError) as error:
        raise UserError(f"{file} does not describe a checkpoint: {error}") from None
    if vocab:
        vocab = load_saved(place / "vocab")
        if fingerprint != vocab.fingerprint:
            raise UserError(f"{place / 'vocab'} is not the vocabulary that {file} names")
    texts = {name: facts.get(name, "") for name in ("method", "role", "origin")}
    return Description(model, vocab, **texts, model_type=facts["model_type"], place=place)


def fill_starts(fields: dict[str, Any], explicit: set[str]) -> dict[str, Any]:
    """Fill the ``model`` and ``vocab`` sections of a flattened configuration from the checkpoints
    that ``model.init_from`` names, that of the run and those of variants, which share one
    vocabulary. ``explicit`` are the fields that the user set. Raises UserError as ``fill``.
    """
    known: Description | None = None
    for name in [name for name in fields if f".{name}".endswith(".model.init_from")]:
        if not fields[name]:
            continue
        if not is_address(fields[name]):  # absolute, so that the workdir finds it from any folder
            fields = fields | {name: str(Path(fields[name]).resolve())}
        start = describe_start(fields[name])
        start.check_rows()
        fields = fill(fields, explicit, start, name.removesuffix("model.init_from"), known)
        known = known or (start if start.vocab is not None else None)
    return fields


def fill(
    fields: dict[str, Any], explicit: set[str], description: Description, row: str = "",
    known: Description | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Fill the ``model`` section of a flattened configuration, or of a variant (``row`` is then
    "variants.NAME."), and the ``vocab`` section unless that of ``known`` fills it. Those
    ``explicit`` fields that contradict the checkpoint are a UserError, except ``vocab.symbols``
    where it has none, another ``vocab.path`` of the same content, and ``model.dropout``. So is a
    vocabulary that is another than that of ``known``, or not known at all.
    """
    where = f"{row}model.init_from {description.place}"
    shape = {f"{row}model.{name}": getattr(description.model, name) for name in SHAPE}
    found: dict[str, Any] = {}
    got = dict(fields)
    own_preset = fields.get(f"{row}model.preset", "")
    if own_preset:  # the preset stands for all of them
        wanted = preset(own_preset)
        got |= {name: getattr(wanted, name.rpartition(".")[2]) for name in shape}
        explicit = explicit | shape.keys()
    found[f"{row}model.vocab_rows"] = description.model.vocab_size
    if (vocab := description.vocab) is None:
        if fields["vocab.kind"] == "train":
            raise UserError(
                f"{where} does not say what its vocabulary is (no spiece.model or tokenizer.json "
                "lies there), and one trained anew would give its rows another meaning; put the "
                "file there, or name it by vocab.kind and vocab.path"
            )
    elif known is not None:
        assert known.vocab is not None
        if vocab.fingerprint != known.vocab.fingerprint:
            raise UserError(
                f"{where} has another vocabulary ({_named(vocab)}) than {known.place} "
                f"({_named(known.vocab)}), and the rows of a run share one; give checkpoints of "
                "the same vocabulary"
            )
    else:
        found |= {"vocab.kind": vocab.kind, "vocab.extra_ids": vocab.extra_ids}
        if not ("vocab.symbols" in explicit and got["vocab.symbols"]):
            found["vocab.symbols"] = vocab.symbols
        path = local(got["vocab.path"])
        same = "vocab.path" in explicit and path.is_file() and path.read_bytes() == vocab.model
        if vocab.model and not same:
            place = description.vocab_folder
            assert place is not None  # what is read lies somewhere
            is_made = description.is_hf and vocab.kind == "tokenizer"  # of several files
            found["vocab.path"] = address(place if is_made else place / vocab.file)
    wrong = [
        f"{name} is {got[name]!r} here and {value!r} there"
        for name, value in (shape | found).items()
        if name in explicit and got[name] != value
    ]
    if wrong:
        by = f" ({row}model.preset {own_preset!r})" if own_preset else ""
        raise UserError(
            f"the configuration{by} contradicts {where}: "
            f"{'; '.join(wrong)}. Leave these fields out: they are filled from the checkpoint"
        )
    if not own_preset:
        found |= shape
        if row and fields["model.preset"]:
            found[f"{row}model.preset"] = ""
    if f"{row}model.dropout" not in explicit:
        found[f"{row}model.dropout"] = description.model.dropout
    return fields | found


def _named(vocab: Vocabulary) -> str:
    return f"{vocab.kind}, {vocab.size} ids, sha256 {vocab.fingerprint[:12]}"
