"""Checkpoints: damage is found and the one before is used, misfits are refused, any mesh works."""

import dataclasses
import json
import shutil
import sys
import threading

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from asesjax.core.errors import UserError
from asesjax.data.vocab import ByteVocabulary
from asesjax.models import t5
from asesjax.sharding.mesh import make_mesh
from asesjax.sharding.place import param_shardings, rules
from asesjax.training import checkpoint, optim, state
from asesjax.training.checkpoint_files import drop_damaged
from asesjax.training.describe import Description, describe_start


def target_on(tiny, mesh, preset="dp", model=None, **fields):
    model = model or tiny.DRY
    optimizer = optim.make_optimizer(tiny.config(**fields), 10)
    shapes = jax.eval_shape(lambda key: t5.init(model, key), jax.random.key(0))
    on = param_shardings(mesh, rules(preset), t5.logical_axes(model), shapes)
    return state.state_target(optimizer, shapes, on, mesh)


def random_state(target, seed=0):
    """Every leaf random, so that no array looks like another, or like a fresh one."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        value = rng.integers(1, 99, leaf.shape).astype(leaf.dtype)
        value = value + rng.random(leaf.shape).astype(leaf.dtype) if leaf.ndim else value
        return jax.device_put(value, leaf.sharding)

    return jax.tree.map(draw, target)


def at(made, step):
    return made._replace(step=jax.device_put(np.int32(step), made.step.sharding))


def same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


@pytest.fixture(scope="module")
def target(tiny):
    return target_on(tiny, make_mesh(devices=jax.devices()[:1]))


@pytest.fixture(scope="module")
def saved(tiny, target, tmp_path_factory):
    """A folder with steps 2 (kept), 8 and 10, and the states in them."""
    folder = tmp_path_factory.mktemp("role") / "checkpoints"
    states = {step: at(random_state(target, step), step) for step in (2, 4, 6, 8, 10)}
    saves = checkpoint.Checkpoints(
        folder, keep_steps=[2], description=Description(tiny.DRY, ByteVocabulary(0), "usm", "main")
    )
    for step, made in states.items():
        saves.save(made, {"step": step, "note": f"n{step}"})
    saves.wait()
    saves.close()
    return folder, states


@pytest.fixture
def copy(saved, tmp_path):
    shutil.copytree(saved[0], tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def test_the_last_two_and_the_kept_ones_stay(saved):
    assert checkpoint.steps(saved[0]) == [2, 8, 10]


def test_every_checkpoint_describes_itself(saved, tiny):
    for step in (2, 8, 10):
        found = describe_start(saved[0] / f"step_{step}")
        assert (found.model, found.method, found.role) == (tiny.DRY, "usm", "main")
        assert found.vocab.fingerprint == ByteVocabulary(0).fingerprint


def test_a_restored_state_and_cursor_are_equal_to_the_bit(saved, target):
    got, cursor = checkpoint.restore_newest(saved[0], target)
    same(got, saved[1][10])
    assert jax.tree.structure(got) == jax.tree.structure(saved[1][10])
    assert cursor == {"step": 10, "note": "n10"}
    assert checkpoint.read_cursor(saved[0], 8) == {"step": 8, "note": "n8"}


@pytest.mark.parametrize("preset, sizes", [("fsdp_tp", (2, 2, 2)), ("fsdp", (1, 8, 1))])
def test_restore_onto_another_mesh(tiny, saved, preset, sizes):
    wanted = target_on(tiny, make_mesh(*sizes), preset)
    got, _ = checkpoint.restore_newest(saved[0], wanted)
    same(got, saved[1][10])
    for leaf, want in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert leaf.sharding == want.sharding
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(got.params))


def test_from_eight_devices_to_two_to_one_and_back(tiny, tmp_path):
    """Each restores what the one before wrote, and writes it again."""
    meshes = [
        (make_mesh(2, 2, 2), "fsdp_tp"),
        (make_mesh(1, 2, 1, devices=jax.devices()[3:5]), "fsdp"),
        (make_mesh(devices=jax.devices()[:1]), "dp"),
        (make_mesh(1, 8, 1), "fsdp"),
    ]
    made = at(random_state(target_on(tiny, *meshes[0])), 5)
    for i, (mesh, preset) in enumerate(meshes):
        wanted = target_on(tiny, mesh, preset)
        if i:
            got, cursor = checkpoint.restore_newest(tmp_path / str(i - 1), wanted)
            assert cursor == {"step": 5}
            for leaf, want in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
                assert leaf.sharding == want.sharding
        else:
            got = made
        same(got, made)
        saves = checkpoint.Checkpoints(tmp_path / str(i))
        saves.save(got, {"step": 5})
        saves.close()


def test_parameters_alone_from_a_role_a_folder_or_a_step(saved, target):
    folder, states = saved
    for path, step, want in [
        (folder, None, 10), (folder.parent, 2, 2), (folder.parent, None, 10),
        (folder / "step_8", None, 8),
    ]:  # fmt: skip
        same(checkpoint.restore_params(path, target.params, step), states[want].params)


def test_missing_checkpoints_are_user_errors(saved, target, tmp_path):
    with pytest.raises(UserError, match="no checkpoint of step 5; it has those of steps 2, 8, 10"):
        checkpoint.restore_params(saved[0], target.params, 5)
    with pytest.raises(UserError, match="no checkpoint in"):
        checkpoint.restore_params(tmp_path, target.params)
    assert checkpoint.restore_newest(tmp_path / "nothing", target) is None


def files_of(folder):
    return sorted(
        path for item in ("params", "opt_state", "cursor", "model.json", "vocab")
        for path in (folder / item, *(folder / item).rglob("*"))
        if path.is_file() and "commit" not in path.name
    )  # fmt: skip


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("harm", [truncate, flip, lambda path: path.unlink()])
def test_any_damage_to_any_file_falls_back(copy, saved, target, harm, capfd):
    newest = copy / "step_10"
    files = files_of(newest)
    assert len(files) >= 8
    for file in files:
        harm(file)
        lines = []
        got, cursor = checkpoint.restore_newest(copy, target, say=lines.append)
        assert cursor["step"] == 8, file
        same(got, saved[1][8])
        assert len(lines) == 1 and str(newest) in lines[0] and file.name in lines[0]
        assert not newest.exists()
        with pytest.raises(UserError, match="no checkpoint of step 10"):
            checkpoint.restore_params(copy, target.params, 10)
        shutil.rmtree(copy / "damaged_step_10")
        shutil.copytree(saved[0] / "step_10", newest)
    assert capfd.readouterr().err == ""  # Orbax prints nothing of its own


def test_two_damaged_checkpoints_fall_back_to_the_third(copy, saved, target):
    for step in (10, 8):
        truncate(files_of(copy / f"step_{step}")[0])
    lines = []
    got, cursor = checkpoint.restore_newest(copy, target, say=lines.append)
    same(got, saved[1][2])
    assert cursor["step"] == 2 and len(lines) == 2


def test_a_checkpoint_without_checksums_is_damaged(copy, saved, target):
    (copy / "step_10/files.json").unlink()
    got, _ = checkpoint.restore_newest(copy, target)
    same(got, saved[1][8])


def test_decoding_asks_for_whole_parameters_and_no_more(copy, saved, target, capfd):
    for item in ("opt_state", "cursor"):
        for path in files_of(copy / "step_10"):
            if path.is_relative_to(copy / f"step_10/{item}"):
                truncate(path)
    same(checkpoint.restore_params(copy, target.params), saved[1][10].params)
    with pytest.raises(UserError, match="step_10 is damaged .cursor/metadata"):
        checkpoint.read_cursor(copy, 10)
    assert capfd.readouterr().err == ""
    truncate(files_of(copy / "step_10")[-1])
    with pytest.raises(UserError, match="step_10 is damaged"):
        checkpoint.restore_params(copy, target.params, 10)
    same(checkpoint.restore_params(copy, target.params), saved[1][8].params)
    assert "step_8 before it is used" in capfd.readouterr().err
    assert "step_10 is damaged" in drop_damaged(copy, [8, 10]) and checkpoint.steps(copy) == [2, 8]
    assert drop_damaged(copy, [2, 8]) == ""


def test_what_a_save_is_given_may_change_at_once(tmp_path, saved, target, monkeypatch):
    go, written = threading.Event(), ocp.JsonCheckpointHandler._save_fn

    async def late(*args):
        assert go.wait(60)
        await written(*args)

    monkeypatch.setattr(ocp.JsonCheckpointHandler, "_save_fn", late)
    saves = checkpoint.Checkpoints(tmp_path)
    cursor = {"step": 10, "evaluations": [{"step": 5}], "totals": {"n": 1}}
    given = jax.tree.map(lambda leaf: jax.numpy.array(leaf), saved[1][10])
    saves.save(given, cursor)
    jax.tree.map(lambda leaf: leaf.delete(), given)  # as donating to the next step does
    cursor["evaluations"].append({"step": 10})
    cursor["totals"]["n"] = 2
    go.set()
    saves.close()
    assert checkpoint.read_cursor(tmp_path, 10) == {
        "step": 10, "evaluations": [{"step": 5}], "totals": {"n": 1}
    }  # fmt: skip
    same(checkpoint.restore_params(tmp_path, target.params), saved[1][10].params)


def test_other_shapes_are_listed_and_nothing_is_renamed(tiny, copy, target):
    wide = target_on(
        tiny, make_mesh(devices=jax.devices()[:1]),
        model=dataclasses.replace(tiny.DRY, d_ff=48, n_decoder_layers=2),
    )  # fmt: skip
    for call in (
        lambda: checkpoint.restore_newest(copy, wide),
        lambda: checkpoint.restore_params(copy, wide.params),
    ):
        with pytest.raises(UserError) as caught:
            call()
        message = str(caught.value)
        name = "encoder/layers_0/mlp/wi/kernel"
        assert f"{name}: expected (16, 48), found (16, 32)" in message
        assert "decoder/layers_1/mlp/wi/kernel: expected (16, 48), found absent" in message
        assert "query" not in message.replace("decoder/layers_1", "").split("layers_0")[0]
    assert checkpoint.steps(copy) == [2, 8, 10]


def test_parameters_that_the_model_lacks_are_listed(tiny, copy):
    shapes = {"token_embedder": jax.ShapeDtypeStruct((1,), np.float32)}
    with pytest.raises(UserError, match=r"decoder_norm/scale: expected absent, found \(16,\)"):
        checkpoint.restore_params(copy, shapes)


def test_a_checkpoint_under_the_number_of_another_is_refused(copy, target):
    (copy / "step_10").rename(copy / "step_12")
    with pytest.raises(UserError, match="step_12 is whole but .* its cursor says step 10"):
        checkpoint.restore_newest(copy, target)


def test_a_whole_checkpoint_of_another_optimizer_is_refused_and_not_renamed(tiny, copy, target):
    other = target_on(tiny, make_mesh(devices=jax.devices()[:1]), optimizer="adafactor")
    with pytest.raises(UserError, match="whole but cannot be restored"):
        checkpoint.restore_newest(copy, other)
    assert checkpoint.steps(copy) == [2, 8, 10]


def test_the_loss_of_another_process_is_not_taken_for_a_fault_of_the_checkpoint(
    copy, target, monkeypatch
):
    def failing(*_, **__):
        raise RuntimeError("Gloo AllGather failed: Connection reset by peer")

    def ends():
        sys.exit("another process was lost")

    monkeypatch.setattr(checkpoint, "_read", failing)
    monkeypatch.setattr(checkpoint, "let_loss_end", ends)
    with pytest.raises(SystemExit, match="another process was lost"):
        checkpoint.restore_newest(copy, target)


def test_adafactor_state_is_restored(tiny, tmp_path):
    wide = dataclasses.replace(tiny.DRY, d_model=128, d_ff=128)  # wide enough to be factored
    on = target_on(tiny, make_mesh(1, 8, 1), "fsdp", wide, optimizer="adafactor")
    made = at(random_state(on), 3)
    saves = checkpoint.Checkpoints(tmp_path)
    saves.save(made, {"step": 3})
    saves.close()
    alone = target_on(tiny, make_mesh(devices=jax.devices()[:1]), model=wide, optimizer="adafactor")
    same(checkpoint.restore_newest(tmp_path, alone)[0], made)


def test_leftovers_of_killed_saves_are_ignored_and_removed_at_the_next_save(copy, saved, target):
    for step in (12, 14):
        shutil.copytree(copy / "step_10", copy / f"step_{step}.orbax-checkpoint-tmp")
    assert checkpoint.steps(copy) == [2, 8, 10]
    saves = checkpoint.Checkpoints(copy, [2])
    made = at(random_state(target, 12), 12)
    saves.save(made, {"step": 12})
    saves.close()
    assert sorted(path.name for path in copy.iterdir()) == ["step_10", "step_12", "step_2"]
    same(checkpoint.restore_newest(copy, target)[0], made)


def test_a_half_deleted_older_checkpoint_does_not_stop_restoring_or_saving(copy, saved, target):
    shutil.rmtree(copy / "step_8" / "params")
    (copy / "step_8" / "files.json").unlink()
    got, cursor = checkpoint.restore_newest(copy, target)
    same(got, saved[1][10])
    saves = checkpoint.Checkpoints(copy, [2], keep_last=1)
    saves.save(at(got, 12), {"step": 12})
    saves.close()
    assert checkpoint.steps(copy) == [2, 12]


def test_a_save_that_does_not_fit_on_the_disk_is_refused(copy, target, monkeypatch):
    usage = shutil.disk_usage(copy)._replace(free=1000)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda folder: usage)
    saves = checkpoint.Checkpoints(copy)
    with pytest.raises(UserError, match=r"it takes [\d,]+ bytes, 1,000 are free on the disk"):
        saves.save(at(random_state(target), 12), {"step": 12})
    saves.close()
    assert checkpoint.steps(copy) == [2, 8, 10]


def test_an_unwritable_folder_is_a_user_error(tmp_path, saved):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write a checkpoint"):
        checkpoint.Checkpoints(tmp_path / "file" / "checkpoints")


def test_donating_arrays_after_save_does_not_change_the_checkpoint(tmp_path, target):
    made = at(random_state(target), 1)
    before = jax.tree.map(lambda x: np.array(x, copy=True), made)
    saves = checkpoint.Checkpoints(tmp_path)
    double = jax.jit(lambda s: jax.tree.map(lambda x: x * 2, s), donate_argnums=0)
    saves.save(made, {"step": 1})
    for _ in range(5):
        made = double(made)
    saves.close()
    same(checkpoint.restore_newest(tmp_path, target)[0], before)


def test_checksums_name_every_file_of_the_items(saved):
    place = saved[0] / "step_10"
    listed = json.loads((place / "files.json").read_text())
    assert sorted(listed) == sorted(p.relative_to(place).as_posix() for p in files_of(place))
