"""Offline caches: read by seqio, the same examples, the same bytes."""

import pytest

seqio = pytest.importorskip("seqio")

from asesjax.core.errors import UserError  # noqa: E402
from asesjax.tasks.cache import write_cache  # noqa: E402
from asesjax.tasks.load import examples_from_task  # noqa: E402


@pytest.mark.parametrize("task", ["asesjax_small_usm", "asesjax_small_text"])
@pytest.mark.parametrize("num_shards", [1, 3])
def test_seqio_reads_the_cached_examples_unchanged(run, tmp_path, monkeypatch, task, num_shards):
    plain = examples_from_task(task, "train")
    folder = write_cache(task, tmp_path, num_shards)
    monkeypatch.setattr(seqio.TaskRegistry.get(task), "_cache_dir", None)
    monkeypatch.setattr(seqio.utils, "_GLOBAL_CACHE_DIRECTORIES", [str(tmp_path)])
    assert seqio.TaskRegistry.get(task).cache_dir == str(folder)
    # The source is not asked any more.
    monkeypatch.setattr(seqio.TaskRegistry.get(task).source, "get_dataset", None)
    cached = examples_from_task(task, "train", use_cached=True)
    key = lambda e: (e.inputs.tobytes(), e.targets.tobytes(), e.weights.tobytes())  # noqa: E731
    assert sorted(map(key, cached)) == sorted(map(key, plain))
    if num_shards == 1:
        assert list(map(key, cached)) == list(map(key, plain))
    stats = seqio.TaskRegistry.get(task).get_cached_stats("train")
    eos = len(plain) if task.endswith("text") else 0  # added after the cache
    assert stats["examples"] == len(plain)
    assert stats["targets_tokens"] == sum(len(e.targets) for e in plain) - eos


def test_same_bytes_every_time(run, tmp_path):
    folders = [write_cache("asesjax_small_usm", tmp_path / name, 2) for name in "ab"]
    files = [sorted(folder.iterdir()) for folder in folders]
    assert [f.name for f in files[0]] == [f.name for f in files[1]]
    assert "COMPLETED" in [f.name for f in files[0]]
    for a, b in zip(*files, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_no_cache_is_overwritten_or_left_half_written(run, tmp_path, monkeypatch):
    write_cache("asesjax_small_direct", tmp_path)
    with pytest.raises(UserError, match="asesjax_small_direct exists"):
        write_cache("asesjax_small_direct", tmp_path)
    with pytest.raises(UserError, match="asesjax_small_dsm cannot be cached"):
        write_cache("asesjax_small_dsm", tmp_path)

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(seqio.utils, "dict_to_tfexample", fail)
    with pytest.raises(UserError, match="disk full"):
        write_cache("asesjax_small_usm", tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["asesjax_small_direct"]
