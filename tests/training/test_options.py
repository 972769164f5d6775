"""Averages, frozen parameters and skipped steps through the loop: saved, resumed, selected."""

import dataclasses

import jax
import numpy as np
import pytest

from asesjax.core.errors import UserError
from asesjax.models import t5
from asesjax.sharding.mesh import make_mesh
from asesjax.training import checkpoint, optim, state

FIELDS = {
    "ema_decay": 0.9, "rate_factors": ("token_embedder=0", "^decoder/=0.5"),
    "optimizer": "adafactor", "learning_rate": 0.05,
}  # fmt: skip


def test_a_resumed_run_with_average_and_frozen_parameters_is_bit_identical(tiny, tmp_path):
    whole = tiny.run(tmp_path / "whole", tiny.config(**FIELDS))
    with tiny.stopped(13):
        tiny.run(tmp_path / "cut", tiny.config(**FIELDS))
    cut = tiny.run(tmp_path / "cut", tiny.config(**FIELDS))
    for name, value in tiny.leaves(whole.params).items():
        np.testing.assert_array_equal(tiny.leaves(cut.params)[name], value, err_msg=name)
    start = tiny.leaves(t5.init(tiny.MODEL, jax.random.split(jax.random.key(3))[0]))
    end = tiny.leaves(whole.params)
    moved = {name for name, value in end.items() if (value != start[name]).any()}
    assert moved == {name for name in start if "token_embedder" not in name}


def test_the_parameters_of_a_checkpoint_are_the_average(tiny, tmp_path):
    train = tiny.config(**FIELDS)
    result = tiny.run(tmp_path, train)
    optimizer = optim.make_optimizer(train, 24)
    mesh = make_mesh(devices=jax.devices()[:1])
    where = jax.tree.map(lambda x: x.sharding, result.params)
    target = state.state_target(optimizer, result.params, where, mesh)
    now, _ = checkpoint.restore_newest(tmp_path / "checkpoints", target)
    weights = tiny.leaves(optim.training_weights(now.params, now.opt_state))
    apart = 0
    for name, value in tiny.leaves(result.params).items():
        np.testing.assert_array_equal(tiny.leaves(now.params)[name], value, err_msg=name)
        apart += (weights[name] != value).any()
    assert apart > 10
    selected = checkpoint.restore_params(tmp_path, target.params)
    jax.tree.map(np.testing.assert_array_equal, selected, result.params)


def test_another_average_is_refused_as_another_run(tiny, tmp_path):
    with tiny.stopped(7):
        tiny.run(tmp_path)
    with pytest.raises(UserError, match="ema_decay was 0.0 and is now 0.5"):
        tiny.run(tmp_path, tiny.config(ema_decay=0.5))


@pytest.mark.slow
def test_scanned_layers_resume_an_unrolled_run(tiny, tmp_path):
    """With remat too: neither changes which run it is."""
    deep = dataclasses.replace(tiny.MODEL, n_encoder_layers=2, n_decoder_layers=2)
    with tiny.stopped(13):
        tiny.run(tmp_path / "a", model=deep)
    mixed = tiny.run(tmp_path / "a", tiny.config(scan_layers=True, remat="full"), model=deep)
    plain = tiny.run(tmp_path / "b", model=deep)
    assert jax.tree.structure(mixed.params) == jax.tree.structure(plain.params)
    for name, value in tiny.leaves(plain.params).items():
        # Adam turns rounding of the smallest gradients into a share of the rate, 1e-2.
        np.testing.assert_allclose(tiny.leaves(mixed.params)[name], value, atol=2e-3, err_msg=name)
