"""Workdirs in buckets: what a machine finds there after another was stopped at any moment."""

import os
import random
import re
import shutil
import threading
import time

import fsspec
import pytest

from asesjax.core import buckets, mirror, store
from asesjax.core.errors import UserError
from asesjax.core.files import read_json, write_json, write_text
from asesjax.core.stages import Stage, run_stages

URL = "memory://bucket/run"


_BEAT, _PUBLISH_BESIDE = mirror.Mirror._beat, mirror.Mirror._publish_beside
_PATIENTLY = store.Store._patiently


class Killed(BaseException):
    """Stands for kill -9: from then on the process does nothing to its bucket."""


@pytest.fixture
def on(tmp_path, monkeypatch):
    """Return a function that continues as another process, on a machine of some name."""
    fsspec.filesystem("memory").store.clear()
    monkeypatch.setattr(mirror, "BEAT", 0.02)
    monkeypatch.setattr(mirror, "_DEAD", 0.05)
    monkeypatch.setattr(mirror, "_SETTLE", 0.0)
    monkeypatch.setattr(mirror.Mirror, "_beat", lambda self: None)
    monkeypatch.setattr(mirror.Mirror, "_publish_beside", lambda self: None)
    monkeypatch.setattr(buckets, "_open", {})
    calls = []

    def go(machine, dies_at=None):
        monkeypatch.setenv("ASESJAX_CACHE", str(tmp_path / machine))
        buckets._open.clear()
        calls.clear()

        def counted(self, do, patience=0.0):
            calls.append(do)
            if dies_at is not None and len(calls) >= dies_at:
                raise Killed
            return _PATIENTLY(self, do, patience)

        monkeypatch.setattr(store.Store, "_patiently", counted)
        return calls

    go("first")
    return go


def objects():
    """Return the names and contents of the bucket."""
    files = fsspec.filesystem("memory").store
    return {name.removeprefix("/bucket/run/"): file.getvalue() for name, file in files.items()}


def stages(workdir, value):
    """Three stages that write a value; the second has checkpoints, of which the last is kept."""

    def data():
        write_text(workdir / "data/train.txt", f"data {value}")

    def train():
        folder = workdir / "roles/usm/main/checkpoints"
        there = [int(path.name[5:]) for path in folder.glob("step_*")]
        for step in range(max(there, default=0), 3):
            for old in (folder / f"step_{n}" for n in range(step)):
                shutil.rmtree(old, ignore_errors=True)
            buckets.publish()
            if step < 2:
                for name in ("params/x", "params/y", "files.json"):
                    write_text(folder / f"step_{step + 1}/{name}", f"{value} {step + 1}")
            assert all(path.read_text()[0] == value
                       for path in folder.rglob("*") if path.is_file())  # fmt: skip
            buckets.publish()
        assert (workdir / "data/train.txt").read_text() == f"data {value}"
        write_text(workdir / "roles/usm/main/result.json", value)

    def report():
        write_text(workdir / "report.md", (workdir / "roles/usm/main/result.json").read_text())

    fields = {"value": value}
    return [Stage("data", data, fields, outputs=("data",)),
            Stage("train", train, fields, ("data",), ("roles",)),
            Stage("report", report, fields, ("train",), ("report.md",))]  # fmt: skip


def job(value="a", redo=False):
    workdir = buckets.workdir(URL)
    with buckets.owned(workdir):
        run_stages(stages(workdir, value), workdir, redo, lambda line: None)


def results():
    found = {name: content for name, content in objects().items() if "superseded" not in name}
    return {name: content for name, content in found.items() if not name.startswith("stages/")}


def test_another_machine_finds_all_and_works_no_more(on):
    job()
    assert sorted(objects()) == [
        "data/train.txt", "report.md", "roles/usm/main/checkpoints/step_2/files.json",
        "roles/usm/main/checkpoints/step_2/params/x", "roles/usm/main/checkpoints/step_2/params/y",
        "roles/usm/main/result.json", "stages/data.json", "stages/report.json", "stages/train.json",
    ]  # fmt: skip
    before = objects()
    on("second")
    workdir = buckets.workdir(URL)
    with buckets.owned(workdir):
        assert run_stages(stages(workdir, "a"), workdir, say=lambda line: None) == []
    assert objects() == before
    assert buckets.address(workdir / "report.md") == f"{URL}/report.md"
    assert buckets.mirrored(workdir / "roles") and not buckets.mirrored(workdir.parent.parent)


@pytest.mark.parametrize("then", ["first", "second"])
def test_a_kill_at_any_call_of_the_store_changes_nothing(on, then):
    calls = on("whole")
    job()
    whole, n_calls = results(), len(calls)
    assert n_calls > 20
    for moment in range(1, n_calls + 1):
        fsspec.filesystem("memory").store.clear()
        on(f"first-{moment}", dies_at=moment)
        with pytest.raises(Killed):
            job()
        on(f"{then}-{moment}")
        job()
        assert results() == whole, moment
        assert read_json(buckets.workdir(URL) / "stages/report.json")["finished"]


@pytest.mark.parametrize("redo", [False, True])
def test_results_of_two_configurations_are_never_mixed(on, redo):
    job("b")
    wanted = results()
    calls = on("whole")
    fsspec.filesystem("memory").store.clear()
    job("a")
    n_calls = len(calls)
    for moment in range(1, n_calls + 1, 3):
        fsspec.filesystem("memory").store.clear()
        on(f"first-{moment}", dies_at=moment)
        with pytest.raises(Killed):
            job("a")
        on(f"second-{moment}")
        try:
            job("b", redo)
        except UserError as error:
            assert "--redo" in str(error) and not redo
        else:
            assert results() == wanted, moment


def test_a_kill_while_old_outputs_move_aside_changes_nothing(on):
    def begun():
        fsspec.filesystem("memory").store.clear()
        on("before")
        job("a")

    begun()
    calls = on("whole")
    job("b", redo=True)
    wanted, n_calls = results(), len(calls)
    for moment in range(1, n_calls + 1, 4):
        begun()
        on(f"first-{moment}", dies_at=moment)
        with pytest.raises(Killed):
            job("b", redo=True)
        on(f"second-{moment}")
        job("b", redo=True)
        assert results() == wanted, moment
        assert any(content == b"data a" for content in objects().values())  # moved, not lost


def test_a_store_that_fails_often_loses_nothing(on, monkeypatch):
    """Every other call fails, with the many exceptions that stores have."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    rng = random.Random(3)
    put, pipe, find = (getattr(fsspec.implementations.memory.MemoryFileSystem, name)
                       for name in ("put_file", "pipe_file", "find"))  # fmt: skip

    def failing(do):
        def once(*args, **options):
            if rng.random() < 0.5:
                raise rng.choice([OSError(5, "slow down"), TimeoutError(), ValueError("503")])
            return do(*args, **options)

        return once

    for name, do in (("put_file", put), ("pipe_file", pipe), ("find", find)):
        monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, name, failing(do))
    monkeypatch.setattr(store.Store, "_patiently", _PATIENTLY)
    job()
    assert results()["report.md"] == b"a"


def test_a_slow_store_changes_nothing_and_its_owner_is_seen_to_live(on, monkeypatch):
    """Each call takes longer than there are between signs of life; another process tries."""
    monkeypatch.setattr(mirror.Mirror, "_beat", _BEAT)
    monkeypatch.setattr(mirror.Mirror, "_publish_beside", _PUBLISH_BESIDE)
    monkeypatch.setattr(mirror, "_DEAD", 5.0)
    job()
    wanted = results()
    fsspec.filesystem("memory").store.clear()
    on("another")
    rival = mirror.Mirror(URL)
    on("slow")
    rng, refused = random.Random(7), []

    def slowly(self, do, patience=0.0):
        time.sleep(rng.uniform(0.0, 3 * mirror.BEAT))
        return _PATIENTLY(self, do, patience)

    def another():
        try:
            with rival.owning(".", False):
                pass
        except UserError as error:
            refused.append(str(error))

    monkeypatch.setattr(store.Store, "_patiently", slowly)
    other, workdir = threading.Thread(target=another), buckets.workdir(URL)
    with buckets.owned(workdir):
        other.start()
        run_stages(stages(workdir, "a"), workdir, say=lambda line: None)
        other.join()
    assert results() == wanted
    assert len(refused) == 1 and "another run is using workdir memory:" in refused[0]


def test_a_store_that_stays_away_is_named_and_what_was_done_is_kept(on, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(mirror, "PATIENCE", 0.0)
    monkeypatch.setattr(mirror, "FIRST", 0.0)
    memory = fsspec.implementations.memory.MemoryFileSystem
    put = memory.put_file

    def away(*args, **options):
        if objects().get("stages/data.json", b"").find(b'"finished": true') >= 0:
            raise ConnectionError("no route to host")
        return put(*args, **options)

    monkeypatch.setattr(memory, "put_file", away)
    monkeypatch.setattr(store.Store, "_patiently", lambda self, do, patience=0.0:
                        _PATIENTLY(self, do, 0.0))  # fmt: skip
    with pytest.raises(UserError, match=r"memory://bucket/run.*ConnectionError: no route to host"):
        job()
    monkeypatch.setattr(memory, "put_file", put)
    buckets._open.clear()
    workdir = buckets.workdir(URL)
    with buckets.owned(workdir):
        ran = run_stages(stages(workdir, "a"), workdir, say=lambda line: None)
    assert ran == ["train", "report"]


def test_a_run_that_lives_keeps_others_out(on, monkeypatch):
    workdir = buckets.workdir(URL)
    with buckets.owned(workdir):
        own = next(iter(buckets._open.values()))
        on("second")
        monkeypatch.setattr(mirror.Mirror, "_lives", lambda self, path, before: True)
        other = buckets.workdir(URL)
        with pytest.raises(UserError, match=r"another run is using workdir memory:.*process \d+"):
            with buckets.owned(other):
                pass
        monkeypatch.setattr(mirror.Mirror, "_lives", lambda self, path, before: False)
        with buckets.owned(other):  # its owner is taken for dead, and learns it
            own._lost = own.store.read(".lock")["owner"]
            with pytest.raises(UserError, match="has taken over memory:"):
                own.publish()
            own._lost = ""


def test_the_lock_shows_that_its_owner_lives(on, monkeypatch):
    monkeypatch.setattr(mirror.Mirror, "_beat", _BEAT)
    monkeypatch.setattr(mirror.Mirror, "_publish_beside", _PUBLISH_BESIDE)
    workdir = buckets.workdir(URL)
    with buckets.owned(workdir):
        write_text(workdir / "log.txt", "1")
        end = time.monotonic() + 20
        while b'"beat": 3' not in objects()[".lock"] or "log.txt" not in objects():
            assert time.monotonic() < end
            time.sleep(0.01)
        write_json(workdir / "stages/x.json", {})  # left to the main thread
        (own,) = buckets._open.values()
        own.store.write(".lock", {"owner": "another", "token": "x"})
        while not own._lost:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert "stages/x.json" not in objects()
        own._lost = ""


def test_inputs(on, tmp_path):
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/data/train.jsonl", b"{}")
    memory.pipe_file("/data/test.jsonl", b"{}")
    assert buckets.local("memory://data/train.jsonl").read_text() == "{}"
    assert sorted(p.name for p in buckets.local("memory://data").iterdir()) == [
        "test.jsonl", "train.jsonl",
    ]  # fmt: skip
    split = buckets.local("memory://data/{split}.jsonl")
    assert split.name == "{split}.jsonl" and (split.parent / "test.jsonl").exists()
    assert buckets.local(tmp_path) == tmp_path
    with pytest.raises(UserError, match="memory://data/absent does not exist"):
        buckets.local("memory://data/absent")
    with pytest.raises(UserError, match="asesjax\\[buckets\\]"):
        buckets.local("nosuch://data/absent")


def test_several_processes_take_what_the_first_writes(on):
    workdir = buckets.workdir(URL)
    with buckets.owned(workdir):
        write_json(workdir / "a/b.json", {})
        write_text(workdir / "c.txt", "1")
        first = dict(buckets._open)
        buckets.publish()
        changed = buckets.changes()
        assert changed[URL][1] == ["a/b.json", "c.txt"]
        # Another process of this machine has the files of the first, which may be newer.
        write_text(workdir / "c.txt", "not published")
        on("first")
        buckets.take(changed)
        assert (workdir / "c.txt").read_text() == "not published"
        on("second")
        other = buckets.workdir(URL)
        (workdir / "a/b.json").unlink()
        write_text(workdir / "c.txt", "2")
        for one in first.values():
            one.publish()
            changed = {URL: one.told()}
        buckets.take(changed)
        assert (other / "c.txt").read_text() == "2" and not (other / "a").exists()


def test_what_is_taken_and_was_removed_meanwhile_makes_no_folder(on, monkeypatch):
    """Not for a moment: it would be taken for a damaged checkpoint."""
    names = [f"checkpoints/step_1/{part}/d/{i}" for part in ("params", "cursor") for i in range(9)]
    folder = buckets.workdir(URL)
    made, mkdir = [], os.mkdir
    monkeypatch.setattr(os, "mkdir", lambda path, *mode: (mkdir(path, *mode), made.append(path)))
    buckets.take({URL: [["token"], names]})
    assert made == [] and list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("s3:/runs/x", "s3:/runs/x is no address; did you mean s3://runs/x"),
        ("gs:/x", "did you mean gs://x"),
        ("https://host/x", "is no address of a bucket"),
        ("s3://", "names no folder in a bucket"),
        ("s3://runs/", "s3://runs/ names no folder in a bucket; give one, such as s3://runs/NAME"),
    ],
)
def test_addresses_that_are_none_are_refused(address, words):
    with pytest.raises(UserError, match=re.escape(words)):
        buckets.workdir(address)


def test_messages_have_the_address(on):
    folder = buckets.workdir(URL)
    assert buckets.named(f"look at {folder}/report.md") == f"look at {URL}/report.md"
