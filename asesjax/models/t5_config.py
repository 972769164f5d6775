"""The shape of a T5 model: one frozen, hashable dataclass, checked when it is made."""

import dataclasses

import jax.numpy as jnp

from asesjax.core.errors import UserError, unknown

MLPS = ("relu", "gated-gelu", "gated-silu")
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Everything that fixes a T5's parameters and arithmetic; UserError for what no T5 can have. T5
    v1.0 is ``mlp="relu", tied=True``; v1.1 and Flan are ``mlp="gated-gelu", tied=False``, UL2 is
    ``mlp="gated-silu"``.

    Example:
      >>> T5Config(vocab_size=100, d_model=0, d_kv=8, d_ff=64, n_heads=4)
      Traceback (most recent call last):
      asesjax.core.errors.UserError: model.d_model must be a whole number from 1 to 2**31 - 1, got 0
    """

    vocab_size: int  # rows of the embedding; may exceed the tokenizer's ids
    d_model: int  # width D
    d_kv: int  # width K of a head; n_heads * d_kv may differ from d_model
    d_ff: int  # inner width of the MLP
    n_heads: int
    n_encoder_layers: int = 2
    n_decoder_layers: int = 2
    mlp: str = "relu"  # or one of MLPS; GELU is the tanh approximation, as in T5 v1.1
    tied: bool = True  # the output shares the embedding, scaled by d_model**-0.5
    dropout: float = 0.0
    dtype: str = "float32"  # of activations; parameters, norms, softmax and logits are float32
    relpos_buckets: int = 32
    relpos_max_distance: int = 128  # distances from here on share the last bucket
    layer_norm_epsilon: float = 1e-6

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if field.type is int and (type(value) is not int or not 1 <= value < 2**31):
                raise UserError(
                    f"model.{name} must be a whole number from 1 to 2**31 - 1, got {value!r}"
                )
        if self.mlp not in MLPS:
            raise unknown("model.mlp", self.mlp, MLPS)
        if self.dtype not in DTYPES:
            raise unknown("model.dtype", self.dtype, DTYPES)
        half = self.relpos_buckets // 2
        four = self.relpos_buckets % 4 == 0
        for name, holds, wanted in (
            ("tied", type(self.tied) is bool, "True or False"),
            ("dropout", 0.0 <= self.dropout < 1.0, "at least 0 and below 1"),
            ("relpos_buckets", four, "a multiple of 4 (two directions, half exact)"),
            ("relpos_max_distance", self.relpos_max_distance > half,
             f"above relpos_buckets / 2 = {half}"),
            ("layer_norm_epsilon", 0 < self.layer_norm_epsilon < 1, "above 0 and below 1"),
        ):  # fmt: skip
            if not holds:
                raise UserError(f"model.{name} must be {wanted}, got {getattr(self, name)!r}")

    @property
    def activation_dtype(self) -> jnp.dtype:
        """The jax dtype of activations."""
        return jnp.dtype(self.dtype)


def token_flops(config: T5Config, source_length: int, target_length: int) -> tuple[float, float]:
    """Count the operations of the forward pass for a source token and for a target token.

    A source token goes through the encoder and becomes the decoder's keys and values, a target
    token goes through the decoder and the logits. Only matrix products count, a multiplication and
    an addition as two; attention is over the whole padded lengths. Training costs three times as
    much, without what ``train.remat`` computes again.

    Example:
      >>> small = T5Config(32128, 512, 64, 2048, 8, 6, 6)
      >>> [round(flops / 1e6) for flops in token_flops(small, 128, 128)]
      [46, 80]
    """
    width = config.n_heads * config.d_kv
    projection = 2 * config.d_model * width  # one of queries, keys, values and output
    mlp = 2 * config.d_model * config.d_ff * (2 if config.mlp == "relu" else 3)
    source, target = (4 * width * length for length in (source_length, target_length))
    encoder = config.n_encoder_layers * (4 * projection + mlp + source)
    cross = config.n_decoder_layers * 2 * projection
    decoder = config.n_decoder_layers * (6 * projection + mlp + source + target)
    return float(encoder + cross), float(decoder + 2 * config.d_model * config.vocab_size)
