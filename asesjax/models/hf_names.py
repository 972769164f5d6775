"""Names of T5's tensors in Hugging Face checkpoints and here: one table, read in both directions.
PyTorch keeps linear maps as [out, in] and relative position biases as [buckets, heads].
"""

import re
from typing import NamedTuple

import numpy as np

from asesjax.models.t5_config import MLPS, T5Config


class Tensor(NamedTuple):
    """Where one parameter lies in a Hugging Face checkpoint: its name in transformers 5."""

    name: str
    transposed: bool

    def turn(self, value: np.ndarray) -> np.ndarray:
        """Take their value to ours, or ours to theirs."""
        return value.T if self.transposed else value


TABLE, HEAD = "shared.weight", "lm_head.weight"
# Second names of the token table: a file may hold them beside it, or one of them instead of it.
TABLE_ALIASES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# Some released v1.0 files hold a bias for attention over the source, which no T5 uses.
UNUSED = re.compile(
    r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
)
_BIAS = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
_TOP = {
    "token_embedder/embedding": (TABLE, False),
    "encoder/relpos_bias/rel_embedding": (f"encoder.{_BIAS}", True),
    "decoder/relpos_bias/rel_embedding": (f"decoder.{_BIAS}", True),
    "encoder/encoder_norm/scale": ("encoder.final_layer_norm.weight", False),
    "decoder/decoder_norm/scale": ("decoder.final_layer_norm.weight", False),
}
_ATTENTION = {"query": "q", "key": "k", "value": "v", "out": "o"}
_MLP = {
    mlp: {name: name for name in (("wi", "wo") if mlp == "relu" else ("wi_0", "wi_1", "wo"))}
    for mlp in MLPS
}
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


def tensors(config: T5Config) -> dict[str, Tensor]:
    """Map the path of every parameter here to its tensor, in the order of written files."""
    rows = dict(_TOP)
    for stack, blocks in _BLOCKS.items():
        for layer in range(getattr(config, f"n_{stack}_layers")):
            for place, (norm, block, theirs) in enumerate(blocks):
                ours = f"{stack}/layers_{layer}"
                at = f"{stack}.block.{layer}.layer.{place}"
                rows[f"{ours}/{norm}/scale"] = (f"{at}.layer_norm.weight", False)
                for mine, other in (_MLP[config.mlp] if block == "mlp" else _ATTENTION).items():
                    rows[f"{ours}/{block}/{mine}/kernel"] = (f"{at}.{theirs}.{other}.weight", True)
    if not config.tied:
        rows["decoder/logits_dense/kernel"] = (HEAD, True)
    return {path: Tensor(*row) for path, row in rows.items()}
