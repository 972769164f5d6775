"""Training on packed rows: interrupted, resumed, counted, and the same losses as without."""

import jax
import numpy as np
import pytest

from asesjax.core.errors import UserError
from asesjax.data.batching import batch_at, examples_per_row, make_plan, token_counts
from asesjax.models import t5
from asesjax.sharding.mesh import make_mesh
from asesjax.sharding.place import put_batch
from asesjax.training import checkpoint, duration, step


def config(tiny, **fields):
    return tiny.config(**({"batch_size": 4, "packed_length": 32} | fields))


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """An uninterrupted run of packed rows: its folder and its result."""
    folder = tmp_path_factory.mktemp("packed")
    return folder, tiny.run(folder, config(tiny))


def test_one_program_and_the_totals(tiny, whole):
    folder, result = whole
    examples = tiny.examples()
    plan = make_plan(examples, 4, (), (), 3, packed_length=32)
    assert result.n_programs == 1
    rows = tiny.lines(folder)
    assert rows[-2]["loss"] < rows[0]["loss"] and rows[-1]["kind"] == "validation"
    found = [batch_at(plan, examples, i)["example_index"] for i in range(24)]
    taken = np.concatenate([index[index >= 0] for index in found])
    assert result.examples == rows[-2]["examples"] == len(taken)
    assert result.tokens == rows[-2]["tokens"] == token_counts(examples)[taken].sum()
    # 24 steps of 4 rows are some epochs; tokens are those that the length of training counts on.
    expected = 24 * 4 * examples_per_row(examples, 32) * token_counts(examples).sum(1).mean()
    assert result.tokens == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("stop", [7, 17])
def test_a_resumed_run_is_bit_identical(tiny, whole, tmp_path, stop):
    with tiny.stopped(stop):
        tiny.run(tmp_path, config(tiny))
    assert checkpoint.steps(tmp_path / "checkpoints")
    result = tiny.run(tmp_path, config(tiny))
    want, got = tiny.leaves(whole[1].params), tiny.leaves(result.params)
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)
    assert tiny.lines(tmp_path) == tiny.lines(whole[0])


@pytest.mark.parametrize("normalize", ["weights", "examples"])
def test_microbatches_and_a_mesh_change_only_rounding(tiny, normalize):
    examples = tiny.examples()
    plan = make_plan(examples, 4, (), (), 3, packed_length=32)
    batch = batch_at(plan, examples, 0)
    params = t5.init(tiny.DRY, jax.random.key(1))

    def compute(batch, parts):
        train = config(tiny, microbatches=parts, normalize=normalize)
        return jax.jit(lambda p, b: step.loss_and_gradients(tiny.DRY, train, p, b, None))(
            params, batch
        )

    sums, divisor, grads = compute(batch, 1)
    n_examples = (batch["example_index"] >= 0).sum()
    assert divisor == {"weights": sums.weight_sum, "examples": n_examples}[normalize]
    shared = put_batch(make_mesh(devices=jax.devices()[:2]), batch)
    other_sums, other_divisor, other = compute(shared, 2)
    assert other_divisor == divisor
    np.testing.assert_allclose(other_sums, sums, rtol=1e-6)
    for name, g in tiny.leaves(grads).items():
        np.testing.assert_allclose(
            tiny.leaves(other)[name], g, rtol=1e-4, atol=1e-6, err_msg=name
        )


def test_another_packing_is_refused_as_another_run(tiny, whole):
    with pytest.raises(UserError, match="train.packed_length was 32 and is now 0"):
        tiny.run(whole[0], config(tiny, packed_length=0))


def test_the_length_of_training_counts_examples_not_rows(tiny):
    fields = {"steps": 0, "batch_size": 4}

    def steps(share=1.0, **length):
        return duration.n_steps(tiny.config(**fields | length), 50.0, 100, share, 5.0)

    assert steps(tokens=100_000) == 100_000 / 50 / (4 * 5)
    assert steps(epochs=2.0) == 2 * 100 / (4 * 5)
    assert steps(examples=600) == 30
    assert steps(steps=30) == 30 and steps(0.5, steps=30) == 15
    assert steps(tokens=1) == 1
