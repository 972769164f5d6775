"""Meshes, presets and placement on eight virtual devices."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from asesjax.core.errors import UserError
from asesjax.core.options import from_fields
from asesjax.models import t5
from asesjax.models.t5_config import T5Config
from asesjax.sharding.mesh import MeshOptions, _over_slices, make_mesh
from asesjax.sharding.place import (
    PRESETS,
    batch_sharding,
    on_mesh,
    param_shardings,
    put_batch,
    replicated,
    rules,
)

MODEL = T5Config(64, d_model=16, d_kv=8, d_ff=32, n_heads=4, mlp="gated-gelu", tied=False)


def shardings(mesh, preset, config=MODEL):
    shapes = jax.eval_shape(lambda: t5.init(config, jax.random.key(0)))
    return param_shardings(mesh, rules(preset), t5.logical_axes(config), shapes)


def make_batch(rows=8):
    rng = np.random.default_rng(0)
    targets = rng.integers(1, 64, (rows, 6)).astype(np.int32)
    source = rng.integers(1, 64, (rows, 10)).astype(np.int32)
    source[::2, 7:] = 0
    return {
        "encoder_input_tokens": source,
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
    }


def loss(params, batch):
    logits = t5.logits(MODEL, params, t5.forward(MODEL, params, batch))
    log_p = jax.nn.log_softmax(logits)
    targets = batch["decoder_target_tokens"]
    return -jnp.take_along_axis(log_p, targets[..., None], -1).mean()


def test_a_size_of_minus_one_takes_the_other_devices():
    assert dict(make_mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh(2, -1, 2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(make_mesh(1, 2, -1).shape) == {"data": 1, "fsdp": 2, "tensor": 4}
    two = make_mesh(-1, 2, 1, devices=jax.devices()[2:4])
    assert two.devices.ravel().tolist() == jax.devices()[2:4]


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 3, 1), (-1, -1, 1), (0, 1, 1), (8, 2, 1)])
def test_mesh_of_wrong_size(sizes):
    with pytest.raises(UserError, match=f"mesh.data={sizes[0]}, mesh.fsdp={sizes[1]}"):
        make_mesh(*sizes)


def test_slices_lie_along_the_data_axis():
    flat = make_mesh(4, 2, 1, slices=2).devices
    assert flat[:2].ravel().tolist() == jax.devices()[:4]
    with pytest.raises(UserError, match="mesh.slices=3 must divide mesh.data, which is 4"):
        make_mesh(4, 2, 1, slices=3)


def test_slices_that_the_devices_report():
    @dataclasses.dataclass(frozen=True)
    class Chip:
        id: int
        slice_index: int
        process_index: int = 0
        platform: str = "none"
        device_kind: str = "none"

    # Not in the order of their slices.
    chips = [Chip(n, n % 2) for n in range(8)]
    with pytest.raises(UserError, match="mesh.slices=4, but the devices are of 2 slices"):
        _over_slices([4, 1, 2], 4, chips)
    placed = _over_slices([4, 1, 2], 2, chips)
    assert placed.shape == (4, 1, 2)
    of = np.vectorize(lambda chip: chip.slice_index)(placed)
    assert (of[:2] == of[0, 0, 0]).all() and (of[2:] == of[2, 0, 0]).all()
    assert of[0, 0, 0] != of[2, 0, 0]


def test_presets_are_the_choices_of_the_option():
    assert set(PRESETS) == set(MeshOptions.__dataclass_fields__["preset"].metadata["choices"])
    with pytest.raises(UserError, match="did you mean 'fsdp'"):
        from_fields({"mesh.preset": "fdsp"})


def test_parameters_lie_where_the_rules_say():
    mesh = make_mesh(2, 2, 2)
    tree = shardings(mesh, "fsdp_tp")
    layer = tree["decoder"]["layers_0"]
    assert layer["self_attention"]["query"]["kernel"].spec == P("fsdp", "tensor")
    assert layer["self_attention"]["out"]["kernel"].spec == P("tensor", "fsdp")
    assert layer["mlp"]["wi_1"]["kernel"].spec == P("fsdp", "tensor")
    assert tree["token_embedder"]["embedding"].spec == P("tensor", "fsdp")
    assert tree["encoder"]["relpos_bias"]["rel_embedding"].spec == P("tensor", None)
    for preset, axes in {"dp": set(), "fsdp": {"fsdp"}, "tp": {"tensor"}}.items():
        specs = [s.spec for s in jax.tree.leaves(shardings(mesh, preset))]
        assert {axis for spec in specs for axis in spec} - {None} == axes


def test_dimensions_that_do_not_divide_stay_whole():
    odd = T5Config(61, d_model=15, d_kv=8, d_ff=32, n_heads=4)
    tree = shardings(make_mesh(1, 2, 4), "fsdp_tp", odd)
    assert tree["token_embedder"]["embedding"].spec == P(None, None)
    assert tree["encoder"]["layers_0"]["mlp"]["wo"]["kernel"].spec == P("tensor", None)


def test_put_batch():
    mesh = make_mesh(2, 2, 2)
    placed = put_batch(mesh, make_batch())
    for name, array in make_batch().items():
        assert placed[name].sharding == batch_sharding(mesh)
        assert {s.data.shape[0] for s in placed[name].addressable_shards} == {2}
        np.testing.assert_array_equal(placed[name], array)


@pytest.mark.parametrize(
    "preset, sizes",
    [("dp", (8, 1, 1)), ("fsdp", (1, 8, 1)), ("tp", (2, 1, 4)), ("fsdp_tp", (2, 2, 2))],
)
def test_gradients_are_the_same_and_rows_stay_sharded(preset, sizes):
    params, batch = t5.init(MODEL, jax.random.key(0)), make_batch()
    want_loss, want = jax.jit(jax.value_and_grad(loss))(params, batch)
    mesh = make_mesh(*sizes)
    where = shardings(mesh, preset)
    step = jax.jit(
        on_mesh(mesh, jax.value_and_grad(loss)),
        in_shardings=(where, batch_sharding(mesh)),
        out_shardings=(replicated(mesh), where),
    )
    args = jax.device_put(params, where), put_batch(mesh, batch)
    program = step.lower(*args).compile()
    got_loss, got = program(*args)
    np.testing.assert_allclose(got_loss, want_loss, rtol=1e-5)
    for a, b, s in zip(*map(jax.tree.leaves, (got, want, where)), strict=True):
        assert a.sharding.is_equivalent_to(s, a.ndim)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    # No device ever collects the activations of all rows, only parameters (of fewer dimensions).
    gathered = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather", program.as_text())
    assert (preset in ("fsdp", "fsdp_tp")) <= bool(gathered)
    assert all(shape.count(",") < 2 for shape in gathered), gathered
