import pytest

from asesjax.core.errors import UserError
from asesjax.core.stages import Stage, builds_on, in_order, run_stages

VALUES = {"a": {"data.n": 1}, "b": {"train.lr": 0.1}, "c": {"eval.x": (1, 2)}}
CHANGED = VALUES | {"b": {"train.lr": 0.2}}


def go(tmp_path, log, values=VALUES, redo=False, fail=(), error=RuntimeError):
    """Run a, then b, then c, each with the fields it reads; return the lines that were said."""

    def stage(name, needs=()):
        def run():
            log.append(name)
            if name in fail:
                raise error(name)
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "out").write_text("x")

        return Stage(name, run, values[name], needs, outputs=(name,))

    lines, accepted, start = [], [], len(log)
    stages = [stage("a"), stage("b", ("a",)), stage("c", ("b",))]
    run_stages(stages, tmp_path, redo, lines.append, before=lambda: accepted.append(len(log)))
    assert accepted == [start]
    return lines


def test_finished_stages_are_kept(tmp_path):
    log = []
    go(tmp_path, log)
    assert log == ["a", "b", "c"]
    lines = go(tmp_path, log)
    assert log == ["a", "b", "c"]
    assert all("kept" in line for line in lines)


def test_a_failed_stage_resumes_and_later_ones_follow(tmp_path):
    log = []
    with pytest.raises(RuntimeError):
        go(tmp_path, log, fail=("b",))
    lines = go(tmp_path, log)
    assert log == ["a", "b", "b", "c"]
    assert any("[b] resumes" in line for line in lines)


def test_a_stage_that_a_mistake_stopped_before_it_wrote_anything_is_no_result(tmp_path):
    log = []
    with pytest.raises(UserError, match="b"):
        go(tmp_path, log, fail=("b",), error=UserError)
    go(tmp_path, log, CHANGED)  # the corrected command needs no redo
    assert log == ["a", "b", "b", "c"]


def test_needs_of_a_shared_stage_add_up():
    stages = [Stage("x", print, {}, ("a",)), Stage("x", print, {}, ("b",)),
              Stage("b", print, {}), Stage("a", print, {})]  # fmt: skip
    assert [stage.name for stage in in_order(stages)] == ["b", "a", "x"]


def test_a_result_builds_on_what_its_own_way_there_needs():
    stages = [
        Stage("data", print, {}), Stage("start", print, {}, ("data",)),
        Stage("scorer", print, {}, ("start",)), Stage("score", print, {}, ("data", "scorer")),
        Stage("gold", print, {}, ("score",), without=("scorer",)),
        Stage("entropy", print, {}, ("score",)), Stage("other", print, {}, ("gold", "start")),
        Stage("both", print, {}, ("gold", "entropy")),
    ]  # fmt: skip
    found = {own.name: [one.name for one in builds_on(stages, own.name)] for own in stages}
    assert found["entropy"] == ["data", "start", "scorer", "score"]
    assert found["gold"] == ["data", "score"]
    assert found["other"] == ["data", "start", "score", "gold"]
    assert found["both"] == ["data", "start", "scorer", "score", "gold", "entropy"]
    assert found["data"] == []
