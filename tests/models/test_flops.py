"""Operations counted from the shape equal those that the compiler counts."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from asesjax.models import t5
from asesjax.models.t5_config import T5Config, token_flops

SMALL = T5Config(512, 128, 32, 256, 4, 3, 2)


def counted(config, rows, source, target, training):
    """Operations of a batch without padding, by XLA's own analysis."""
    params = jax.eval_shape(lambda key: t5.init(config, key), jax.random.key(0))
    tokens = lambda length: jax.ShapeDtypeStruct((rows, length), jnp.int32)  # noqa: E731
    batch = {"encoder_input_tokens": tokens(source), "decoder_input_tokens": tokens(target)}

    def total(params, batch):
        return t5.logits(config, params, t5.forward(config, params, batch)).sum()

    function = jax.value_and_grad(total) if training else total
    return jax.jit(function).lower(params, batch).compile().cost_analysis()["flops"]


@pytest.mark.parametrize(
    "config, source, target",
    [
        (SMALL, 64, 32),
        (dataclasses.replace(SMALL, mlp="gated-gelu", tied=False, d_ff=384), 32, 64),
        (dataclasses.replace(SMALL, n_heads=6, n_encoder_layers=1, n_decoder_layers=4), 256, 16),
    ],
)
def test_forward_and_training_flops_are_those_of_xla(config, source, target):
    """XLA counts softmax, norms and masks as well: 1 to 2 % at this width, less above."""
    rows = 2
    per_source, per_target = token_flops(config, source, target)
    forward = rows * (source * per_source + target * per_target)
    assert counted(config, rows, source, target, False) == pytest.approx(forward, rel=0.03)
    assert counted(config, rows, source, target, True) == pytest.approx(3 * forward, rel=0.03)
