"""The token cache: the same examples to the last bit, whole or absent, never stale."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asesjax.config import base_config, finish
from asesjax.core.types import Example
from asesjax.data import token_cache
from asesjax.data.batching import batch_at, make_plan
from asesjax.data.token_cache import cache_key, cached_examples, load_examples, save_examples
from asesjax.data.vocab import load_saved
from asesjax.jobs import data as data_jobs
from asesjax.jobs import training
from asesjax.methods.ases import stages as segmentation
from asesjax.methods.method import make_method
from asesjax.run import Run


def example(i, source, target, seed=0):
    rng = np.random.default_rng([seed, i])
    return Example(
        id=f"r{i}/é\n{i}",
        inputs=rng.integers(1, 1 << 31, source, dtype=np.int32),
        targets=rng.integers(1, 1 << 31, target, dtype=np.int32),
        weights=rng.random(target, np.float32),
        kind=("", "es", "answer")[i % 3],
    )


def assert_equal(left, right):
    assert list(left) == list(right)  # roles, in order
    for role in left:
        assert len(left[role]) == len(right[role])
        for a, b in zip(left[role], right[role], strict=True):
            for field in dataclasses.fields(Example):  # whatever an example has, or comes to have
                x, y = getattr(a, field.name), getattr(b, field.name)
                assert type(x) is type(y)
                if isinstance(x, np.ndarray):
                    assert x.dtype == y.dtype and x.tobytes() == y.tobytes()
                else:
                    assert x == y


LENGTHS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=9)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=3), LENGTHS, min_size=1, max_size=3))
def test_what_was_saved_is_loaded(tmp_path_factory, roles):
    folder = tmp_path_factory.mktemp("cache") / "role"
    examples = {
        name: [example(i, s, t) for i, (s, t) in enumerate(lengths)]
        for name, lengths in roles.items()
    }
    save_examples(folder, "k", examples)
    assert_equal(load_examples(folder, "k"), examples)
    assert [path.name for path in folder.parent.iterdir()] == ["role"]


def test_built_once_and_again_for_another_key(tmp_path):
    built = []

    def build():
        built.append(len(built))
        return {"main": [example(i, 3, 2, seed=len(built)) for i in range(5)]}

    first = cached_examples(tmp_path / "c", "one", build)
    assert_equal(cached_examples(tmp_path / "c", "one", build), first)
    assert built == [0]
    second = cached_examples(tmp_path / "c", "two", build)
    assert built == [0, 1]
    assert_equal(cached_examples(tmp_path / "c", "two", build), second)
    assert built == [0, 1]
    cached_examples(tmp_path / "d", "one", build, write=False)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("name", ["inputs.npy", "targets.npy", "weights.npy", "lengths.npy",
                                  "cache.json"])  # fmt: skip
@pytest.mark.parametrize("left", [0, 60, 0.9])
def test_damaged_files_are_built_anew(tmp_path, name, left):
    examples = {"main": [example(i, 30, 20) for i in range(9)]}
    save_examples(tmp_path / "c", "k", examples)
    data = (tmp_path / "c" / name).read_bytes()
    n_bytes = left if isinstance(left, int) else int(left * len(data))
    (tmp_path / "c" / name).write_bytes(data[:n_bytes])
    assert load_examples(tmp_path / "c", "k") is None
    assert_equal(cached_examples(tmp_path / "c", "k", lambda: examples), examples)
    assert_equal(load_examples(tmp_path / "c", "k"), examples)
    (tmp_path / "c" / name).unlink()
    assert load_examples(tmp_path / "c", "k") is None


def test_killed_while_writing_leaves_the_old_one(tmp_path, monkeypatch):
    old, new = ({"main": [example(0, 3, 3, seed)]} for seed in (1, 2))
    save_examples(tmp_path / "c", "old", old)

    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(token_cache, "_flush", fail)
    with pytest.raises(KeyboardInterrupt):
        save_examples(tmp_path / "c", "new", new)
    assert_equal(load_examples(tmp_path / "c", "old"), old)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_key_depends_on_files_fields_and_code(tmp_path, monkeypatch):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("one")
    b.write_text("")
    key = cache_key([a, b], {"gamma": 0.5})
    assert key == cache_key([a, b], {"gamma": 0.5})
    others = [
        cache_key([b, a], {"gamma": 0.5}),
        cache_key([a], {"gamma": 0.5}),
        cache_key([a, tmp_path / "absent"], {"gamma": 0.5}),
        cache_key([a, b], {"gamma": 0.25}),
        cache_key([a, b], {}),
    ]
    a.write_text("two")
    others.append(cache_key([a, b], {"gamma": 0.5}))
    a.write_text("one")
    assert cache_key([a, b], {"gamma": 0.5}) == key
    monkeypatch.setattr(token_cache, "_CODE", ("data",))
    others.append(cache_key([a, b], {"gamma": 0.5}))
    assert len({key, *others}) == len(others) + 1


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    fields = {"data.n_train": "40", "data.n_validation": "5", "data.n_test": "5",
              "segment.strategy": "location", "ases.gamma": "0.37"}  # fmt: skip
    run = Run(finish(base_config(), fields), tmp_path_factory.mktemp("run"), say=lambda text: None)
    data_jobs.prepare_data(run)
    segmentation.score_pieces(run, has_scorer=False)
    segmentation.segment_pieces(run)
    return run


@pytest.mark.parametrize("name", ["direct", "usm", "dsm"])
def test_a_second_start_encodes_nothing_and_sees_the_same_batches(prepared, monkeypatch, name):
    method, vocab = get_method(name), load_saved(prepared / "vocab")
    plain = training.role_examples(prepared, method, vocab, "train")
    assert not (prepared / f"tokens/{name}-train").exists()  # too few to be worth it
    monkeypatch.setattr(training, "_CACHE_FROM_BYTES", 0)
    assert_equal(training.role_examples(prepared, method, vocab, "train"), plain)
    monkeypatch.setattr(training, "_build_examples", lambda *args: pytest.fail("built again"))
    cached = training.role_examples(prepared, method, vocab, "train")
    assert_equal(cached, plain)
    role = method.roles[0]
    for packed_length in (0, 256):
        plans = [
            make_plan(e[role], 4, (64, 128), (16, 80), 0, packed_length=packed_length)
            for e in (plain, cached)
        ]
        for step in range(plans[0].epoch_start(1)):
            a, b = (batch_at(p, e[role], step) for p, e in zip(plans, (plain, cached), strict=True))
            assert all(a[key].tobytes() == b[key].tobytes() for key in a)


def test_other_weights_records_or_segments_are_not_taken_from_the_cache(prepared, monkeypatch):
    monkeypatch.setattr(training, "_CACHE_FROM_BYTES", 0)
    vocab = load_saved(prepared / "vocab")

    def made(name, **fields):
        named = {key.replace("__", "."): value for key, value in fields.items()}
        run = Run(finish(prepared.config.copy_and_resolve_references(), named), prepared.workdir)
        return training.role_examples(run, get_method(name), vocab, "train")["main"]

    before = made("usm")
    assert {w for e in before for w in e.weights.tolist()} == {1.0, float(np.float32(0.37))}
    weights = {w for e in made("usm", ases__gamma="0.5") for w in e.weights.tolist()}
    assert weights == {1.0, 0.5}
    fields = {"segment.strategy": "bleu", "segment.beta": "2.0"}
    segmented = finish(prepared.config.copy_and_resolve_references(), fields)
    segmentation.segment_pieces(Run(segmented, prepared.workdir, say=prepared.say))
    assert len(made("usm")) < len(before)
    n_records = len(made("direct"))
    file = prepared / "data/train.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    assert len(made("direct")) == n_records - 1
