"""Options of the model, and the released shapes of T5, T5 v1.1, Flan-T5, mT5 and T5-Efficient.

Sources: Raffel et al. 2020, section 3.7 (v1.0); Xue et al. 2021 (mT5, and v1.1 of the same shapes);
Chung et al. 2022 (Flan, on v1.1); Tay et al. 2022, table 2 (T5-Efficient, ``nl`` layers in each
stack). That table gives smaller models heads of 32, but its parameter counts need 64.
"""

import dataclasses

from asesjax.core.errors import UserError, unknown
from asesjax.core.options import option, section
from asesjax.models.t5_config import MLPS, T5Config

# d_model, d_ff, d_kv, heads, layers of each stack
_V1_0 = {
    "t5-small": (512, 2048, 64, 8, 6),
    "t5-base": (768, 3072, 64, 12, 12),
    "t5-large": (1024, 4096, 64, 16, 24),
    "t5-3b": (1024, 16384, 128, 32, 24),
    "t5-11b": (1024, 65536, 128, 128, 24),
    "t5-efficient-tiny": (256, 1024, 64, 4, 4),
    "t5-efficient-mini": (384, 1536, 64, 8, 4),
    "t5-efficient-small": (512, 2048, 64, 8, 6),
    "t5-efficient-base": (768, 3072, 64, 12, 12),
    "t5-efficient-large": (1024, 4096, 64, 16, 24),
    "t5-efficient-xl": (1024, 16384, 128, 32, 24),
    "t5-efficient-xxl": (1024, 65536, 128, 128, 24),
    # Deep and narrow, which the paper recommends
    "t5-efficient-tiny-nl8": (256, 1024, 64, 4, 8),
    "t5-efficient-mini-nl12": (384, 1536, 64, 8, 12),
    "t5-efficient-small-nl16": (512, 2048, 64, 8, 16),
    "t5-efficient-small-nl32": (512, 2048, 64, 8, 32),
    "t5-efficient-base-nl24": (768, 3072, 64, 12, 24),
    "t5-efficient-base-nl36": (768, 3072, 64, 12, 36),
}
_V1_1 = {
    "small": (512, 1024, 64, 6, 8),
    "base": (768, 2048, 64, 12, 12),
    "large": (1024, 2816, 64, 16, 24),
    "xl": (2048, 5120, 64, 32, 24),
    "xxl": (4096, 10240, 64, 64, 24),
}

# Name -> shape, MLP, tied, rows of the vocabulary
PRESETS = {
    **{name: (shape, "relu", True, 32128) for name, shape in _V1_0.items()},
    **{
        f"{family}-{size}": (shape, "gated-gelu", False, rows)
        for family, rows in (("t5-v1_1", 32128), ("flan-t5", 32128), ("mt5", 250112))
        for size, shape in _V1_1.items()
    },
}


@section("model")
class ModelOptions:
    """Shape of the T5 and what it starts from."""

    preset: str = option("", "a released shape (models/presets.py) instead of the eight fields "
                         "below")  # fmt: skip
    d_model: int = option(64, "width D", least=1, most=2**17)
    d_ff: int = option(256, "width of the feed-forward layer", least=1, most=2**19)
    n_heads: int = option(4, "attention heads H", least=1, most=2**13)
    d_kv: int = option(16, "width K of a head", least=1, most=2**13)
    n_encoder_layers: int = option(2, "layers of the encoder", least=1, most=1000)
    n_decoder_layers: int = option(2, "layers of the decoder", least=1, most=1000)
    mlp: str = option("relu", "T5 v1.0 has relu; v1.1 and Flan have gated-gelu, UL2 "
                      "gated-silu", choices=MLPS)  # fmt: skip
    tied: bool = option(True, "the output shares the input embedding, scaled by d_model**-0.5 "
                        "(v1.0)")  # fmt: skip
    dropout: float = option(0.0, "dropout rate", least=0, below=1)
    dtype: str = option(
        "float32", "dtype of activations; parameters, norms, softmax and losses are float32",
        choices=("float32", "bfloat16"),
    )  # fmt: skip
    vocab_rows: int = option(0, "rows of the embedding; 0: as many as the vocabulary has ids, "
                             "rounded up to a multiple of 128 as in T5", least=0)  # fmt: skip
    init_from: str = option("", "role of a run, checkpoint or Hugging Face folder that every role "
                            "starts from")  # fmt: skip


def preset(name: str) -> T5Config:
    """Return the shape of a released model by its name on the hub, with its dropout of 0.1."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    (d_model, d_ff, d_kv, n_heads, n_layers), mlp, tied, rows = PRESETS[name]
    return T5Config(
        vocab_size=rows, d_model=d_model, d_kv=d_kv, d_ff=d_ff, n_heads=n_heads,
        n_encoder_layers=n_layers, n_decoder_layers=n_layers, mlp=mlp, tied=tied, dropout=0.1,
    )  # fmt: skip


def configured(model: ModelOptions, vocab_size: int) -> T5Config:
    """Return the shape of a ``model`` section: that of its preset, with the section's ``dropout``
    and ``dtype``, or that of its own fields. Raises UserError where both are set.
    """
    shape = {field.name for field in dataclasses.fields(T5Config)}
    fields = [field for field in dataclasses.fields(model) if field.name in shape]
    own = {field.name: getattr(model, field.name) for field in fields}
    if not model.preset:
        return T5Config(vocab_size, **own)
    for field in fields:
        if field.name not in ("dropout", "dtype") and own[field.name] != field.default:
            raise UserError(
                f"model.preset {model.preset!r} decides the shape, but model.{field.name} is set "
                f"to {own[field.name]!r} as well; leave out one of the two"
            )
    return dataclasses.replace(
        preset(model.preset), vocab_size=vocab_size, dropout=model.dropout, dtype=model.dtype
    )
