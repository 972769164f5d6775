"""KPOD's token weighting (Feng et al. 2024, equations 2 and 3) beside the T5 that predicts answers.

One self-attention layer without positions and a two-layer MLP turn the embedding of each token of a
rationale into the logit of its weight, so that equal tokens weigh the same (figure 2). Parameters:
``embedding`` [V, D], the student's, never trained; ``weighting``, the attention and the MLP; and
``predictor``, a whole T5. Where the predictor is not the student's shape or begins elsewhere,
``projection`` [D, D of the predictor] takes the student's embeddings to its encoder.
"""

import functools
from typing import cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from asesjax.core.types import Params
from asesjax.models import t5
from asesjax.models.attention import Attention
from asesjax.models.layers import Dense, RMSNorm, axis_names, param, replicate
from asesjax.models.t5_config import T5Config

FROZEN = "^embedding$"  # name of the parameter that is not trained, for ``train.rate_factors``
WEIGHTING = "^weighting/"  # names of the weighting module's parameters
# The first logit of every weight, 0.95 (ours): the predictor learns to read rationales before
# many of their tokens are masked.
_START = 3.0


class Weighting(nn.Module):
    """Embedded rationale to logits. The paper gives no widths; ours are the student's heads and a
    quarter of its width inside the MLP.
    """

    config: T5Config

    @nn.compact
    def __call__(self, x, mask):
        """[B, R, D] and bool [B, R], True on tokens of the rationale -> float32 [B, R]."""
        c, inner = self.config, max(1, self.config.d_model // 4)
        y = RMSNorm(c.layer_norm_epsilon, name="pre_attention_layer_norm")(x)
        x = x + Attention(c, name="attention")(y, y, mask[:, None, None, :], None, True)
        y = RMSNorm(c.layer_norm_epsilon, name="pre_mlp_layer_norm")(x)
        y = nn.relu(Dense(inner, ("embed", "mlp"), c.d_model**-0.5, name="wi")(y))
        y = Dense(1, ("mlp", "weight"), inner**-0.5, jnp.float32, name="wo")(y)
        bias = param(self, "bias", nn.initializers.constant(_START), (1,), ("weight",))
        return (y + bias)[..., 0]


def _boxed_init(config: T5Config, key: jax.Array) -> Params:
    x = jnp.ones((1, 1, config.d_model), config.activation_dtype)
    return Weighting(config).init(key, x, jnp.ones((1, 1), bool))["params"]


def from_student(
    config: T5Config,
    student: Params,
    key: jax.Array,
    predictor: T5Config | None = None,
    trained: Params | None = None,
) -> Params:
    """Draw a weighting module and put it beside the parameters that a student starts from, which
    are the predictor's too where ``predictor`` is None. A predictor of a shape of its own is drawn,
    or ``trained`` already, on the student's ids: then the projection first takes the student's
    embeddings as near to the predictor's own as least squares can (ours).
    """
    table = student["token_embedder"]["embedding"]
    params = {"embedding": table, "weighting": nn.unbox(_boxed_init(config, key))}
    if predictor is None:
        return params | {"predictor": student}
    of_predictor, of_projection = jax.random.split(jax.random.fold_in(key, 2))
    if trained is None:
        trained = t5.init(predictor, of_predictor)
        shape = config.d_model, predictor.d_model
        projection = jax.random.normal(of_projection, shape) * config.d_model**-0.5
    else:
        own = trained["token_embedder"]["embedding"]
        n = min(len(table), len(own))
        projection = jnp.linalg.lstsq(table[:n], own[:n])[0]
    return params | {"predictor": trained, "projection": projection}


def init(config: T5Config, key: jax.Array, predictor: T5Config | None = None) -> Params:
    """Draw parameters; the student that ``t5.init`` draws from the same key is their start."""
    student = t5.init(config, key)
    return from_student(config, student, jax.random.fold_in(key, 1), predictor)


@functools.lru_cache
def logical_axes(config: T5Config, predictor: T5Config | None = None) -> Params:
    """Names of the axes of every parameter, as ``t5.logical_axes``."""
    axes = {
        "embedding": ("vocab", "embed"),
        "weighting": axis_names(functools.partial(_boxed_init, config)),
        "predictor": t5.logical_axes(predictor or config),
    }
    return axes | ({"projection": ("embed", "projected")} if predictor else {})


def embed(config: T5Config, params: Params, tokens: jax.Array) -> jax.Array:
    """Look ids up in the frozen table: int32 [...] -> [..., D] in the config's dtype."""
    table = jax.lax.stop_gradient(replicate(params["embedding"]))
    return jnp.take(table, tokens, axis=0).astype(config.activation_dtype)


def read(config: T5Config, params: Params, tokens: jax.Array) -> jax.Array:
    """Embed ids for the predictor: int32 [...] -> [..., D of the predictor]."""
    x = embed(config, params, tokens)
    return x @ params["projection"].astype(x.dtype) if "projection" in params else x


def weight_logits(
    config: T5Config, params: Params, tokens: jax.Array, is_rationale: jax.Array
) -> jax.Array:
    """Return the logits of token weights, float32 [B, R], from int32 tokens and a bool mask [B, R].
    Where ``is_rationale`` is False a token is not seen, and its logit has no meaning.
    """
    x = embed(config, params, tokens)
    logits = Weighting(config).apply({"params": params["weighting"]}, x, is_rationale)
    return cast(jax.Array, logits)
