"""What is compiled ahead is, to the letter, what a run compiles; on eight virtual CPU devices."""

import dataclasses
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from asesjax.aot import programs, topology
from asesjax.aot.topology import CPU, GIB, Slice, get_slice, one_host
from asesjax.config import base_config, finish, load_config
from asesjax.core.errors import UserError
from asesjax.core.types import Example
from asesjax.data.vocab import load_vocabulary
from asesjax.decode import continuous, iterative
from asesjax.decode.predict import predict
from asesjax.evals.runner import decode_spec, make_decoder
from asesjax.methods.method import METHODS, make_method
from asesjax.models import t5
from asesjax.models.presets import configured
from asesjax.run import Run, placed_shapes, run_mesh
from asesjax.sharding.place import rules
from asesjax.training.loop import train
from asesjax.training.step import PerShape

ROWS = 384
TINY = {
    "model.d_model": 16, "model.d_ff": 32, "model.n_heads": 2, "model.d_kv": 8,
    "model.n_encoder_layers": 1, "model.n_decoder_layers": 1, "model.dropout": 0.1,
    "train.batch_size": 16, "train.source_buckets": "(16,)", "train.target_buckets": "(8,)",
    "train.tokens": 0, "train.steps": 1000, "train.save_every_steps": 0,
    "decode.batch_size": 6, "decode.max_rounds": 2, "decode.max_segment_tokens": 4,
    "decode.max_chain_tokens": 6, "decode.question_buckets": "(8,)",
    "decode.context_lengths": "(8,)", "mesh.preset": "fsdp_tp", "mesh.data": 2, "mesh.fsdp": 2,
    "mesh.tensor": 2,
}  # fmt: skip


class Seen(Exception):
    """Carries the text of a lowered program out of the run, which need not go on."""


def tiny(**fields):
    more = {name.replace("__", "."): value for name, value in fields.items()}
    return finish(base_config(), {k: str(v) for k, v in (TINY | more).items()})


def cpus(n=8):
    return Slice(f"cpu:{n}", CPU, tuple(jax.devices()[:n]))


@pytest.mark.parametrize(
    "fields",
    [{}, {"train__microbatches": 2, "train__remat": "full", "train__ema_decay": 0.9,
          "train__optimizer": "adamw"}],
)  # fmt: skip
def test_the_step_is_that_of_the_loop(fields, tmp_path, monkeypatch):
    config, lower = tiny(**fields), PerShape.lower

    def stop(self, *args):
        raise Seen(lower(self, *args).as_text())

    monkeypatch.setattr(PerShape, "lower", stop)
    examples = [
        Example(str(i), np.full(16, 5), np.full(8, 6), np.ones(8, np.float32)) for i in range(16)
    ]
    model = configured(config.model, ROWS)
    with pytest.raises(Seen) as seen:
        train(
            config.train, model, examples, [], tmp_path, 0, run_mesh(Run(config, tmp_path)),
            rules(config.mesh.preset), n_steps=programs._STEPS,
        )  # fmt: skip
    monkeypatch.undo()
    mine = programs.train_program(config, cpus(), ROWS)
    assert mine.lower().as_text() == str(seen.value)
    assert mine.tokens == 16 * (16 + 8) and "batch 16 x (16 + 8)" in mine.what


@pytest.mark.parametrize(
    "method, beams, place",
    [("dsm", 1, (continuous, "run")), ("usm", 1, (continuous, "run")),
     ("socratic_unified", 1, (continuous, "run")), ("dsm", 2, (iterative, "generate"))],
)  # fmt: skip
def test_the_decoding_is_that_of_predict(method, beams, place, monkeypatch):
    config, real = tiny(methods=method, decode__beams=beams), getattr(*place)

    def stop(*args, **kwargs):
        raise Seen(real.lower(*args, **kwargs).as_text())

    monkeypatch.setattr(*place, stop)
    mesh, model = run_mesh(Run(config, Path())), configured(config.model, ROWS)
    on = jax.tree.map(lambda x: x.sharding, placed_shapes(Run(config, Path()), model, mesh))
    params = jax.device_put(t5.init(model, jax.random.key(0)), on)
    spec, limits = decode_spec(make_method(method, config), load_vocabulary("byte"))
    spec = dataclasses.replace(spec, vocab_limit=ROWS)
    questions = [np.full(8, 5, np.int32)] * 30
    by_role = {role: params for role in make_method(method, config).roles}
    with pytest.raises(Seen) as seen:
        predict(model, by_role, questions, limits, spec, make_decoder(config), mesh)
    monkeypatch.undo()
    mine = programs.decode_program(config, cpus(), ROWS)
    assert mine.lower().as_text() == str(seen.value)
    assert mine.tokens == 8  # 6 slots, for four shares of rows
    assert mine.state == mine.weights > 0


def test_the_method_with_most_parameters_is_decoded():
    assert "dsm" in programs.decode_program(tiny(), cpus(), ROWS).what
    assert "usm" in programs.decode_program(tiny(methods="direct,usm"), cpus(), ROWS).what


def test_every_method_has_a_decoding():
    config = tiny(train__normalize="examples")  # which KPOD needs
    for method in METHODS:
        mine = programs.decode_program(config.changed({"methods": (method,)}), cpus(), ROWS)
        assert mine.what.startswith(method) and mine.weights > 0


def test_packed_batches_have_segments_and_the_longest_rows():
    config = tiny(train__packed_length=24)
    mine = programs.train_program(config, cpus(), ROWS)
    assert "16 x (24 + 24)" in mine.what
    text = mine.lower().as_text()
    assert text.count("tensor<16x24xi32>") > 4


def test_the_largest_model_needs_no_memory_here():
    """T5-XXL's 11 billion parameters are only described."""
    config = load_config("configs/tpu.py:t5-xxl", {"mesh.data": "1"})
    mine = programs.train_program(config, cpus(), 32128)
    assert 40 * GIB < 8 * mine.weights < 45 * GIB
    assert mine.state < 1.01 * mine.weights  # Adafactor keeps vectors
    # 3 passes of 2 operations for each parameter and token, and attention
    assert 8 * mine.flops > 3 * 2 * 5e9 * mine.tokens
    assert mine.recomputed == 4 / 3


def test_what_a_run_keeps_besides():
    assert programs.train_program(tiny(), cpus(), ROWS).held == 0
    started = programs.train_program(tiny(model__init_from="somewhere"), cpus(), ROWS)
    assert started.held == started.weights
    rounded = programs.decode_program(tiny(decode__int8=True, methods="usm"), cpus(), ROWS)
    plain = programs.decode_program(tiny(methods="usm"), cpus(), ROWS)
    assert rounded.held == plain.weights and rounded.weights < plain.weights / 2
    assert "i8" in rounded.lower().as_text()


def test_a_batch_that_the_devices_cannot_share():
    with pytest.raises(UserError, match="batch_size 15"):
        programs.train_program(tiny(train__batch_size=15), cpus(), ROWS)


def test_a_mesh_of_other_devices():
    with pytest.raises(UserError, match="there are 4 devices"):
        programs.train_program(tiny(), cpus(4), ROWS)


def test_a_mesh_that_the_connections_do_not_offer(monkeypatch):
    def refuse(*args, **kwargs):
        raise NotImplementedError("Failed to find assignment")

    monkeypatch.setattr(jax, "make_mesh", refuse)
    with pytest.raises(UserError, match=r"cpu:8 cannot be arranged as data 2 x fsdp 2 x tensor 2"):
        programs.train_program(tiny(), cpus(), ROWS)


def test_several_slices_share_the_data_axis():
    mine = programs.train_program(tiny(mesh__slices=2), cpus(), ROWS)
    assert dict(mine.mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}


def test_one_machine_of_several(monkeypatch):
    def device(process):
        return types.SimpleNamespace(process_index=process)

    asked = []
    monkeypatch.setattr(topology, "get_slice", lambda name: asked.append(name))
    one_host(Slice("v5e:4x4", CPU, (device(0), device(1))))
    one_host(Slice("v5p:2x2x2", CPU, (device(0), device(1))))
    assert asked == ["v5e:2x2", "v5p:2x2x1"]
    alone = Slice("v5e:2x4", CPU, (device(0), device(0)))
    assert one_host(alone) is alone


@pytest.mark.parametrize("name", ["v5e", "v5e:4", "v3:2x2", "v5e:0x4", "cpu:2x2", "", "gpu:8"])
def test_names_of_no_slice(name):
    if name == "v5e:4":
        pytest.importorskip("libtpu")
    with pytest.raises(UserError, match=r"--topology"):
        get_slice(name)


def test_too_few_cpus():
    with pytest.raises(UserError, match="host_platform_device_count=16"):
        get_slice("cpu:16")


def test_without_libtpu_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'asesjax\[tpu\]'"):
        get_slice("v5e:2x4")
