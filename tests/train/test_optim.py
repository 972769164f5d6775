"""Schedules by value, optimizers by hand computation, and the errors of bad fields."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from asesjax.core.errors import UserError
from asesjax.models import t5
from asesjax.train import duration, optim


def rates(tiny, total, **fields):
    schedule = optim.make_schedule(tiny.config(**fields), total)
    return [float(schedule(jnp.int32(step))) for step in range(total)]


def test_cosine_by_hand(tiny):
    got = rates(
        tiny, 10, schedule="cosine", learning_rate=2.0, warmup_share=0.2, final_share=0.1
    )
    down = [0.1 + 0.9 * (1 + np.cos(np.pi * k / 8)) / 2 for k in range(1, 9)]
    np.testing.assert_allclose(got, [1.0, 2.0] + [2 * d for d in down], rtol=1e-6)
    assert got[-1] == pytest.approx(0.2)


def test_inverse_square_root_and_constant_by_hand(tiny):
    got = rates(tiny, 8, schedule="inverse_square_root", learning_rate=1.0, warmup_share=0.25)
    want = [0.5] + [np.sqrt(2 / k) for k in range(2, 9)]
    np.testing.assert_allclose(got, want, rtol=1e-6)
    got = rates(tiny, 4, schedule="constant", learning_rate=3.0, warmup_share=0.5)
    np.testing.assert_allclose(got, [1.5, 3, 3, 3], rtol=1e-6)


def test_without_warmup_the_first_step_has_the_full_rate(tiny):
    assert rates(tiny, 5, schedule="constant", warmup_share=0.0) == pytest.approx([1e-2] * 5)


def test_the_rate_is_traced_so_new_steps_do_not_compile(tiny):
    schedule = jax.jit(optim.make_schedule(tiny.config(), 10))
    for step in range(10):
        schedule(jnp.int32(step))
    assert schedule._cache_size() == 1


def test_adamw_step_by_hand(tiny):
    train = tiny.config(
        learning_rate=0.1, schedule="constant", warmup_share=0.0, weight_decay=0.5, clip_norm=1.0,
        beta1=0.9, beta2=0.99,
    )  # fmt: skip
    params = {"kernel": jnp.array([[1.0, -2.0]]), "scale": jnp.array([1.0])}
    grads = {"kernel": jnp.array([[3.0, 0.0]]), "scale": jnp.array([4.0])}
    optimizer = optim.make_optimizer(train, 10)
    state = optimizer.init(params)
    m = v = 0.0
    want = np.array([1.0, -2.0, 1.0])
    for k in (1, 2):
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        g = np.array([3.0, 0.0, 4.0]) / 5.0  # global norm 5 clipped to 1
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        step = (m / (1 - 0.9**k)) / (np.sqrt(v / (1 - 0.99**k)) + 1e-8)
        want = want - 0.1 * (step + 0.5 * want * np.array([1, 1, 0]))  # no decay on the scale
        got = np.concatenate([params["kernel"][0], params["scale"]])
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_adafactor_decay_is_scaled_by_the_rate(tiny):
    train = tiny.config(
        optimizer="adafactor", learning_rate=0.1, schedule="constant", warmup_share=0.0,
        weight_decay=0.5, clip_norm=0.0,
    )  # fmt: skip
    params = {"kernel": jnp.full((2, 2), 2.0)}
    optimizer = optim.make_optimizer(train, 10)
    updates, _ = optimizer.update({"kernel": jnp.zeros((2, 2))}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.1 * 0.5 * 2.0, rtol=1e-6)


def test_adafactor_equals_optax_without_decay(tiny):
    train = tiny.config(optimizer="adafactor", learning_rate=0.1, schedule="constant",
                        warmup_share=0.0, weight_decay=0.0, clip_norm=0.0)  # fmt: skip
    key = jax.random.key(0)
    params = {"big": jax.random.normal(key, (128, 130)), "small": jax.random.normal(key, (3,))}
    mine, reference = optim.make_optimizer(train, 10), optax.adafactor(0.1)
    a, b = mine.init(params), reference.init(params)
    for k in range(3):
        grads = jax.tree.map(lambda x: jnp.sin(x + k), params)  # noqa: B023
        one, a = mine.update(grads, a, params)
        two, b = reference.update(grads, b, params)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), one, two)


def test_norms_and_position_tables_are_not_decayed(tiny):
    shapes = jax.eval_shape(lambda key: t5.init(tiny.MODEL, key), jax.random.key(0))
    mask = tiny.leaves(optim.decay_mask(shapes))
    free = {name for name, decays in mask.items() if not decays}
    assert free == {name for name in mask if "scale" in name or "rel_embedding" in name}
    assert 0 < len(free) < len(mask) and any("rel_embedding" in name for name in free)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"learning_rate": 0.0}, r"train.learning_rate must be in \(0.0, inf\), got 0.0"),
        ({"learning_rate": -1e-3}, "learning_rate"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"warmup_share": 1.0}, "warmup_share"),
        ({"final_share": 1.5}, "final_share"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"beta1": 1.0}, "beta1"),
        ({"beta2": 1.0}, "beta2"),
        ({"clip_norm": -1.0}, "clip_norm"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"z_loss": -1.0}, "z_loss"),
        ({"batch_size": 0}, "batch_size"),
        ({"microbatches": 0}, "microbatches"),
        ({"microbatches": 3}, "must be divisible by train.microbatches 3"),
        ({"log_every_steps": 0}, "log_every_steps"),
    ],
)
def test_fields_out_of_range_are_named(tiny, fields, message):
    with pytest.raises(UserError, match=message):
        optim.make_optimizer(tiny.config(**fields), 10)


def test_duration_in_each_unit(tiny):
    def steps(share=1.0, **fields):
        fields = {"steps": 0, "tokens": 0} | fields
        return duration.n_steps(tiny.config(**fields), 50.0, 100, share)

    assert steps(steps=30) == 30
    assert steps(steps=30, share=0.5) == 15
    assert steps(examples=80) == 10
    assert steps(epochs=2.0) == 25
    assert steps(tokens=40000) == 100
    assert steps(tokens=1) == 1
    for wrong in ({}, {"steps": 3, "epochs": 1.0}):
        with pytest.raises(UserError, match="exactly one of train.steps"):
            steps(**wrong)
    with pytest.raises(UserError, match="train.steps must be positive"):
        steps(steps=-5)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_evaluation_share_out_of_range(share):
    with pytest.raises(UserError, match="evaluate_every_share"):
        duration.evaluation_steps(10, share)


def test_tenths_are_ten_evaluations():
    assert duration.evaluation_steps(1000, 0.1) == list(range(100, 1001, 100))
