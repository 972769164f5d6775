"""The metrics file: what is kept, removed and refused when a run resumes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from asesjax.core.errors import UserError
from asesjax.core.metric_log import MetricLog, read_metrics


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
            log._file.close()
            log._file = open("/dev/full", "w")
            log.write("train", 1, loss=1.0)


def test_tensorboard_gets_the_numbers_and_purges_repeated_steps(tmp_path):
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import directory_check  # noqa: F401  (same package version)

    with MetricLog(tmp_path) as log:
        log.write("train", 7, loss=0.25)
    with MetricLog(tmp_path, resume_step=5) as log:
        log.write("train", 7, loss=0.125)
        log.sync()
    events = []
    for path in sorted((tmp_path / "tensorboard").iterdir(), key=lambda p: p.stat().st_mtime_ns):
        data, at = path.read_bytes(), 0
        while at < len(data):  # length (8), its checksum (4), the record, its checksum (4)
            size = int.from_bytes(data[at : at + 8], "little")
            events.append(Event.FromString(data[at + 12 : at + 12 + size]))
            at += size + 16
    losses = [
        (e.step, v.tag, v.simple_value) for e in events for v in e.summary.value
        if v.tag == "train/loss"
    ]
    assert losses == [(7, "train/loss", 0.25), (7, "train/loss", 0.125)]
    # START marks tell TensorBoard to drop what an earlier file says from that step on.
    assert 6 in [e.step for e in events if e.session_log.status == 1]
