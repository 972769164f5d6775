"""The metrics file: what is kept, removed and refused when a run resumes."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from asesjax.config import base_config, finish
from asesjax.core.errors import UserError
from asesjax.core.metric_log import MetricLog, read_metrics
from asesjax.core.trackers import TRACKERS, check_trackers


def steps(folder):
    return [row["step"] for row in read_metrics(folder / "metrics.jsonl")]


def test_what_was_written_after_the_restored_checkpoint_is_removed(tmp_path):
    with MetricLog(tmp_path) as log:
        for step in (10, 20):
            log.write("train", step, loss=1.0 / step)
        written = log.sync()
        log.write("train", 30, loss=0.5)
        log.write("validation", 30, validation_loss=2.0)
    before = read_metrics(tmp_path / "metrics.jsonl")
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "st')  # a killed process tears the last line
    with MetricLog(tmp_path, 20, written) as log:
        assert steps(tmp_path) == [10, 20]
        log.write("train", 30, loss=0.5)
        log.write("validation", 30, validation_loss=2.0)
    assert read_metrics(tmp_path / "metrics.jsonl") == before
    assert read_metrics(tmp_path / "metrics.jsonl", "validation") == before[3:]


@pytest.mark.parametrize("change", [lambda text: text.replace("0.1", "0.2"), lambda text: text[:9]])
def test_changed_lines_are_set_aside_and_named(tmp_path, change):
    path, said = tmp_path / "metrics.jsonl", []
    with MetricLog(tmp_path) as log:
        log.write("train", 10, loss=0.1)
        written = log.sync()
    path.write_text(changed := change(path.read_text()))
    with MetricLog(tmp_path, 10, written, said.append) as log:
        log.write("train", 20, loss=0.1)
    assert steps(tmp_path) == [20] and len(said) == 1 and f"{path} is not as it was" in said[0]
    assert (tmp_path / "damaged_metrics.jsonl").read_text() == changed


def test_a_fresh_start_removes_the_lines_of_an_earlier_run(tmp_path):
    for _ in range(2):
        with MetricLog(tmp_path) as log:
            log.write("train", 1, loss=1.0)
    assert steps(tmp_path) == [1]


def test_lines_are_plain_json_whatever_goes_in(tmp_path):
    with MetricLog(tmp_path) as log:
        log.write("train", np.int64(5), loss=np.float32(0.5), bad=math.nan, worse=np.inf, n=3)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "kind": "train", "step": 5, "loss": 0.5, "bad": None, "worse": None, "n": 3
    }


def test_a_full_disk_is_reported_once(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(UserError, match=r"metrics.jsonl or the files beside it: No space left"):
        with MetricLog(tmp_path) as log:
            log._open["jsonl"]._file.close()
            log._open["jsonl"]._file = open("/dev/full", "w")
            log.write("train", 1, loss=1.0)


def events(folder):
    from tensorboardX.proto.event_pb2 import Event

    out = []
    for path in sorted((folder / "tensorboard").iterdir(), key=lambda p: p.stat().st_mtime_ns):
        data, at = path.read_bytes(), 0
        while at < len(data):  # length (8), its checksum (4), the record, its checksum (4)
            size = int.from_bytes(data[at : at + 8], "little")
            out.append(Event.FromString(data[at + 12 : at + 12 + size]))
            at += size + 16
    return out


def test_tensorboard_gets_the_numbers_and_purges_repeated_steps(tmp_path):
    with MetricLog(tmp_path) as log:
        log.write("train", 7, loss=0.25)
    with MetricLog(tmp_path, resume_step=5) as log:
        log.write("train", 7, loss=0.125)
        log.sync()
    found = events(tmp_path)
    losses = [
        (e.step, v.tag, v.simple_value) for e in found for v in e.summary.value
        if v.tag == "train/loss"
    ]
    assert losses == [(7, "train/loss", 0.25), (7, "train/loss", 0.125)]
    # START marks tell TensorBoard to drop what an earlier file says from that step on.
    assert 6 in [e.step for e in found if e.session_log.status == 1]


def test_tensorboard_gets_chains_as_text_and_the_configuration_with_the_scores(tmp_path):
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    fields = {"train.learning_rate": 0.5, "train.source_buckets": (8, 16)}
    with MetricLog(tmp_path, trackers=("tensorboard",), fields=fields) as log:
        log.write("samples", 3, sample_1="**q**\n\nchain \u4e2d")
        log.write("test", 4, accuracy=0.25)
    values = {v.tag: (e.step, v) for e in events(tmp_path) for v in e.summary.value}
    step, text = values["samples/sample_1/text_summary"]
    assert (step, text.tensor.string_val[0].decode()) == (3, "**q**\n\nchain \u4e2d")
    assert (values["test/accuracy"][0], values["test/accuracy"][1].simple_value) == (4, 0.25)
    _, start = values["_hparams_/session_start_info"]
    data = HParamsPluginData.FromString(start.metadata.plugin_data.content)
    told = data.session_start_info.hparams
    assert told["train.learning_rate"].number_value == 0.5
    assert told["train.source_buckets"].string_value == "8,16"
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("where", ["__init__", "write", "flush", "close"])
def test_a_tracker_that_fails_is_told_once_and_left_out(tmp_path, monkeypatch, where):
    class Fails:
        def __init__(self, place):
            self.asked("__init__")

        def asked(self, what):
            if what == where:
                raise RuntimeError(f"no {what}\nand more")

        write = lambda self, kind, step, values: self.asked("write")  # noqa: E731
        flush = lambda self: self.asked("flush")  # noqa: E731
        close = lambda self: self.asked("close")  # noqa: E731

    monkeypatch.setattr("asesjax.core.metric_log.TRACKERS", TRACKERS | {"fails": Fails})
    said = []
    with MetricLog(tmp_path, say=said.append, trackers=("fails", "jsonl")) as log:
        for step in (1, 2):
            log.write("train", step, loss=1.0)
            log.sync()
    assert steps(tmp_path) == [1, 2]
    assert len(said) == 1 and "warning: tracker fails failed" in said[0]
    assert said[0].endswith(f"RuntimeError: no {where}")


def test_a_resumed_role_goes_on_with_its_run_in_weights_and_biases(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    said, facts = [], {"name": "usm/main", "run": "runs/a", "fields": {"train.rate": 0.5}}
    for step in (0, 5):
        with MetricLog(tmp_path, step, say=said.append, trackers=("wandb",), **facts) as log:
            log.write("train", step + 1, loss=0.25)
            log.write("samples", step + 2, sample_1="a chain")
            log.write("test", step + 3, accuracy=0.5)
    own = (tmp_path / "wandb/id.txt").read_text()
    files = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert not said and [path.name for path in files] == [f"run-{own}.wandb"] * 2
    deadline = time.monotonic() + 30  # its own process writes, a moment later
    for path in files:
        for told in (b"train/loss", b"test/accuracy", b"usm/main", b"runs/a", b"train.rate"):
            while told not in path.read_bytes():
                assert time.monotonic() < deadline, told
                time.sleep(0.1)
    (table, _) = (tmp_path / "wandb").glob("offline-run-*/files/media/table/samples/*.json")
    assert json.loads(table.read_text())["data"] == [["sample_1", "a chain"]]


def test_a_tracker_without_its_package_is_refused(monkeypatch):
    monkeypatch.setattr("asesjax.core.trackers.find_spec", lambda name: None)
    check_trackers(["jsonl", "tensorboard"])
    with pytest.raises(UserError, match="wandb needs wandb, not installed here: pip install"):
        check_trackers(["jsonl", "wandb"])
    with pytest.raises(UserError, match="unknown log.trackers 'tensorbord'; did you mean"):
        finish(base_config(), {"log.trackers": "tensorbord"})


def test_tensorboard_needs_no_torch(tmp_path):
    """tensorboardX imports it where it is installed, which takes seconds."""
    for name in ("torch", "boto3"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('was imported')")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from asesjax.core.trackers import TRACKERS, Place\n"
        f"log = TRACKERS.get('tensorboard')(Place(Path({str(tmp_path)!r})))\n"
        "log.write('test', 1, {'accuracy': 1.0, 'chain': 'a'})\n"
        "log.close()\n"
        "print(sorted({'torch', 'boto3', 'google.cloud.storage'} & set(sys.modules)))\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(tmp_path)})  # fmt: skip
    assert said.stdout == "[]\n", said
