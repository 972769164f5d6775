"""Techniques for large training keep its numbers: against an unsharded float64 reference.

Meshes, microbatches, packing, rematerialisation, scanned layers and the loss in chunks, together;
and the buffers and gathers of the compiled programs.
"""

import dataclasses
import importlib.util
import itertools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asesjax import losses
from asesjax.models import t5
from asesjax.sharding.mesh import make_mesh
from asesjax.sharding.place import (
    batch_sharding,
    on_mesh,
    param_shardings,
    put_batch,
    replicated,
    rules,
)
from asesjax.training import optim, state, step

_PATH = Path(__file__).with_name("reference_t5.py")
_spec = importlib.util.spec_from_file_location("reference_t5", _PATH)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

MODEL = t5.T5Config(
    48, d_model=16, d_kv=8, d_ff=32, n_heads=2, n_encoder_layers=1, n_decoder_layers=1,
    mlp="gated-gelu", tied=True,
)  # fmt: skip
MESHES = {(8, 1, 1): "dp", (1, 8, 1): "fsdp", (2, 2, 2): "fsdp_tp", (1, 4, 2): "fsdp_tp"}
ROWS, S, T = 32, 14, 10
LOSS = {"z_loss": 1e-2, "label_smoothing": 0.1}


def make_examples():
    """Two or three examples a row: what they are, one a row, and packed; the last row is padding.

    Returns:
      (source, targets, weights) of single examples, and the packed batch.
    """
    rng = np.random.default_rng(0)
    alone, packed = [], {
        name: np.zeros((ROWS, length), np.float32 if "weights" in name else np.int32)
        for name, length in [
            ("encoder_input_tokens", S), ("encoder_segment_ids", S), ("decoder_input_tokens", T),
            ("decoder_target_tokens", T), ("decoder_loss_weights", T), ("decoder_segment_ids", T),
        ]
    }  # fmt: skip
    for row in range(ROWS - 1):
        at = to = 0
        for number in range(1, rng.integers(3, 5)):
            source = rng.integers(2, 48, rng.integers(1, 5))
            target = rng.integers(2, 48, rng.integers(1, 4))
            weight = rng.choice([0.0, 0.5, 2.0], len(target))
            alone.append((source, target, weight))
            here, there = slice(at, at + len(source)), slice(to, to + len(target))
            at, to = here.stop, there.stop
            packed["encoder_input_tokens"][row, here] = source
            packed["encoder_segment_ids"][row, here] = number
            packed["decoder_target_tokens"][row, there] = target
            packed["decoder_input_tokens"][row, there] = np.append(0, target[:-1])
            packed["decoder_loss_weights"][row, there] = weight
            packed["decoder_segment_ids"][row, there] = number
    packed["example_index"] = np.append(np.arange(ROWS - 1), -1).astype(np.int32)
    columns = []
    for parts, kind in zip(zip(*alone, strict=True), (np.int32, np.int32, np.float64), strict=True):
        column = np.zeros((len(parts), max(map(len, parts))), kind)
        for row, part in zip(column, parts, strict=True):
            row[: len(part)] = part
        columns.append(column)
    return columns, packed


@pytest.fixture(scope="module")
def lively():
    """Parameters whose norms and biases matter."""
    params = t5.init(MODEL, jax.random.key(0))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: np.asarray(x) + 0.3 * rng.normal(size=x.shape), params)


@pytest.fixture(scope="module")
def expected(lively):
    (source, targets, weights), _ = make_examples()
    args = source, targets, weights
    return reference.loss_and_gradient(MODEL, lively, args, LOSS["z_loss"], LOSS["label_smoothing"])


def set_up(model, sizes, preset, optimizer="adamw", **fields):
    train = train_section(optimizer=optimizer, **fields)
    mesh = make_mesh(*sizes, devices=jax.devices()[: np.prod(sizes)])
    chosen = optim.make_optimizer(train, 10)
    shapes = jax.eval_shape(lambda key: t5.init(model, key), jax.random.key(0))
    on = param_shardings(mesh, rules(preset), t5.logical_axes(model), shapes)
    target = state.state_target(chosen, shapes, on, mesh)
    return mesh, train, chosen, target


def train_section(**fields):
    from asesjax.config import base_config, finish

    config = base_config()
    for name, value in fields.items():
        config.train[name] = value
    return finish(config, {}).train


def test_the_reference_equals_the_numpy_t5(lively):
    (source, targets, _), _ = make_examples()
    inputs = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), lively)
        got = np.asarray(jax.jit(lambda p: reference.logits(MODEL, p, source, inputs))(wide))
    for row in range(3):
        s, t = source[row][source[row] > 0], inputs[row][: (targets[row] > 0).sum()]
        want = reference.numpy_t5.forward(MODEL, lively, s, t)
        np.testing.assert_allclose(got[row, : len(t)], want, rtol=1e-10, atol=1e-10)


WAYS = list(itertools.product(MESHES, (1, 2, 4)))
# Of the twelve, these are enough for each day; the others differ in nothing new.
QUICK = {((8, 1, 1), 4), ((1, 8, 1), 1), ((2, 2, 2), 2), ((1, 4, 2), 1)}


@pytest.mark.parametrize(
    "sizes, parts",
    [pytest.param(*w, marks=[] if w in QUICK else pytest.mark.slow) for w in WAYS],
    ids=str,
)
def test_loss_and_gradients_equal_an_unsharded_float64_reference(
    lively, expected, sizes, parts, monkeypatch
):
    number = WAYS.index((sizes, parts))
    how = {"remat": ("none", "dots", "full")[number % 3], "scan_layers": number % 2 == 1}
    monkeypatch.setattr(losses, "_count_chunks", lambda *_: 3)  # 10 positions: 4, 4 and 2
    mesh, train, _, target = set_up(
        MODEL, sizes, MESHES[sizes], batch_size=ROWS, microbatches=parts, **LOSS, **how
    )
    where = state.shardings(target).params
    split = jax.sharding.NamedSharding(
        mesh, jax.sharding.PartitionSpec(None, *batch_sharding(mesh).spec)
    )

    def compute(params, batch):
        place = lambda x: jax.lax.with_sharding_constraint(x, split)  # noqa: E731
        return step.loss_and_gradients(MODEL, train, params, batch, None, place)

    params = jax.device_put(jax.tree.map(np.float32, lively), where)
    _, batch = make_examples()
    sums, divisor, got = jax.jit(
        on_mesh(mesh, compute), out_shardings=(replicated(mesh), replicated(mesh), where)
    )(params, put_batch(mesh, batch))
    want_loss, want = expected
    assert float(divisor) == batch["decoder_loss_weights"].sum()
    # float32 holds 6e-8; a few hundred terms a sum.
    assert float(sums.loss_sum / divisor) == pytest.approx(want_loss, rel=1e-6)
    for (path, g), w in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
        error = np.linalg.norm(np.asarray(g) - w) / np.linalg.norm(w)
        assert error < 5e-6, (jax.tree_util.keystr(path), error)


def test_packed_tokens_have_the_losses_of_their_own_rows(lively):
    """Position biases know distances alone, and a segment is contiguous: nothing to correct."""
    params = jax.tree.map(np.float32, lively)
    (source, targets, _), packed = make_examples()

    def nll(batch, targets):
        scores = t5.logits(MODEL, params, t5.forward(MODEL, params, batch))
        log_p = jax.nn.log_softmax(scores)
        return np.asarray(-jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0])

    inputs = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
    apart = nll({"encoder_input_tokens": source, "decoder_input_tokens": inputs}, targets)
    together = nll(packed, packed["decoder_target_tokens"])
    got = together[packed["decoder_segment_ids"] > 0]
    np.testing.assert_allclose(got, apart[targets > 0], rtol=1e-5, atol=1e-5)


def compiled_step(model, sizes, preset, batch, **fields):
    rows = len(batch["example_index"])
    mesh, train, chosen, target = set_up(model, sizes, preset, batch_size=rows, **fields)
    run = step.make_train_step(model, train, chosen, target, batch_sharding(mesh))
    key = jax.device_put(jax.random.key(0), target.step.sharding)
    return run.lower(target, put_batch(mesh, batch), key).compile(), target


def sizes_of(text, kind=r"\w+"):
    """Numbers of elements of every buffer of a type in HLO text."""
    found = re.findall(rf"\b{kind}\[([\d,]+)\]", text)
    return {int(np.prod([int(n) for n in shape.split(",")])) for shape in found}


@pytest.mark.parametrize("sizes, parts", [((8, 1, 1), 1), ((1, 1, 1), 2)], ids=str)
def test_logits_never_exist_whole(sizes, parts, monkeypatch):
    rows, length, vocab = 24, 20, 1024
    model = dataclasses.replace(MODEL, vocab_size=vocab)
    tokens = np.ones((rows, length), np.int32)
    names = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
    batch = dict.fromkeys(names, tokens) | {
        "decoder_loss_weights": np.ones((rows, length), np.float32),
        "example_index": np.arange(rows, dtype=np.int32),
    }
    whole = rows // sizes[0] // parts * length * vocab  # on one device
    floats = {}
    for at_once in (2**30, 2**14):
        monkeypatch.setattr(losses, "_LOGITS_AT_ONCE", at_once)
        program, _ = compiled_step(model, sizes, "dp", batch, microbatches=parts)
        floats[at_once] = sizes_of(program.as_text(), "f32")
    assert whole in floats[2**30]
    assert max(floats[2**14]) < whole / 2


ONE_AFTER_ANOTHER = {"remat": "full", "microbatches": 2}


@pytest.mark.parametrize("fields", [{}, {"scan_layers": True}, ONE_AFTER_ANOTHER], ids=str)
@pytest.mark.parametrize("sizes, preset", [((1, 8, 1), "fsdp"), ((1, 4, 2), "fsdp_tp")], ids=str)
def test_no_device_gathers_more_than_a_parameter_at_a_time(sizes, preset, fields, monkeypatch):
    monkeypatch.setattr(losses, "_count_chunks", lambda *_: 3)
    model = dataclasses.replace(
        MODEL, d_ff=64, n_encoder_layers=3, n_decoder_layers=3, vocab_size=64
    )
    _, batch = make_examples()
    program, target = compiled_step(model, sizes, preset, batch, **fields)
    gathers = [line for line in program.as_text().splitlines() if " all-gather" in line]
    results = [line.split("=", 1)[1].split(" all-gather")[0] for line in gathers]
    assert results
    largest = max(leaf.size for leaf in jax.tree.leaves(target.params))
    for line in results:
        assert sum(sizes_of(line)) <= largest, line


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "lion", "sgd"])
def test_a_step_keeps_the_shardings_of_the_rules(optimizer):
    _, batch = make_examples()
    fields = {"ema_decay": 0.9, "rate_factors": ("relpos_bias=0",), "skip_nonfinite": True}
    mesh, train, chosen, target = set_up(
        MODEL, (1, 4, 2), "fsdp_tp", optimizer, batch_size=ROWS, **fields
    )
    now = state.init_state(chosen, target, lambda k: t5.init(MODEL, k), jax.random.key(1))
    run = step.make_train_step(MODEL, train, chosen, target, batch_sharding(mesh))
    key = jax.device_put(jax.random.key(5), target.step.sharding)
    now, metrics = run(now, put_batch(mesh, batch), key)
    assert np.isfinite(metrics).all()
    wanted = dict(jax.tree.leaves_with_path(target))
    kernels = 0
    for path, leaf in jax.tree.leaves_with_path(now):
        name = jax.tree_util.keystr(path)
        assert leaf.sharding.is_equivalent_to(wanted[path].sharding, leaf.ndim), name
        if name.endswith("['mlp']['wi_0']['kernel']") and leaf.ndim == 2:
            kernels += 1
            assert leaf.sharding.spec == jax.sharding.PartitionSpec("fsdp", "tensor")
    # Two layers' kernels: parameters, trained weights and the optimizer's moments.
    moments = {"adamw": 2, "adafactor": 1, "lion": 1, "sgd": 1}[optimizer]
    assert kernels == 2 * (2 + moments)
