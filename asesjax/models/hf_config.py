"""``config.json`` of Hugging Face's T5 and mT5, read strictly and written.

In transformers 4, ``tie_word_embeddings`` means that the output is the embedding, scaled by
``d_model ** -0.5``. transformers 5 always writes true there: ``scale_decoder_outputs`` says whether
T5 scales, mT5 never does, and the output is separate where ``lm_head.weight`` differs from the
embedding. So ``tied`` here means "scaled", and ``hf_io`` compares it with the tensors.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from asesjax.core.errors import UserError
from asesjax.core.files import read_json
from asesjax.models.t5_config import T5Config

MODEL_TYPES = ("t5", "mt5")
# What files call a field and our name; then the values that transformers assumes where a field is
# absent, None for as many layers as the encoder has.
_NAMES = {
    "vocab_size": "vocab_size", "d_model": "d_model", "d_kv": "d_kv", "d_ff": "d_ff",
    "num_heads": "n_heads", "num_layers": "n_encoder_layers",
    "num_decoder_layers": "n_decoder_layers", "dropout_rate": "dropout",
    "relative_attention_num_buckets": "relpos_buckets",
    "relative_attention_max_distance": "relpos_max_distance",
    "layer_norm_epsilon": "layer_norm_epsilon",
}  # fmt: skip
_ASSUMED = {
    "num_decoder_layers": None, "dropout_rate": 0.1, "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6,
}  # fmt: skip
# feed_forward_proj -> what transformers derives from it, which a file may repeat.
_ACTIVATIONS = {"relu": ("relu", False), "gated-gelu": ("gelu_new", True),
                "gated-silu": ("silu", True)}  # fmt: skip
_DEFAULT_MLP = {"t5": "relu", "mt5": "gated-gelu"}
# Ids that this package requires.
IDS = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
NO_DECODER = (
    "it is an encoder alone (T5EncoderModel), without the decoder that writes; give the whole "
    "model that it was taken from (T5ForConditionalGeneration)"
)
_MUST_BE_OFF = ("tie_encoder_decoder", "quantization_config")


def read_config(folder: str | Path) -> dict[str, Any]:
    """Read the ``config.json`` of a folder."""
    fields = read_json(Path(folder) / "config.json")
    if not isinstance(fields, dict):
        raise UserError(f"{folder}/config.json: expected an object of fields")
    return fields


def config_from_hf(fields: Mapping[str, Any], where: str = "config") -> T5Config:
    """Build a float32 T5Config from what a ``config.json`` holds; ``where`` names it in errors.
    Raises UserError for another model or activation, and for a field that is missing, wrong or
    contradicts another.
    """
    try:
        return _config(fields)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _config(fields: Mapping[str, Any]) -> T5Config:
    model_type = fields.get("model_type")
    if model_type not in MODEL_TYPES:
        raise _unsupported("model_type", model_type, MODEL_TYPES)
    values: dict[str, Any] = {}
    for theirs, ours in _NAMES.items():
        if theirs not in fields and theirs not in _ASSUMED:
            raise UserError(f"field {theirs!r} is missing")
        value = fields.get(theirs, _ASSUMED.get(theirs))
        if value is None and theirs == "num_decoder_layers":
            value = values["n_encoder_layers"]
        if type(value) not in (int, float):
            raise UserError(f"{theirs} must be a number, got {value!r}")
        values[ours] = value
    if fields.get("is_encoder_decoder") is False:
        raise UserError(NO_DECODER)
    for name in ("tie_word_embeddings", "scale_decoder_outputs"):
        if type(fields.get(name)) not in (bool, type(None)):
            raise UserError(f"{name} must be true or false, got {fields[name]!r}")
    for name in _MUST_BE_OFF:
        if fields.get(name):
            raise UserError(f"{name} {fields[name]!r} is not supported; it must be absent")
    for name, needed in IDS.items():
        if fields.get(name, needed) not in (needed, None):
            raise UserError(
                f"{name} is {fields[name]!r}; asesjax works with {needed} only, as in every "
                "released T5"
            )
    return T5Config(**values, mlp=_mlp(fields, model_type), tied=_scaled(fields, model_type))


def config_to_hf(config: T5Config, model_type: str = "t5", dtype: str = "float32") -> dict:
    """Return the ``config.json`` with which transformers computes what ``config`` does. A tied mT5
    is written as T5, because transformers 5 never scales mT5's logits.
    """
    if config.tied:
        model_type = "t5"
    activation, gated = _ACTIVATIONS[config.mlp]
    name = {"t5": "T5", "mt5": "MT5"}[model_type]
    return {
        "architectures": [f"{name}ForConditionalGeneration"],
        "model_type": model_type,
        **{theirs: getattr(config, ours) for theirs, ours in _NAMES.items()},
        "feed_forward_proj": config.mlp,
        "dense_act_fn": activation,
        "is_gated_act": gated,
        "tie_word_embeddings": config.tied,
        "is_encoder_decoder": True,
        "initializer_factor": 1.0,
        "use_cache": True,
        **IDS,
        "dtype": dtype,
    }


def _mlp(fields: Mapping[str, Any], model_type: str) -> str:
    mlp = fields.get("feed_forward_proj", _DEFAULT_MLP[model_type])
    if not isinstance(mlp, str) or mlp not in _ACTIVATIONS:
        raise _unsupported("feed_forward_proj", mlp, _ACTIVATIONS)
    for name, implied in zip(("dense_act_fn", "is_gated_act"), _ACTIVATIONS[mlp], strict=True):
        if fields.get(name, implied) != implied:
            raise UserError(
                f"feed_forward_proj {mlp!r} means {name} {implied!r}, but the file says "
                f"{fields[name]!r}"
            )
    return mlp


def _unsupported(name: str, got: Any, valid: Iterable[str]) -> UserError:
    """Build the error for a fact of a checkpoint; another value would only give a wrong model."""
    return UserError(f"{name} {got!r} is not supported; models of {', '.join(valid)} are")


def _scaled(fields: Mapping[str, Any], model_type: str) -> bool:
    tie = fields.get("tie_word_embeddings")
    if model_type == "mt5":
        version = str(fields.get("transformers_version", ""))
        if tie and version.split(".")[0] in ("2", "3", "4"):
            raise UserError(
                f"a tied mT5 of transformers {version}; that version scaled its logits by "
                "d_model ** -0.5 and transformers 5 does not. Set model_type to t5 to keep the "
                "scale, or transformers_version to 5.0.0 to go without"
            )
        return False
    scale = fields.get("scale_decoder_outputs", tie is not False)
    if scale and tie is False:
        raise UserError(
            "tie_word_embeddings is false but scale_decoder_outputs is true; only a tied output is "
            "scaled"
        )
    return bool(scale)
