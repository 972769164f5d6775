"""The shape of a T5 model: one frozen, hashable dataclass, checked when it is made."""

import dataclasses

import jax.numpy as jnp

from asesjax.core.errors import UserError, unknown

MLPS = ("relu", "gated-gelu")
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Everything that fixes a T5's parameters and arithmetic; UserError for what no T5 can have. T5
    v1.0 is ``mlp="relu", tied=True``; v1.1 and Flan are ``mlp="gated-gelu", tied=False``.

    Example:
      >>> T5Config(vocab_size=100, d_model=0, d_kv=8, d_ff=64, n_heads=4)
      Traceback (most recent call last):
      asesjax.core.errors.UserError: model.d_model must be a whole number of at least 1, got 0
    """

    vocab_size: int  # rows of the embedding; may exceed the tokenizer's ids
    d_model: int  # width D
    d_kv: int  # width K of a head; n_heads * d_kv may differ from d_model
    d_ff: int  # inner width of the MLP
    n_heads: int
    n_encoder_layers: int = 2
    n_decoder_layers: int = 2
    mlp: str = "relu"  # or "gated-gelu", with the tanh approximation of GELU as in T5 v1.1
    tied: bool = True  # the output shares the embedding, scaled by d_model**-0.5
    dropout: float = 0.0
    dtype: str = "float32"  # of activations; parameters, norms, softmax and logits are float32
    relpos_buckets: int = 32
    relpos_max_distance: int = 128  # distances from here on share the last bucket
    layer_norm_epsilon: float = 1e-6

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            if field.type is int and (type(value) is not int or value < 1):
                raise UserError(f"model.{name} must be a whole number of at least 1, got {value!r}")
        if self.mlp not in MLPS:
            raise unknown("model.mlp", self.mlp, MLPS)
        if self.dtype not in DTYPES:
            raise unknown("model.dtype", self.dtype, DTYPES)
        if type(self.tied) is not bool:
            raise UserError(f"model.tied must be True or False, got {self.tied!r}")
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"model.dropout must be at least 0 and below 1, got {self.dropout!r}")
        if self.relpos_buckets < 4 or self.relpos_buckets % 4:
            raise UserError(
                f"model.relpos_buckets must be a multiple of 4 (two directions, half exact), "
                f"got {self.relpos_buckets!r}"
            )
        if self.relpos_max_distance <= self.relpos_buckets // 2:
            raise UserError(
                f"model.relpos_max_distance must exceed relpos_buckets / 2 = "
                f"{self.relpos_buckets // 2}, got {self.relpos_max_distance!r}"
            )
        if not self.layer_norm_epsilon > 0:
            raise UserError(
                f"model.layer_norm_epsilon must be above 0, got {self.layer_norm_epsilon!r}"
            )

    @property
    def activation_dtype(self) -> jnp.dtype:
        """The jax dtype of activations."""
        return jnp.dtype(self.dtype)
