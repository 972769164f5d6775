"""Whole runs whose workdir, data and start lie in a bucket, in the store of a real server."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from shared.processes import ROOT, ended, free_port, run_in, spawn

from asesjax.core.errors import EXIT_LOST
from asesjax.core.files import read_record

pytestmark = pytest.mark.long

pytest.importorskip("moto")
s3fs = pytest.importorskip("s3fs")
RUN = ["--config", str(ROOT / "configs/smoke.py")]
FEW = ["--config.methods=direct,usm", "--config.train.save_every_steps=1"]
MANY = ["--config.methods=direct,usm,kpod,cwt,skip_thinking", "--config.kpod.weight_epochs=1.0",
        "--config.train.normalize=examples", "--config.chunk.chunking=search",
        "--config.vocab.extra_ids=12", "--config.train.save_every_steps=1"]  # fmt: skip
# Locks and rounds of publishing at a hundredth of their times.
QUICK = (
    "from asesjax.core import mirror\n"
    "mirror.BEAT, mirror._DEAD, mirror._SETTLE, mirror._SHARE = 0.2, 2.0, 0.1, 1.0\n"
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Start a server of S3 and return a client of it, with a bucket."""
    folder, port = tmp_path_factory.mktemp("store"), free_port()
    own = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any",
           "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_DEFAULT_REGION": "us-east-1",
           "ASESJAX_CACHE": str(folder / "cache")}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, open(folder / "log", "wb") as log:
        for name, value in own.items():
            patch.setenv(name, value)
        server = subprocess.Popen(
            [sys.executable, "-c", "import sys; from moto.server import main; main(sys.argv[1:])",
             "-H", "127.0.0.1", "-p", str(port)],
            stdout=log, stderr=log,
        )  # fmt: skip
        try:
            client = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
            for _ in range(5):  # each with the client's own attempts
                try:
                    client.mkdir("runs")
                    break
                except OSError:
                    time.sleep(1)
            yield client
        finally:
            server.kill()
            server.wait()


@pytest.fixture
def quick(tmp_path):
    """Return the option that loads ``QUICK``."""
    plugin = tmp_path / "quick.py"
    plugin.write_text(QUICK)
    return f"--config.plugins={plugin}"


def elsewhere():
    """Continue as if on another machine."""
    shutil.rmtree(os.environ["ASESJAX_CACHE"], ignore_errors=True)


def made(files):
    """Return what runs with the same fields write alike: all but times and logs."""
    folders = "data/", "corpus/", "vocab/", "scores/", "segments/", "chunks", "skip/", "kpod/"
    names = [name for name in files if name.startswith(folders) and "search.json" not in name
             or name.endswith("test.jsonl") or "/params/" in name and "/d/" in name]  # fmt: skip
    return {name: files[name] for name in names}


def in_bucket(client, folder):
    return made({path.removeprefix(f"runs/{folder}/"): client.cat_file(path)
                 for path in client.find(f"runs/{folder}")})  # fmt: skip


def in_folder(folder):
    return made({path.relative_to(folder).as_posix(): path.read_bytes()
                 for path in folder.rglob("*") if path.is_file()})  # fmt: skip


def chains(found):
    return {name: content for name, content in found.items() if name.startswith("predictions/")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return what a run in a folder writes."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    statuses, said = ended(run_in(1, *RUN, "--workdir", workdir, *FEW, devices=1))
    assert statuses == [0], said[0]
    return in_folder(workdir)


def asked(*arguments):
    (status,), (said,) = ended(spawn([["-m", "asesjax.cli.main", *arguments]]))
    return status, said


def killed(store, folder, options, n_kills, seconds, rng, processes=(1,)):
    """Kill a run so many times at random moments, each time on this machine or another."""
    arguments = [*RUN, "--workdir", f"s3://runs/{folder}", *options]
    run = lambda n: run_in(n, *arguments, devices=max(processes))  # noqa: E731
    for _ in range(n_kills):
        own = run(n := rng.choice(processes))
        time.sleep(rng.uniform(*seconds))
        own[rng.randrange(n)].send_signal(signal.SIGKILL)
        statuses, said = ended(own)
        assert set(statuses) <= {0, -signal.SIGKILL, EXIT_LOST}, "".join(said)
        if rng.random() < 0.5:
            elsewhere()
    statuses, said = ended(run(1))
    assert statuses == [0], said[0]
    return in_bucket(store, folder)


def test_a_killed_run_in_a_bucket_writes_what_one_in_a_folder_does(store, quick, whole, tmp_path):
    found = killed(store, "whole", [*FEW, quick], 2, (4, 16), random.Random(2))
    assert len(chains(whole)) == 2 and len(whole) > 40
    assert found.keys() >= {name for name in whole if "/d/" not in name}
    assert chains(found) == chains(whole)
    assert not store.exists("runs/whole/.lock")
    # Another machine finds all of it, and takes it as data, start and workdir.
    elsewhere()
    status, said = asked("run", "--workdir", "s3://runs/whole")
    assert status == 0 and "done in" not in said, said
    status, said = asked("run", *RUN, "--workdir", "s3://runs/next", "--config.methods=direct",
                         "--config.data.source=file",
                         "--config.data.path=s3://runs/whole/data/{split}.jsonl",
                         "--config.model.init_from=s3://runs/whole/roles/direct/main")
    assert status == 0, said
    elsewhere()
    status, said = asked("generate", "--workdir", "s3://runs/next", "--method", "direct",
                         "--input", "s3://runs/whole/data/test.jsonl",
                         "--output", str(tmp_path / "out.jsonl"))
    assert status == 0 and "16 answers" in said, said
    status, said = asked("generate", "--workdir", "s3://runs/next", "--method", "direct",
                         "--input", "s3://runs/whole/data/test.jsonl", "--output", "s3://runs/x")
    assert status == 2 and "--output s3://runs/x: only a workdir and inputs may" in said


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_kills_change_nothing(store, quick, tmp_path):
    statuses, said = ended(run_in(1, *RUN, "--workdir", tmp_path / "run", *MANY, devices=4))
    assert statuses == [0], said[0]
    found = killed(store, "killed20", [*MANY, quick], 20, (4, 40), random.Random(3), (1, 2, 4))
    whole = in_folder(tmp_path / "run")
    assert chains(found) == chains(whole)
    for name in ("scores/train.jsonl", "segments/train.jsonl", "skip/train.jsonl"):
        assert found[name] == whole[name]


def test_processes_without_a_folder_in_common(store, quick, tmp_path):
    """Each has a mirror of its own; process 0 writes checkpoints whose arrays lie on all."""
    sharded = ["--config.methods=start,direct", "--config.mesh.preset=fsdp", "--config.mesh.fsdp=2",
               "--config.mesh.data=1"]  # fmt: skip
    statuses, said = ended(run_in(2, *RUN, "--workdir", "s3://runs/two", *sharded, quick,
                                  devices=2))
    assert statuses == [0, 0], "".join(said)
    assert "predictions/direct/test.jsonl" in in_bucket(store, "two")
    record = store.cat_file("runs/two/stages/report.json")
    (tmp_path / "report.json").write_bytes(record)
    assert read_record(tmp_path / "report.json")["finished"]
    elsewhere()
    status, said = asked("run", "--workdir", "s3://runs/two")
    assert status == 0 and "done in" not in said, said
