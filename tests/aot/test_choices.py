"""What is tried when a program does not fit, in which order, and what --search compares."""

from asesjax.aot import choices
from asesjax.config import base_config, finish, flatten


def config(**fields):
    return finish(base_config(), {name.replace("__", "."): str(v) for name, v in fields.items()})


def test_training_changes_come_in_order_of_cost():
    c = config(train__batch_size=32, mesh__preset="fsdp", mesh__data=1, mesh__fsdp=-1)
    found = [dict(change) for change in choices.train_changes(c, 8)]
    assert found[:6] == [
        {"train.microbatches": "2"},
        {"train.microbatches": "4"},  # 8 rows for 8 devices
        {"train.remat": "dots"},
        {"train.remat": "full"},
        {"train.remat": "full", "train.microbatches": "2"},
        {"train.remat": "full", "train.microbatches": "4"},
    ]
    meshes = [f for f in found[6:] if all(name.startswith("mesh.") for name in f)]
    assert [m["mesh.preset"] for m in meshes] == ["dp", "tp", "fsdp_tp", "fsdp_tp"]  # not fsdp
    # Two devices share a row there, so a microbatch may have 4 rows.
    assert {**meshes[2], "train.remat": "full", "train.microbatches": "8"} in found


def test_changes_that_are_set_already_are_not_tried():
    c = config(train__batch_size=8, train__remat="full")
    found = list(choices.train_changes(c, 8))
    assert all("mesh.preset" in change for change in found)  # no more rows to split, full remat
    assert all("train.remat" not in change for change in found)


def test_every_change_gives_a_valid_configuration():
    c = config(train__batch_size=64)
    for change in choices.train_changes(c, 16):
        done = finish(c, change)
        for name, value in change.items():
            assert str(flatten(done)[name]) == value
    assert c.train.microbatches == 1  # the original is unchanged


def test_decoding_gets_fewer_slots_first():
    found = [dict(change) for change in choices.decode_changes(config(decode__batch_size=6), 4)]
    assert found[:2] == [{"decode.batch_size": "3"}, {"decode.batch_size": "1"}]
    assert found[2] == {
        "mesh.preset": "fsdp", "mesh.data": "1", "mesh.fsdp": "-1", "mesh.tensor": "1"
    }  # fmt: skip


def test_large_slices_also_get_a_mesh_with_a_data_axis():
    small, large = list(choices.meshes(16)), list(choices.meshes(64))
    mixed = {"mesh.preset": "fsdp", "mesh.data": "-1", "mesh.fsdp": "16", "mesh.tensor": "1"}
    assert mixed in large and mixed not in small
    assert len(large) == len(small) + 1
