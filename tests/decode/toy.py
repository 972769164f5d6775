"""A toy model that writes chains of all kinds, and the comparison with plain Python."""

import collections
import dataclasses
import importlib.util
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from asesjax.decode.predict import Decoder, predict
from asesjax.decode.spec import DecodeSpec, FinishReason, Limits
from asesjax.models import t5
from asesjax.models.t5_config import T5Config


def load(name):
    """A module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = load("reference")

MODEL = T5Config(
    24, d_model=16, d_kv=8, d_ff=32, n_heads=2, n_encoder_layers=1, n_decoder_layers=1, tied=False
)
SENTINEL, VOCAB = 21, 22
Q, C, L, R = 12, 40, 10, 8
SPEC = DecodeSpec(VOCAB, C, L, R, sentinel_id=SENTINEL)
WIDE = Limits(R, L, C)
ROWS = 24
# Ways of running questions that must not change what is written.
DECODERS = {
    "plain": Decoder(ROWS, (Q,), plain=True),
    "continuous": Decoder(5, (Q,), encode_rows=2, context_lengths=(24,)),
}


def weights(seed, eos=1.0):
    """Random weights so large that what is written depends on what was read."""

    def scale(path, x):
        name = jax.tree_util.keystr(path)
        return x * (3.0 if "rel_embedding" in name else 2.5 if "kernel" in name else 1.0)

    params = jax.tree_util.tree_map_with_path(scale, t5.init(MODEL, jax.random.key(seed)))
    kernel = params["decoder"]["logits_dense"]["kernel"]
    params["decoder"]["logits_dense"]["kernel"] = kernel.at[:, 1].multiply(eos)
    return params


def make_questions(seed, rows=ROWS):
    rng = np.random.default_rng(seed)
    return [rng.integers(2, 20, rng.integers(1, Q + 1)).astype(np.int32) for _ in range(rows)]


def with_roles(params, spec):
    """Parameters by role, and turns that some sets of parameters write one after the other."""
    roles = ("es", "as")[: len(params)]
    n = math.lcm(len(roles), len(spec.turns))
    turns = [spec.turns[i % len(spec.turns)]._replace(role=roles[i % len(roles)]) for i in range(n)]
    named = dict(zip(roles, params, strict=True))
    return named, dataclasses.replace(spec, turns=tuple(turns))


def run(params, questions, limits=WIDE, spec=SPEC, decoder=DECODERS["continuous"], **options):
    """Chains as the reference writes them."""
    params, spec = with_roles(params, spec)
    out = predict(MODEL, params, questions, limits, spec, decoder, **options)
    return [as_result(generated) for generated in out]


def as_result(g):
    assert len(g.ids) == sum(map(len, g.segments)) == len(g.token_log_probability)
    return reference.Result(
        segments=[segment.tolist() for segment in g.segments],
        finish_reason=g.finish_reason,
        cut_segments=g.cut_segments,
        tokens=g.tokens,
        log_probability=g.log_probability,
        token_log_probability=g.token_log_probability.tolist(),
    )


def compare(params, questions, limits=WIDE, spec=SPEC, decoder=DECODERS["continuous"], **more):
    """Demand equality on every row that no rounding could turn, and nearly all must be such."""
    clear = 0
    wants = []
    forced = more.get("forced") or [()] * len(questions)
    extra = more.get("extra_inputs") or [()] * len(questions)
    turns = more.get("first_turns", [0] * len(questions))
    found = run(params, questions, limits, spec, decoder, **more)
    params, spec = with_roles(params, spec)
    for i, (question, got) in enumerate(zip(questions, found, strict=True)):
        own = Limits(*(value if np.ndim(value) == 0 else value[i] for value in limits))
        want = reference.decode(
            MODEL, params, question, own, spec, list(forced[i]), extra[i], int(turns[i])
        )
        if want.smallest_margin < 1e-3:
            continue
        clear += 1
        wants.append(want)
        close = dict(rel=1e-4, abs=1e-3)
        assert got.log_probability == pytest.approx(want.log_probability, **close)
        assert got.token_log_probability == pytest.approx(want.token_log_probability, **close)
        same = dict(smallest_margin=np.inf, log_probability=0.0, token_log_probability=[])
        assert dataclasses.replace(got, **same) == dataclasses.replace(want, **same)
    assert clear >= 0.9 * len(questions)
    return wants


def same(results, others):
    """Equal but for the rounding of log probabilities, which changes with the batch's shape."""
    names = [field.name for field in dataclasses.fields(reference.Result)]
    for a, b in zip(results, others, strict=True):
        for name in names:
            x, y = getattr(a, name), getattr(b, name)
            if name.endswith("log_probability"):
                x, y = pytest.approx(x, rel=1e-4, abs=1e-4), y
            assert x == y, name


def kinds(results):
    """How the chains ended, and how long they were."""
    count = collections.Counter()
    for r in results:
        count[r.finish_reason] += 1
        count["several segments"] += len(r.segments) > 1
        count["chain full"] += len(r.chain) == C
        count["cut, went on"] += any(len(s) == L for s in r.segments[:-1])
        count["ended by eos"] += any(len(s) < L for s in r.segments[:-1])
        empty = r.tokens == len(r.chain) + len(r.segments) + 1
        count["empty"] += r.finish_reason == FinishReason.REPEATED and empty
    return count
