"""One training step: invariant to microbatches and meshes, parameters where the rules say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from asesjax.data.batching import batch_at, make_plan
from asesjax.models import t5
from asesjax.sharding.mesh import make_mesh
from asesjax.sharding.place import batch_sharding, param_shardings, put_batch, rules
from asesjax.training import objective, optim, state, step

MESHES = {"dp": (8, 1, 1), "fsdp": (2, 4, 1), "tp": (4, 1, 2), "fsdp_tp": (2, 2, 2)}


def batches(tiny, n=2, **fields):
    train = tiny.config(**fields)
    examples = tiny.examples()
    buckets = train.source_buckets[-1:], train.target_buckets
    plan = make_plan(examples, train.batch_size, *buckets, seed=0)
    return [batch_at(plan, examples, i) for i in range(n)]


def set_up(tiny, model, preset="dp", sizes=None, **fields):
    train = tiny.config(**fields)
    devices = jax.devices()[:1] if sizes is None else None
    mesh = make_mesh(*(sizes or (1, 1, 1)), devices=devices)
    optimizer = optim.make_optimizer(train, 10)
    shapes = jax.eval_shape(lambda key: t5.init(model, key), jax.random.key(0))
    on = param_shardings(mesh, rules(preset), t5.logical_axes(model), shapes)
    target = state.state_target(optimizer, shapes, on, mesh)
    first = state.init_state(optimizer, target, lambda k: t5.init(model, k), jax.random.key(1))
    run = step.make_train_step(model, train, optimizer, target, batch_sharding(mesh))
    return mesh, target, first, run


def train_two_steps(tiny, model, *args, **fields):
    mesh, target, now, run = set_up(tiny, model, *args, **fields)
    key = jax.device_put(jax.random.key(5), target.step.sharding)
    seen = []
    for batch in batches(tiny):
        now, metrics = run(now, put_batch(mesh, batch), key)
        seen.append(step.named(np.asarray(metrics)))
    return now, seen, target


def compute(tiny, train, params, batch):
    """Sums, divisor and gradients, compiled."""
    return jax.jit(lambda p, b: step.loss_and_gradients(tiny.DRY, train, p, b, None))(params, batch)


@pytest.fixture(scope="module")
def alone(tiny):
    """Two steps with dropout on one device."""
    return train_two_steps(tiny, tiny.MODEL)


@pytest.fixture(scope="module")
def alone_dry(tiny):
    """Two steps without dropout on one device."""
    return train_two_steps(tiny, tiny.DRY)


def test_metrics_count_real_tokens_and_divide_by_the_weights(tiny, alone_dry):
    _, seen, _ = alone_dry
    for batch, got in zip(batches(tiny), seen, strict=True):
        assert got["source_tokens"] == (batch["encoder_input_tokens"] != 0).sum()
        assert got["target_tokens"] == (batch["decoder_target_tokens"] != 0).sum()
        assert got["examples"] == 8 and got["positions"] == 8 * (16 + 8)
        assert got["weight_sum"] == got["normalizer"] == batch["decoder_loss_weights"].sum()
        assert got["loss_sum"] == got["nll_sum"] > 0
        assert got["grad_norm"] > 0 and got["update_norm"] > 0


@pytest.mark.parametrize("normalize", ["weights", "examples"])
def test_microbatches_change_neither_loss_nor_gradients(tiny, normalize):
    (batch,) = batches(tiny, 1)
    params = t5.init(tiny.DRY, jax.random.key(1))
    results = {}
    for parts in (1, 2, 4):
        train = tiny.config(microbatches=parts, normalize=normalize, z_loss=1e-3)
        results[parts] = compute(tiny, train, params, batch)
    sums, divisor, grads = results[1]
    assert float(divisor) == {"weights": float(sums.weight_sum), "examples": 8.0}[normalize]
    for parts in (2, 4):
        other_sums, other_divisor, other_grads = results[parts]
        assert float(other_divisor) == float(divisor)
        np.testing.assert_allclose(other_sums, sums, rtol=1e-6)
        for name, g in tiny.leaves(grads).items():
            np.testing.assert_allclose(
                tiny.leaves(other_grads)[name], g, rtol=1e-4, atol=1e-6, err_msg=name
            )


def test_the_gradient_is_that_of_the_weighted_mean(tiny):
    (batch,) = batches(tiny, 1)
    params = t5.init(tiny.DRY, jax.random.key(1))
    train = tiny.config(microbatches=4)
    _, _, grads = compute(tiny, train, params, batch)

    def mean(p):
        scores = t5.logits(tiny.DRY, p, t5.forward(tiny.DRY, p, batch))
        log_p = jax.nn.log_softmax(scores)
        one_hot = jax.nn.one_hot(batch["decoder_target_tokens"], tiny.DRY.vocab_size)
        nll = -(log_p * one_hot).sum(-1)
        weights = batch["decoder_loss_weights"]
        return (nll * weights).sum() / weights.sum()

    for name, g in tiny.leaves(jax.jit(jax.grad(mean))(params)).items():
        got = tiny.leaves(grads)[name]
        np.testing.assert_allclose(got, g, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("preset", MESHES)
def test_every_mesh_trains_alike_and_shards_by_the_rules(tiny, alone, preset):
    alone, expected, _ = alone
    spread, got, target = train_two_steps(tiny, tiny.MODEL, preset, MESHES[preset])
    for one, other in zip(expected, got, strict=True):
        for name in step.METRICS:
            assert other[name] == pytest.approx(one[name], rel=2e-5), name
    # Two Adam steps turn rounding of the smallest gradients into a share of the rate (1e-2).
    for name, value in tiny.leaves(alone.params).items():
        np.testing.assert_allclose(tiny.leaves(spread.params)[name], value, atol=2e-4, err_msg=name)
    wi = spread.params["encoder"]["layers_0"]["mlp"]["wi"]["kernel"]
    want = {
        "dp": (None, None), "fsdp": ("fsdp", None), "tp": (None, "tensor"),
        "fsdp_tp": ("fsdp", "tensor"),
    }[preset]  # fmt: skip
    assert wi.sharding.spec == PartitionSpec(*want)
    for path, leaf in jax.tree.leaves_with_path(spread):
        wanted = dict(jax.tree.leaves_with_path(target))[path].sharding
        assert leaf.sharding.is_equivalent_to(wanted, leaf.ndim), jax.tree_util.keystr(path)
    mirrored = [
        leaf.sharding.spec
        for path, leaf in jax.tree.leaves_with_path(spread.opt_state)
        if jax.tree_util.keystr(path).endswith("['encoder']['layers_0']['mlp']['wi']['kernel']")
    ]
    assert mirrored == [PartitionSpec(*want)] * 2  # both moments of Adam


def test_microbatches_on_a_mesh(tiny, alone_dry):
    _, expected, _ = alone_dry
    _, got, _ = train_two_steps(tiny, tiny.DRY, "fsdp_tp", (2, 2, 2), microbatches=2)
    for one, other in zip(expected, got, strict=True):
        assert other["loss_sum"] == pytest.approx(one["loss_sum"], rel=2e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=2e-5)


def test_a_step_of_adafactor_on_a_mesh(tiny):
    wide = dataclasses.replace(tiny.DRY, d_model=128, d_ff=128)  # wide enough to be factored
    now, seen, _ = train_two_steps(tiny, wide, "fsdp", (2, 4, 1), optimizer="adafactor")
    assert np.isfinite([m["loss_sum"] for m in seen]).all()
    moments = jax.tree.leaves_with_path(now.opt_state)
    factored = [x for path, x in moments if "wi" in jax.tree_util.keystr(path) and x.size == 128]
    assert len(factored) == 4  # a row and a column in two stacks
    assert all(x.sharding.is_fully_replicated for x in factored)


def test_one_program_for_each_shape_and_none_for_new_values(tiny):
    mesh, target, now, run = set_up(tiny, tiny.DRY)
    key = jax.device_put(jax.random.key(5), target.step.sharding)
    train, examples = tiny.config(), tiny.examples()
    plan = make_plan(examples, 8, train.source_buckets, train.target_buckets, seed=0)
    shapes = set()
    for i in range(12):
        batch = batch_at(plan, examples, i)
        shapes.add(batch["encoder_input_tokens"].shape)
        now, _ = run(now, put_batch(mesh, batch), key)
    assert len(run.programs) == len(shapes) == 2
    assert int(now.step) == 12


def test_another_type_is_refused_instead_of_compiled_again(tiny):
    mesh, target, now, run = set_up(tiny, tiny.DRY)
    key = jax.device_put(jax.random.key(5), target.step.sharding)
    (batch,) = batches(tiny, 1)
    now, _ = run(now, put_batch(mesh, batch), key)
    batch["decoder_loss_weights"] = batch["decoder_loss_weights"].astype(np.int32)
    with pytest.raises(TypeError, match="decoder_loss_weights"):
        run(now, put_batch(mesh, batch), key)


def test_dropout_depends_on_the_step_and_the_key_alone(tiny, alone, alone_dry):
    _, first, _ = alone
    _, again, _ = train_two_steps(tiny, tiny.MODEL)
    _, dry, _ = alone_dry
    assert first == again
    assert first[0]["loss_sum"] != dry[0]["loss_sum"]


def test_a_step_with_nan_is_skipped_and_counted(tiny):
    fields = {"skip_nonfinite": True, "ema_decay": 0.5}
    mesh, target, now, run = set_up(tiny, tiny.DRY, **fields)
    key = jax.device_put(jax.random.key(5), target.step.sharding)
    good, bad = batches(tiny)
    bad["decoder_loss_weights"][0, 0] = np.inf
    now, metrics = run(now, put_batch(mesh, good), key)
    seen = step.named(np.asarray(metrics))
    assert seen["skipped"] == 0 and seen["loss_sum"] > 0
    before = tiny.leaves(now)
    now, metrics = run(now, put_batch(mesh, bad), key)
    seen = step.named(np.asarray(metrics))
    assert np.isfinite(metrics).all() and seen["skipped"] == 1 and seen["examples"] == 8
    assert all(seen[name] == 0 for name in ("loss_sum", "weight_sum", "grad_norm", "normalizer"))
    after = tiny.leaves(now)
    assert after.pop(".step") == 2 and before.pop(".step") == 1
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    # The next step continues as if there had been no bad batch.
    now, metrics = run(now, put_batch(mesh, good), key)
    assert step.named(np.asarray(metrics))["update_norm"] > 0
    assert len(run.programs) == 1


def test_without_skipping_nan_is_reported(tiny):
    mesh, target, now, run = set_up(tiny, tiny.DRY)
    key = jax.device_put(jax.random.key(5), target.step.sharding)
    (bad,) = batches(tiny, 1)
    bad["decoder_loss_weights"][0, 0] = np.inf
    _, metrics = run(now, put_batch(mesh, bad), key)
    seen = step.named(np.asarray(metrics))
    assert seen["skipped"] == 0 and not np.isfinite(seen["loss_sum"])


def test_bfloat16_activations_leave_gradients_float32_and_near(tiny):
    (batch,) = batches(tiny, 1)
    params = t5.init(tiny.DRY, jax.random.key(1))
    half = dataclasses.replace(tiny.DRY, dtype="bfloat16")
    train = tiny.config(microbatches=2, remat="dots")
    both = [
        jax.jit(lambda p, b, m=model: step.loss_and_gradients(m, train, p, b, None))(params, batch)
        for model in (tiny.DRY, half)
    ]
    (sums, _, want), (half_sums, _, got) = both
    assert float(half_sums.loss_sum) == pytest.approx(float(sums.loss_sum), rel=1e-2)
    for name, g in tiny.leaves(got).items():
        assert g.dtype == np.float32, name
        w = tiny.leaves(want)[name]
        # bfloat16 keeps 8 bits: 0.4 % a rounding, some tens of roundings in a row.
        assert 0 < np.linalg.norm(g - w) < 0.05 * np.linalg.norm(w), name


def test_training_does_not_donate_the_given_parameters(tiny):
    mesh, target, _, run = set_up(tiny, tiny.DRY)
    optimizer = optim.make_optimizer(tiny.config(), 10)
    params = jax.device_put(
        t5.init(tiny.DRY, jax.random.key(2)), jax.tree.leaves(target.params)[0].sharding
    )
    before = tiny.leaves(params)
    before = {name: value.copy() for name, value in before.items()}
    now = state.state_from_params(optimizer, target, params)
    (batch,) = batches(tiny, 1)
    key = jax.device_put(jax.random.key(5), target.step.sharding)
    now, _ = run(now, put_batch(mesh, batch), key)
    after = tiny.leaves(params)  # raises if the step had eaten them
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
    assert any((tiny.leaves(now.params)[n] != v).any() for n, v in before.items())


def test_evaluation_has_no_dropout_and_ignores_padding_rows(tiny):
    mesh, target, now, _ = set_up(tiny, tiny.MODEL)
    evaluate = step.make_eval_step(tiny.MODEL, tiny.config(), target, batch_sharding(mesh))
    (batch,) = batches(tiny, 1)
    want = np.asarray(evaluate(now.params, put_batch(mesh, batch)))
    sums = objective.batch_loss(tiny.DRY, now.params, batch)
    np.testing.assert_allclose(want, np.asarray(jnp.stack(sums)), rtol=1e-6)
    half = {name: x.copy() for name, x in batch.items()}
    for name, x in half.items():
        x[4:] = -1 if name == "example_index" else 0
    other = {name: x.copy() for name, x in batch.items()}
    for name, x in other.items():
        x[:4] = -1 if name == "example_index" else 0
    parts = [np.asarray(evaluate(now.params, put_batch(mesh, b))) for b in (half, other)]
    np.testing.assert_allclose(sum(parts), want, rtol=1e-5)
