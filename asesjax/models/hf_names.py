"""Names of T5's tensors in Hugging Face checkpoints and here: one table, read in both directions.

Every value is the same array, or its transpose: PyTorch keeps linear maps as [out, in] and the
relative position biases as [buckets, heads]. A transpose undoes itself, so one column serves both
ways.
"""

import re
from typing import NamedTuple

import numpy as np

from asesjax.models.t5_config import T5Config


class Tensor(NamedTuple):
    """Where one parameter lies in a Hugging Face checkpoint.

    Attributes:
      name: what transformers 5 calls it and what is written.
      transposed: the file holds the transpose of our array.
    """

    name: str
    transposed: bool

    def turn(self, value: np.ndarray) -> np.ndarray:
        """Take their value to ours, or ours to theirs."""
        return value.T if self.transposed else value


# Ours -> (theirs, transposed). {i} counts the layers of a stack.
_TOP = {
    "token_embedder/embedding": ("shared.weight", False),
    "encoder/relpos_bias/rel_embedding": (
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", True
    ),
    "decoder/relpos_bias/rel_embedding": (
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", True
    ),
    "encoder/encoder_norm/scale": ("encoder.final_layer_norm.weight", False),
    "decoder/decoder_norm/scale": ("decoder.final_layer_norm.weight", False),
}  # fmt: skip
_HEAD = {"decoder/logits_dense/kernel": ("lm_head.weight", True)}
_ATTENTION = {"query": "q", "key": "k", "value": "v", "out": "o"}
_MLP = {"relu": ("wi", "wo"), "gated-gelu": ("wi_0", "wi_1", "wo")}
# Blocks of a layer in order: our norm, our block, its name in transformers.
_BLOCKS = {
    "encoder": (
        ("pre_attention_layer_norm", "attention", "SelfAttention"),
        ("pre_mlp_layer_norm", "mlp", "DenseReluDense"),
    ),
    "decoder": (
        ("pre_self_attention_layer_norm", "self_attention", "SelfAttention"),
        ("pre_cross_attention_layer_norm", "encoder_decoder_attention", "EncDecAttention"),
        ("pre_mlp_layer_norm", "mlp", "DenseReluDense"),
    ),
}

# Second names of the token table: a file may hold them beside it, or one of them instead of it.
TABLE = "shared.weight"
TABLE_ALIASES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
HEAD = "lm_head.weight"

# Some released v1.0 files hold a bias for attention over the source, which no T5 uses.
_UNUSED = re.compile(
    r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
)


def tensors(config: T5Config) -> dict[str, Tensor]:
    """List the tensors of a model.

    Args:
      config: shape of the model; ``tied`` decides whether there is an output kernel.

    Returns:
      Path of our parameter (``"encoder/layers_0/mlp/wi/kernel"``) to its tensor, in the order in
      which files are written.

    Example:
      >>> tiny = T5Config(8, d_model=4, d_kv=2, d_ff=8, n_heads=2)
      >>> tensors(tiny)["decoder/layers_1/mlp/wo/kernel"]
      Tensor(name='decoder.block.1.layer.2.DenseReluDense.wo.weight', transposed=True)
    """
    rows = dict(_TOP)
    for stack, n_layers in (
        ("encoder", config.n_encoder_layers), ("decoder", config.n_decoder_layers)
    ):  # fmt: skip
        for layer in range(n_layers):
            for place, (norm, block, theirs) in enumerate(_BLOCKS[stack]):
                ours = f"{stack}/layers_{layer}"
                at = f"{stack}.block.{layer}.layer.{place}"
                rows[f"{ours}/{norm}/scale"] = (f"{at}.layer_norm.weight", False)
                maps = _ATTENTION
                if block == "mlp":
                    maps = {name: name for name in _MLP[config.mlp]}
                for mine, other in maps.items():
                    rows[f"{ours}/{block}/{mine}/kernel"] = (f"{at}.{theirs}.{other}.weight", True)
    if not config.tied:
        rows |= _HEAD
    return {path: Tensor(*row) for path, row in rows.items()}


def is_unused(name: str) -> bool:
    """Whether transformers, too, leaves a tensor of this name unread."""
    return _UNUSED.fullmatch(name) is not None
