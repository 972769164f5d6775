"""Converted models compute what transformers computes: states, logits, gradients, greedy ids."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from asesjax.decode.predict import Decoder, predict
from asesjax.decode.spec import DecodeSpec, FinishReason, Limits
from asesjax.models import hf_names, t5
from asesjax.models.hf_io import load_params

KINDS = ("v1_0", "v1_1", "mt5", "v1_1_tied", "mt5_tied")
every_model = pytest.mark.parametrize(
    "kind,shape",
    [*((kind, shape) for kind in KINDS for shape in ("shallow", "deep")), ("ul2", "shallow")],
)


@pytest.fixture(scope="module")
def pair(hf, tmp_path_factory):
    """A function from kind and shape to their model, our config and our parameters."""

    @functools.cache
    def make(kind, shape):
        theirs = hf.make(kind, shape)
        return theirs, *load_params(hf.save(theirs, tmp_path_factory.mktemp("hf")))

    return make


def batch(hf, rows=12, s=17, t=13):
    source = hf.prompts(3, rows, s)
    targets = hf.prompts(4, rows, t)
    return source, np.pad(targets, ((0, 0), (1, 0)))[:, :-1], targets


def assert_close(got, want, tolerance):
    want = np.asarray(want)
    assert np.abs(np.asarray(got) - want).max() <= tolerance * np.abs(want).max()


@every_model
def test_states_and_logits(hf, pair, kind, shape):
    theirs, config, params = pair(kind, shape)
    source, target_in, targets = batch(hf, 8, 150, 140)  # beyond every bucket of positions
    states, logits = (x.detach().numpy() for x in hf.run(theirs, source, target_in))
    encoded = jax.jit(t5.encode, static_argnums=0)(config, params, source)
    real = source != 0
    assert 0.2 < real.mean() < 0.9
    assert_close(np.asarray(encoded)[real], states[real], 1e-4)

    @jax.jit
    def ours(params):
        batch = {"encoder_input_tokens": source, "decoder_input_tokens": target_in}
        hidden = t5.forward(config, params, batch)
        return t5.logits(config, params, hidden)

    there = targets != 0
    assert_close(np.asarray(ours(params))[there], logits[there], 1e-4)
    # The comparison can tell: logits differ between positions and with the source.
    assert logits[there].std(axis=0).max() > 0.1 * np.abs(logits).max()


@pytest.mark.parametrize(
    "kind,shape",
    [("v1_0", "shallow"), ("v1_0", "deep"), ("v1_1", "deep"), ("mt5", "shallow"),
     ("v1_1_tied", "deep"), ("mt5_tied", "shallow")],
)  # fmt: skip
def test_gradients(hf, pair, kind, shape):
    theirs, config, params = pair(kind, shape)
    source, target_in, targets = batch(hf)
    theirs.zero_grad()
    _, logits = hf.run(theirs, source, target_in)
    wanted = hf.torch.from_numpy(targets).long()
    loss = hf.torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), wanted.flatten(), ignore_index=0, reduction="sum"
    )
    loss.backward()

    @jax.jit
    @jax.value_and_grad
    def ours(params):
        inputs = {"encoder_input_tokens": source, "decoder_input_tokens": target_in}
        scores = jax.nn.log_softmax(t5.logits(config, params, t5.forward(config, params, inputs)))
        chosen = jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0]
        return -jnp.sum(jnp.where(targets != 0, chosen, 0.0))

    value, gradients = ours(params)
    assert value == pytest.approx(loss.item(), rel=1e-5)
    flat = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(gradients)
    }
    if kind.endswith("_tied"):  # one parameter there, two here
        flat["token_embedder/embedding"] = (
            flat["token_embedder/embedding"] + flat.pop("decoder/logits_dense/kernel").T
        )
    names = hf_names.tensors(config)
    wanted = {name: weight.grad.numpy() for name, weight in theirs.named_parameters()}
    assert {names[path].name for path in flat} == wanted.keys()
    for path, gradient in flat.items():
        assert_close(names[path].turn(gradient), wanted[names[path].name], 1e-3)


@every_model
def test_greedy_ids(hf, pair, kind, shape):
    theirs, config, params = pair(kind, shape)
    n, s = 14, 12
    source = hf.prompts(7, 250, s)
    want = hf.greedy(theirs, source, n)
    spec = DecodeSpec(hf.LIMIT, n, n, 1, n_turns=1)
    questions = [row[: np.count_nonzero(row) - 1] for row in source]  # the end mark is added
    decoder = Decoder(125, (s,), context_lengths=())
    found = predict(config, {"main": params}, questions, Limits(1, n, n), spec, decoder)
    got = [
        chain.ids.tolist() + [1] * (chain.finish_reason == FinishReason.END) for chain in found
    ]
    assert got == want
    # What was compared was of many kinds.
    assert 0.1 < np.mean([ids[-1] == 1 for ids in want]) < 0.95
    assert len(set(map(len, want))) > 4
    assert len(set(map(tuple, want))) > 60
