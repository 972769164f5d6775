"""Schedules by value, optimizers by hand computation, and the errors of bad fields."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from asesjax.core.errors import UserError
from asesjax.models import t5
from asesjax.training import duration, optim


def rates(tiny, total, **fields):
    train = tiny.config(**fields)
    horizon = optim.horizon(train, total)
    return [float(optim.learning_rate(train, jnp.int32(k), horizon)) for k in range(total)]


def test_cosine_by_hand(tiny):
    got = rates(tiny, 10, schedule="cosine", learning_rate=2.0, warmup_share=0.2, final_share=0.1)
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


def test_neither_steps_nor_another_length_compile_the_schedule_again(tiny):
    train = tiny.config()
    rate = jax.jit(lambda step, horizon: optim.learning_rate(train, step, horizon))
    for step in range(10):
        rate(jnp.int32(step), optim.horizon(train, 10 + step))
    assert rate._cache_size() == 1


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


def test_norms_and_position_tables_do_not_decay(tiny):
    shapes = jax.eval_shape(lambda key: t5.init(tiny.MODEL, key), jax.random.key(0))
    mask = tiny.leaves(optim.decay_mask(shapes))
    free = {name for name, decays in mask.items() if not decays}
    assert free == {name for name in mask if "scale" in name or "rel_embedding" in name}
    assert 0 < len(free) < len(mask) and any("rel_embedding" in name for name in free)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"learning_rate": 0.0}, "train.learning_rate must be above 0, got 0.0"),
        ({"learning_rate": -1e-3}, "learning_rate"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"warmup_share": 1.0}, "warmup_share"),
        ({"weight_decay": float("inf")}, "weight_decay"),
        ({"save_every_steps": -1}, "save_every_steps"),
        ({"evaluate_every_share": 0.0}, "evaluate_every_share"),
        ({"evaluate_every_share": -0.5}, "evaluate_every_share"),
        ({"evaluate_every_share": 1.5}, "evaluate_every_share"),
        ({"steps": -5}, "train.steps"),
        ({"patience": -1}, "train.patience"),
        ({"normalize": "weight"}, "did you mean 'weights'"),
        ({"optimizer": "adam"}, "adamw"),
        ({"schedule": "cosin"}, "cosine"),
        ({"final_share": 1.5}, "final_share"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"beta1": 1.0}, "beta1"),
        ({"beta2": 1.0}, "beta2"),
        ({"clip_norm": -1.0}, "clip_norm"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"z_loss": -1.0}, "z_loss"),
        ({"batch_size": 0}, "batch_size"),
        ({"microbatches": -1}, "microbatches"),
        ({"microbatches": 3}, "must be divisible by train.microbatches 3"),
        ({"log_every_steps": 0}, "log_every_steps"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"rate_factors": ("encoder",)}, "'encoder': could not convert string to float"),
        ({"rate_factors": ("=0.1",)}, "'=0.1'.*expected regex=factor"),
        ({"rate_factors": ("a=-1",)}, "'a=-1': the factor must be a number of at least 0"),
        ({"rate_factors": ("(=1",)}, "expected regex=factor"),
    ],
)
def test_fields_out_of_range_are_refused_by_name(tiny, fields, message):
    with pytest.raises(UserError, match=message):
        optim.make_optimizer(tiny.config(**fields), 10)


def three_steps(train, params, gradients):
    """Updates of three equal gradients, and the last state."""
    optimizer = optim.make_optimizer(train, 10)
    state, seen = optimizer.init(params), []
    for _ in range(3):
        updates, state = optimizer.update(gradients, state, params)
        seen.append(updates)
    return seen, state


PLAIN = dict(learning_rate=0.1, schedule="constant", warmup_share=0.0, weight_decay=0.0,
             clip_norm=0.0)  # fmt: skip


def test_every_update_has_the_rate_of_its_step(tiny):
    train = tiny.config(**PLAIN | {"optimizer": "sgd", "beta1": 0.0, "warmup_share": 0.3})
    seen, _ = three_steps(train, {"w": jnp.ones(1)}, {"w": jnp.ones(1)})
    np.testing.assert_allclose([own["w"][0] for own in seen], [-0.1 / 3, -0.2 / 3, -0.1], rtol=1e-6)


@pytest.mark.parametrize(
    "name, decay, alias",
    [
        ("adamw", 0.0, optax.adam(0.1, 0.9, 0.99)), ("adamw", 1e-4, optax.adamw(0.1, 0.9, 0.99)),
        ("lion", 0.0, optax.lion(0.1, 0.9, 0.99, weight_decay=0.0)),
        ("sgd", 0.0, optax.sgd(0.1, momentum=0.9)),
    ],
)  # fmt: skip
def test_optimizers_equal_those_of_optax(tiny, name, decay, alias):
    train = tiny.config(**PLAIN | {"optimizer": name, "weight_decay": decay})
    params = {"kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]])}
    gradients = {"kernel": jnp.array([[0.3, -1.0], [0.0, 2.0]])}
    got, _ = three_steps(train, params, gradients)
    state = alias.init(params)
    for mine in got:
        want, state = alias.update(gradients, state, params)
        np.testing.assert_allclose(mine["kernel"], want["kernel"], rtol=1e-6)


def test_rate_factors_by_hand(tiny):
    """The first match counts; frozen parameters have no state and no part in clipping."""
    params = {name: {"kernel": jnp.ones((2, 2))} for name in ("encoder", "decoder", "table")}
    gradients = {
        "encoder": {"kernel": jnp.full((2, 2), 2.0)}, "decoder": {"kernel": jnp.full((2, 2), 1.0)},
        "table": {"kernel": jnp.full((2, 2), jnp.inf)},
    }  # fmt: skip
    train = tiny.config(**PLAIN | {
        "optimizer": "sgd", "beta1": 0.0, "clip_norm": 1.0,
        "rate_factors": ("^table/=0", "coder=0.5", "decoder=7"),
    })  # fmt: skip
    (updates, *_), state = three_steps(train, params, gradients)
    norm = np.sqrt(4 * 4 + 4 * 1)
    np.testing.assert_allclose(updates["encoder"]["kernel"], -0.1 * 0.5 * 2 / norm, rtol=1e-6)
    np.testing.assert_allclose(updates["decoder"]["kernel"], -0.1 * 0.5 * 1 / norm, rtol=1e-6)
    assert (updates["table"]["kernel"] == 0).all()
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state)]
    assert any("decoder" in name for name in names) and not any("table" in name for name in names)


def test_a_rate_factor_that_matches_no_parameter_is_refused(tiny):
    train = tiny.config(rate_factors=("encoder=1", "enkoder=0"))
    shapes = jax.eval_shape(lambda key: t5.init(tiny.MODEL, key), jax.random.key(0))
    with pytest.raises(UserError, match="'enkoder' is found in no parameter's name.*decoder/"):
        optim.make_optimizer(train, 10).init(shapes)


def test_frozen_parameters_have_no_gradient(tiny):
    train = tiny.config(rate_factors=("a=0", "b=0.5"))
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    loss = lambda p: sum(x.sum() for x in optim.without_frozen(train, p).values())  # noqa: E731
    got = jax.grad(loss)(params)
    assert got["a"].tolist() == [0, 0] and got["b"].tolist() == [1, 1]


def test_the_average_by_hand(tiny):
    train = tiny.config(**PLAIN | {"optimizer": "sgd", "beta1": 0.0, "ema_decay": 0.15})
    optimizer = optim.make_optimizer(train, 10)
    params = {"w": jnp.array([1.0])}
    state = optimizer.init(params)
    weight = mean = 1.0
    for n in range(4):
        at = optim.training_weights(params, state)
        np.testing.assert_allclose(at["w"], [weight], rtol=1e-6)
        updates, state = optimizer.update({"w": 2.0 * at["w"]}, state, params)
        params = optax.apply_updates(params, updates)
        weight -= 0.1 * 2 * weight
        keep = min(0.15, (1 + n) / (10 + n))
        mean = keep * mean + (1 - keep) * weight
        np.testing.assert_allclose(params["w"], [mean], rtol=1e-6)
    assert optim.training_weights(params, ()) is params


def test_duration_in_each_unit(tiny):
    def steps(share=1.0, **fields):
        fields = {"steps": 0, "tokens": 0} | fields
        return duration.n_steps(tiny.config(**fields), 50.0, 100, share)

    assert steps(steps=30) == 30
    assert steps(steps=30, share=0.5) == 15
    # Every role passes over its own examples; steps and tokens are shared.
    assert steps(examples=80) == steps(examples=80, share=0.5) == 10
    assert steps(examples=87) == 11  # rounded
    assert steps(epochs=2.0) == steps(epochs=2.0, share=0.5) == 25
    assert (steps(tokens=40000), steps(tokens=40000, share=0.5)) == (100, 50)
    assert steps(tokens=1) == 1
    for wrong in ({}, {"steps": 3, "epochs": 1.0}):
        with pytest.raises(UserError, match="exactly one of train.steps"):
            steps(**wrong)


def test_tenths_are_ten_evaluations():
    assert duration.evaluation_steps(1000, 0.1) == list(range(100, 1001, 100))


@pytest.mark.parametrize("share", [1 / 49, 0.05, 0.1, 1 / 6, 0.25, 0.3, 0.33, 0.4, 1.0])
def test_roles_of_any_number_of_steps_have_as_many_evaluations(share):
    expected = int(np.ceil(1 / share - 1e-6))
    for total in (1, 2, 3, 7, 24, 999):
        steps = duration.evaluation_steps(total, share)
        assert len(steps) == expected and steps == sorted(steps)
        assert steps[0] >= 1 and steps[-1] == total
        for i, step in enumerate(steps[:-1]):
            assert abs(step - max(1, total * share * (i + 1))) <= 0.5
