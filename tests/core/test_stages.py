import pytest

from asesjax.core.errors import UserError
from asesjax.core.files import read_json
from asesjax.core.stages import Stage, in_order, run_stages

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


def test_a_changed_field_is_refused_and_named_before_anything_runs(tmp_path):
    log = []
    go(tmp_path, log)
    with pytest.raises(UserError) as error:
        go(tmp_path, log, CHANGED)
    text = str(error.value)
    assert "stage b: train.lr: 0.1 -> 0.2" in text
    assert "stage c: result of stage b" in text
    assert "stage a" not in text and log == ["a", "b", "c"]
    assert (tmp_path / "b" / "out").exists()


def test_redo_moves_old_outputs_aside(tmp_path):
    log = []
    go(tmp_path, log)
    go(tmp_path, log, CHANGED, redo=True)
    assert log == ["a", "b", "c", "b", "c"]
    assert (tmp_path / "superseded" / "b-1" / "b" / "out").exists()
    assert read_json(tmp_path / "stages" / "b.json")["fields"] == {"train.lr": 0.2}
    go(tmp_path, log, redo=True)
    assert (tmp_path / "superseded" / "b-2" / "b" / "out").exists()


def test_a_stage_that_only_started_is_refused_too(tmp_path):
    log = []
    with pytest.raises(RuntimeError):
        go(tmp_path, log, fail=("b",))
    with pytest.raises(UserError, match="train.lr"):
        go(tmp_path, log, CHANGED)


def stage(name, needs=(), **reads):
    return Stage(name, lambda: None, reads, needs)


def test_stages_are_ordered_by_their_needs_and_shared_ones_run_once():
    stages = [stage("c", ("b",)), stage("b", ("a",), x=1), stage("a"), stage("b", ("a",), x=1)]
    assert [each.name for each in in_order(stages)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "stages, words",
    [
        ([stage("a", x=1, y=2), stage("a", x=2, y=2)],
         "stage a is shared by rows that want different x; give these rows the same values"),
        ([stage("a", x=1), stage("a")], "stage a is shared by rows that want different x;"),
        ([stage("a", ("b",))], "stages a need b, which nothing provides"),
        ([stage("a", ("b",)), stage("b", ("a",))], "stages a, b need each other"),
    ],
)  # fmt: skip
def test_stages_that_cannot_be_ordered_are_refused_by_name(stages, words):
    with pytest.raises(UserError) as error:
        in_order(stages)
    assert words in str(error.value)
