from pathlib import Path

import pytest

from asesjax.core.errors import UserError
from asesjax.core.files import check_output
from asesjax.core.stages import Stage, builds_on, check_stages, in_order, run_stages

VALUES = {"a": {"data.n": 1}, "b": {"train.lr": 0.1}, "c": {"eval.x": (1, 2)}}
CHANGED = VALUES | {"b": {"train.lr": 0.2}}


def go(
    tmp_path, log, values=VALUES, redo=False, fail=(), late=(), error=RuntimeError, shared=None
):  # fmt: skip
    """Run a, then b, then c, each with the fields it reads; return the lines that were said."""

    def stage(name, needs=()):
        def run():
            log.append(name)
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
            if name in fail:
                raise error(name)
            (tmp_path / name / "out").write_text("x")
            if name in late:
                raise error(name)

        return Stage(name, run, values[name], needs, outputs=(name,))

    lines, accepted, start = [], [], len(log)
    stages = [stage("a"), stage("b", ("a",)), stage("c", ("b",))]
    before = lambda: accepted.append(len(log))  # noqa: E731
    run_stages(stages, tmp_path, redo, lines.append, before, shared)
    assert accepted == [start]
    return lines


def test_finished_stages_are_kept(tmp_path):
    log = []
    go(tmp_path, log)
    assert log == ["a", "b", "c"]
    lines = go(tmp_path, log)
    assert log == ["a", "b", "c"]
    assert all("kept" in line for line in lines)


def test_what_another_run_finished_with_the_same_fields_is_taken_unless_changed(tmp_path):
    log, one = [], tmp_path / "one"
    go(one, log, shared=tmp_path)
    (one / "a/tensorboard").mkdir()
    (one / "a/tensorboard/events").write_text("of that run alone")
    lines = go(tmp_path / "more/two", log, CHANGED, shared=tmp_path)
    assert log == ["a", "b", "c", "b", "c"] and lines[0] == f"[a] taken from {one}"
    assert [path.name for path in (tmp_path / "more/two/a").iterdir()] == ["out"]
    lines = go(tmp_path / "more/two", log, CHANGED, shared=tmp_path)
    assert all("kept" in line for line in lines)
    for damaged in (one, tmp_path / "more/two"):
        (damaged / "a/out").unlink()  # the other's link stays
        (damaged / "a/out").write_text("changed")
    go(tmp_path / "three", log, shared=tmp_path)
    assert log[5:] == ["a"]


def test_a_failed_stage_resumes_and_later_ones_follow(tmp_path):
    log = []
    with pytest.raises(RuntimeError):
        go(tmp_path, log, late=("b",))
    lines = go(tmp_path, log)
    assert log == ["a", "b", "b", "c"]
    assert any("[b] resumes" in line for line in lines)


@pytest.mark.parametrize("error", [UserError, OSError, KeyboardInterrupt])
def test_a_stage_that_was_stopped_before_it_wrote_anything_is_no_result(tmp_path, error):
    log = []
    with pytest.raises(error, match="b"):
        go(tmp_path, log, fail=("b",), error=error)
    go(tmp_path, log, CHANGED)  # the corrected command needs no redo
    assert log == ["a", "b", "b", "c"]


@pytest.mark.parametrize("left, needs_redo", [("out", False), ("main/checkpoints/step_2/x", True)])
def test_what_a_stage_without_a_checkpoint_left_is_moved_aside_unasked(tmp_path, left, needs_redo):
    def stage(work, **fields):
        return Stage("b", work, fields, outputs=("b",))

    def fails():
        (tmp_path / "b" / left).parent.mkdir(parents=True)
        (tmp_path / "b" / left).write_text("half")
        raise UserError("wrong")

    with pytest.raises(UserError, match="wrong"):
        run_stages([stage(fails, rate=1)], tmp_path)
    if needs_redo:
        for call in (run_stages, check_stages):
            with pytest.raises(UserError, match="stage b: rate: 1 -> 2"):
                call([stage(print, rate=2)], tmp_path)
        return
    check_stages([stage(print, rate=2)], tmp_path)
    assert (tmp_path / "b" / left).exists()
    assert run_stages([stage(print, rate=2)], tmp_path) == ["b"]
    assert not (tmp_path / "b").exists() and (tmp_path / "superseded/b-1/b" / left).exists()


def swapped(path):
    path.write_text("y")


def replaced(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("change", [Path.unlink, swapped, replaced, lambda p: p.write_text("xx")])
@pytest.mark.parametrize("name", ["b/out", "stages/b.json"])
def test_a_changed_output_is_named_and_made_anew_on_request(tmp_path, change, name):
    log = []
    go(tmp_path, log)
    change(tmp_path / name)
    if (tmp_path / name).exists() or name == "b/out":
        with pytest.raises(UserError, match=f"(?s)stage b: .*{name}.*--redo") as caught:
            go(tmp_path, log)
        assert "stage a:" not in str(caught.value) and "stage c:" not in str(caught.value)
        if name == "b/out":
            with pytest.raises(UserError, match="stage b wrote it.*asesjax run .*--redo"):
                check_output(tmp_path / "b")
        assert log == ["a", "b", "c"]
    go(tmp_path, log, redo=True)
    assert log == ["a", "b", "c", "b"]
    assert (tmp_path / "b/out").read_text() == "x"
    check_output(tmp_path / "b")


def test_what_is_large_is_asked_for_where_a_stage_that_reads_it_will_run(tmp_path):
    log, whole = [], [False]

    def stage(name, needs=(), **more):
        return Stage(name, lambda: log.append(name), VALUES[name], needs, **more)

    a, b = stage("a", whole=lambda: whole[0]), stage("b", ("a",))
    run_stages([a], tmp_path)
    run_stages([a], tmp_path)
    assert log == ["a"]
    run_stages([a, b], tmp_path)
    assert log == ["a", "a", "b"]


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


def test_a_redo_that_was_stopped_is_told(tmp_path):
    log = []
    go(tmp_path, log)
    with pytest.raises(RuntimeError):
        go(tmp_path, log, CHANGED, redo=True, late=("b",))
    with pytest.raises(UserError, match="(?s)stage c: .*; stage b is not finished: repeat --redo"):
        go(tmp_path, log, CHANGED)
    go(tmp_path, log, CHANGED, redo=True)
    assert log == ["a", "b", "c", "b", "b", "c"]
