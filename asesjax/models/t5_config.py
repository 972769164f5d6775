"""The shape of a T5 model: one frozen, hashable dataclass, checked when it is made."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from asesjax.core.errors import UserError, unknown

MLPS = ("relu", "gated-gelu")
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Everything that fixes the parameters and the arithmetic of a T5.

    T5 v1.0 is ``mlp="relu", tied=True``; v1.1 and Flan are ``mlp="gated-gelu", tied=False``.

    Attributes:
      vocab_size: rows of the embedding; may exceed the tokenizer's ids.
      d_model: width D.
      d_kv: width of a head; ``n_heads * d_kv`` may differ from ``d_model``.
      d_ff: inner width of the MLP.
      n_heads: heads of every attention.
      n_encoder_layers: layers of the encoder.
      n_decoder_layers: layers of the decoder.
      mlp: ``"relu"`` or ``"gated-gelu"`` (tanh approximation of GELU, as in T5 v1.1).
      tied: the output shares the embedding, scaled by ``d_model ** -0.5``.
      dropout: share of activations dropped in training.
      dtype: of activations; parameters, norms, softmax and logits are float32.
      relpos_buckets: relative position buckets.
      relpos_max_distance: distances from here on share the last bucket.
      layer_norm_epsilon: of the RMS norms.

    Raises:
      UserError: a field that no T5 can have.

    Example:
      >>> T5Config(vocab_size=100, d_model=0, d_kv=8, d_ff=64, n_heads=4)
      Traceback (most recent call last):
      asesjax.core.errors.UserError: model.d_model must be a whole number of at least 1, got 0
    """

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    n_heads: int
    n_encoder_layers: int = 2
    n_decoder_layers: int = 2
    mlp: str = "relu"
    tied: bool = True
    dropout: float = 0.0
    dtype: str = "float32"
    relpos_buckets: int = 32
    relpos_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6

    def __post_init__(self) -> None:
        for name in (
            "vocab_size", "d_model", "d_kv", "d_ff", "n_heads",
            "n_encoder_layers", "n_decoder_layers",
        ):  # fmt: skip
            value = getattr(self, name)
            if type(value) is not int or value < 1:
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

    @classmethod
    def from_config(cls, model: Any, vocab_size: int) -> "T5Config":
        """Build from the ``model`` section of a config and the rows the vocabulary needs.

        Args:
          model: the section; fields that are not of the architecture (``init_from``) are left out.
          vocab_size: rows of the embedding, taken as it is, never rounded.

        Example:
          >>> from asesjax.config import base_config
          >>> T5Config.from_config(base_config().model, 300).vocab_size
          300
        """
        names = {field.name for field in dataclasses.fields(cls)} - {"vocab_size"}
        return cls(vocab_size, **{n: getattr(model, n) for n in names if hasattr(model, n)})
