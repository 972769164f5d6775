import pytest

from asesjax.core.errors import UserError
from asesjax.core.files import read_json
from asesjax.core.stages import Stage, run_stages


def make(tmp_path, log, fail=()):
    def stage(name, fields, needs=()):
        def run():
            log.append(name)
            if name in fail:
                raise RuntimeError(name)
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "out").write_text("x")

        return Stage(name, run, fields, needs, outputs=(name,))

    return [stage("a", ("data",)), stage("b", ("train.lr",), ("a",)), stage("c", ("eval",), ("b",))]


FIELDS = {"data.n": 1, "train.lr": 0.1, "train.other": 5, "eval.x": (1, 2)}


def go(tmp_path, log, fields=FIELDS, redo=False, fail=()):
    lines = []
    run_stages(make(tmp_path, log, fail), fields, tmp_path, redo, lines.append)
    return lines


def test_finished_stages_are_kept(tmp_path):
    log = []
    go(tmp_path, log)
    assert log == ["a", "b", "c"]
    lines = go(tmp_path, log)
    assert log == ["a", "b", "c"]
    assert all("kept" in line for line in lines)


def test_a_failed_stage_goes_on_and_later_ones_follow(tmp_path):
    log = []
    with pytest.raises(RuntimeError):
        go(tmp_path, log, fail=("b",))
    lines = go(tmp_path, log)
    assert log == ["a", "b", "b", "c"]
    assert any("[b] goes on" in line for line in lines)


def test_a_field_nobody_reads_changes_nothing(tmp_path):
    log = []
    go(tmp_path, log)
    go(tmp_path, log, FIELDS | {"train.other": 6})
    assert log == ["a", "b", "c"]


def test_a_changed_field_is_refused_and_named_before_anything_runs(tmp_path):
    log = []
    go(tmp_path, log)
    with pytest.raises(UserError) as error:
        go(tmp_path, log, FIELDS | {"train.lr": 0.2})
    text = str(error.value)
    assert "stage b: train.lr: 0.1 -> 0.2" in text
    assert "stage c: result of stage b" in text
    assert "stage a" not in text and log == ["a", "b", "c"]
    assert (tmp_path / "b" / "out").exists()


def test_redo_moves_old_outputs_aside(tmp_path):
    log = []
    go(tmp_path, log)
    go(tmp_path, log, FIELDS | {"train.lr": 0.2}, redo=True)
    assert log == ["a", "b", "c", "b", "c"]
    assert (tmp_path / "superseded" / "b-1" / "b" / "out").exists()
    assert read_json(tmp_path / "stages" / "b.json")["fields"] == {"train.lr": 0.2}
    go(tmp_path, log, FIELDS, redo=True)
    assert (tmp_path / "superseded" / "b-2" / "b" / "out").exists()


def test_a_stage_that_only_started_is_refused_too(tmp_path):
    log = []
    with pytest.raises(RuntimeError):
        go(tmp_path, log, fail=("b",))
    with pytest.raises(UserError, match="train.lr"):
        go(tmp_path, log, FIELDS | {"train.lr": 0.2})
