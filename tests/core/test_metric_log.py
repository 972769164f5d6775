"""The metrics file: what is kept, removed and refused when a run resumes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from asesjax.core.errors import UserError
from asesjax.core.metric_log import MetricLog, read_metrics, truncate


def steps(folder):
    return [row["step"] for row in read_metrics(folder / "metrics.jsonl")]


def test_lines_after_the_restored_step_are_removed_and_nothing_else(tmp_path):
    with MetricLog(tmp_path) as log:
        for step in (10, 20, 30):
            log.write("train", step, loss=1.0 / step)
        log.write("validation", 30, validation_loss=2.0)
    before = read_metrics(tmp_path / "metrics.jsonl")
    with MetricLog(tmp_path, resume_step=20) as log:
        assert steps(tmp_path) == [10, 20]
        log.write("train", 30, loss=before[2]["loss"])
        log.write("validation", 30, validation_loss=2.0)
    assert read_metrics(tmp_path / "metrics.jsonl") == before
    assert read_metrics(tmp_path / "metrics.jsonl", "validation") == before[3:]


def test_a_fresh_start_removes_the_lines_of_an_earlier_run(tmp_path):
    for _ in range(2):
        with MetricLog(tmp_path) as log:
            log.write("train", 1, loss=1.0)
    assert steps(tmp_path) == [1]


@pytest.mark.parametrize("torn", ['{"kind": "train", "step": 3', '{"kind": "train", "step": 3}'])
def test_an_incomplete_last_line_is_removed(tmp_path, torn):
    with MetricLog(tmp_path) as log:
        log.write("train", 1, loss=1.0)
        log.write("train", 2, loss=1.0)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + torn.encode())
    with MetricLog(tmp_path, resume_step=9) as log:
        log.write("train", 4, loss=1.0)
    assert steps(tmp_path) == [1, 2, 4]


@pytest.mark.parametrize("bad", ["no json", "[1, 2]", '{"loss": 1}', "3"])
def test_a_bad_line_inside_is_named_and_the_file_kept(tmp_path, bad):
    path = tmp_path / "metrics.jsonl"
    text = '{"kind": "train", "step": 1}\n' + bad + '\n{"kind": "train", "step": 2}\n'
    path.write_text(text)
    with pytest.raises(UserError, match=r"metrics\.jsonl:2"):
        truncate(path, 1)
    assert path.read_text() == text


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
