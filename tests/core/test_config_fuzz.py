"""Any value in any field of a configuration ends in a run's first batch, or in one sentence.

Nothing is trained: what is accepted goes through the stages' list, the data stage, the examples and
batches of training, the optimizer and what decoding is made of.
"""

import itertools
import random
import signal

import numpy as np
import pytest
from ml_collections import ConfigDict

from asesjax.cli.main import _DISK
from asesjax.config import _checked, _flat, base_config, finish
from asesjax.core.errors import UserError
from asesjax.core.options import all_fields
from asesjax.data.batching import batch_at, make_plan
from asesjax.data.vocab import load_saved
from asesjax.evals.runner import check_decode, decode_spec, make_decoder
from asesjax.experiment import make_stages
from asesjax.jobs.data import prepare_data
from asesjax.jobs.training import role_examples, role_steps
from asesjax.methods.method import make_method
from asesjax.run import Run, check_size, model_config, run_mesh
from asesjax.training.duration import evaluation_steps
from asesjax.training.optim import check, make_optimizer
from asesjax.training.validation import validation_batches

SECONDS = 30  # after which an attempt hangs
TINY = {
    "data.n_train": 12, "data.n_validation": 4, "data.n_test": 4, "data.min_steps": 1,
    "data.max_steps": 2, "vocab.extra_ids": 8, "model.d_model": 16, "model.d_ff": 16,
    "model.n_heads": 2, "model.d_kv": 8, "model.n_encoder_layers": 1, "model.n_decoder_layers": 1,
    "train.tokens": 0, "train.steps": 4, "train.batch_size": 8, "decode.batch_size": 8,
    "train.source_buckets": (512,), "train.target_buckets": (512,),
    "methods": ("direct", "usm", "in_context", "socratic", "kpod", "cwt", "row"),
    "variants.row.method": "step_by_step", "train.normalize": "examples",
}  # fmt: skip
TEXTS = (
    "", " ", "0", "-1", "1", "2", "1000", "1.5", "-0.0", "nan", "inf", "-inf", "1e308", "1e-308",
    "1e999", str(2**31 - 1), str(2**31), str(2**32), str(2**63), str(2**64), "9" * 400, "9" * 5000,
    "true", "None", "()", "[]", "{{}}", "{}", "(" * 20_000, "[" * 90 + "]" * 90, "[1,[2]]", "1,2,3",
    "0,0", "-1,-1", "64,64", "9,8", "a,b", "'a'", "a\0b", "\ud800", "x" * 300, "é" * 200, "../..",
    "/", "~", "<extra_id_0>", "</s>", "\x1b[31m", "a\u2028b", "a\nb", "{answer}", "{answer}{other}",
    "{", "%s", "1_000", "0x10", "1j", "1if", "\\d", "nowhere.py", "direct", "usm", "usm,usm", "5 5",
)  # fmt: skip


class Odd:
    """An object that cannot be shown."""

    def __repr__(self):
        raise ValueError("no")


def values():
    """What a Python file may set a field to."""
    deep = []
    for _ in range(2000):
        deep = [deep]
    return (
        None, True, 0, -1, 3, 2.0, -1.5, float("nan"), float("inf"), 1e308, 2**31, 2**63, 10**400,
        10**5000, "", "x", "\ud800", "a\0b", "x" * 300, b"x", (), [], (1,), [2, 1], (0,), (1.5,),
        (2**63,), ("a", 1), ("a", "a"), ("",), ("\ud800",), [[]], [None], deep, {}, {"a": 1},
        {1, 2}, object(), Odd(), [Odd()], np.int64(3), np.float32(1), np.arange(3), len,
        list(range(5000)),
    )  # fmt: skip


def fields():
    base_config()
    more = ("variants.row.train.steps", "variants.row.method", "variants.new.method",
            "pretrain.train.steps", "pretrain.method", "pretrain.data.max_steps", "variants.row",
            "variants", "pretrain", "train", "", ".", "a..b", "variants..method")  # fmt: skip
    return (*all_fields(), *more)


def attempts():
    texts = itertools.product(fields(), TEXTS, ("text",))
    return [*texts, *itertools.product(fields(), range(len(values())), ("value",))]


def configured(name, given, kind):
    if kind == "text":
        return finish(base_config(), as_text(TINY | ({} if name in TINY else {})) | {name: given})
    config, known = base_config(), as_text(TINY)
    config = ConfigDict(config, type_safe=False)
    own = _flat(config) | {key: value for key, value in TINY.items()} | {name: values()[given]}
    return _checked(own, {}, f"{known['methods']}.py")


def as_text(fields):
    return {name: ",".join(map(str, value)) + "," if isinstance(value, tuple) else str(value)
            for name, value in fields.items()}  # fmt: skip


def begin(config, workdir):
    """Do what a run does before the first step of training."""
    run = Run(config, workdir, say=lambda line: None)
    make_stages(run)
    run_mesh(run)
    methods = [make_method(name, config) for name in config.methods]
    for method in methods:
        check_size(method.config)
    prepare_data(run)
    vocab = load_saved(run / "vocab")
    model_config(run, vocab)
    for method in methods:
        train = method.config.train
        check(train)
        check_decode(method.config)
        decode_spec(method, vocab)
        make_decoder(method.config)
        if method.annotations or method.needs:
            continue
        for role, examples in role_examples(run, method, "train").items():
            steps = role_steps(run, examples)
            evaluation_steps(steps, train.evaluate_every_share)
            make_optimizer(train, steps)
            if train.batch_size <= 2**12:  # 2**20 rows are possible, and take long
                plan = make_plan(
                    examples, train.batch_size, train.source_buckets, train.target_buckets,
                    config.seed, packed_length=train.packed_length, n_steps=steps,
                )  # fmt: skip
                batch_at(plan, examples, 0)
            validation_batches(train, role_examples(run, method, "validation")[role])


def outcome(attempt, workdir):
    """Return "accepted" or "refused", or raise what no user should see."""

    def hang(*_):
        raise TimeoutError(f"{attempt[0]} hangs")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        begin(configured(*attempt), workdir)
    except UserError as error:
        str(error).encode("utf-8", "backslashreplace")
        assert len(str(error)) < 6000, str(error)[:2000]
        return "refused"
    except MemoryError:  # which asesjax tells in a line, as it does the next ones
        return "refused"
    except OSError as error:
        assert error.errno in _DISK, error
        return "refused"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return "accepted"


def failures(chosen, tmp_path):
    found, count = [], {"accepted": 0, "refused": 0}
    for i, attempt in enumerate(chosen):
        try:
            count[outcome(attempt, tmp_path / str(i))] += 1
        except Exception as error:  # noqa: BLE001
            what = f"{attempt[0]} = {attempt[1:]!r:.60}: {type(error).__name__}"
            found.append(f"{what}: {str(error)[:200]}")
    print(len(chosen), count)
    return found


def test_a_sample_of_values(tmp_path):
    everything = attempts()
    assert outcome(("seed", "0", "text"), tmp_path / "plain") == "accepted"
    assert failures(random.Random(17).sample(everything, 200), tmp_path) == []


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
def test_every_value(tmp_path):
    assert failures(attempts(), tmp_path) == []
