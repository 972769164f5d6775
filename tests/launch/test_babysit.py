"""Babysit brings a run to its end through every story, and leaves no slice behind in any."""

import signal

import babysit
import fake_cloud
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import FakeShell

ARGUMENTS = [
    "--name", "pod", "--zone", "us-west4-a", "--topology", "v5e:4x4", "--bucket", "my-bucket",
]  # fmt: skip
RUN = ["--", "--config", "c.py", "--workdir", "gs://my-bucket/runs/x"]
LONG = ["running"] * 25  # steady at 30 seconds between looks


@pytest.fixture(autouse=True)
def bundle(tmp_path, monkeypatch):
    """A file to copy, which packing would make."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "asesjax.bundle").touch()
    monkeypatch.setattr(babysit.tempfile, "TemporaryDirectory", lambda: _Kept(folder))


class _Kept:
    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        return str(self.folder)

    def __exit__(self, *_):
        pass


def play(*flags, signal_at=(), number=signal.SIGTERM, run=RUN, **script):
    """Play a story; returns the exit status, the world at the end, and what was said."""
    shell = FakeShell(fake_cloud.new_world(**script), signal_at, number)
    status = babysit.main([*ARGUMENTS, *flags, *run], shell)
    return status, shell.world, "\n".join(shell.said)


def check(status, world, said):
    """What must hold at the end of every story."""
    assert not world["bad"], world["bad"]
    if status == babysit.LEFT_BEHIND:
        assert "MAY COST MONEY" in said and "queued-resources delete pod" in said
    else:
        assert not world["slices"] and not world["late"]
        assert "slice pod is gone" in said or not world["made"]


def test_a_run_without_trouble():
    lives = [["CREATING", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]]
    status, world, said = play("--spot", lives=lives, runs=[["running", "running", "exited 0"]])
    check(status, world, said)
    assert status == 0 and world["made"] == world["started"] == 1
    made = next(call for call in world["calls"] if "create" in call)
    assert "--spot" in made and "--accelerator-type=v5litepod-16" in made
    started = next(call for call in world["calls"] if "worker.sh start" in str(call))
    assert "my-bucket --config c.py --workdir gs://my-bucket/runs/x" in str(started)
    # Asked for once, deleted once, and looked at until it was gone.
    assert sum("delete" in call for call in world["calls"]) == 1
    assert sum("describe" in call for call in world["calls"][-4:]) == 4


def test_machines_at_once_without_a_queue():
    status, world, said = play(
        "--at-once", "--reserved", lives=[["CREATING", "READY"]], runs=[["exited 0"]]
    )
    check(status, world, said)
    assert status == 0 and not any("queued-resources" in call for call in world["calls"])
    assert "--reserved" in next(call for call in world["calls"] if "create" in call)


@pytest.mark.parametrize("queued", [True, False])
def test_a_preempted_slice_is_made_again_and_the_run_goes_on(queued):
    up, down = (["ACTIVE"], "SUSPENDED") if queued else (["READY"], "PREEMPTED")
    lives = [[*up * 27, down], [*up * 30, down], up]
    runs = [LONG + ["exited 42"], LONG + ["running"], ["running", "exited 0"]]
    status, world, said = play(*["--at-once"] * (not queued), lives=lives, runs=runs)
    check(status, world, said)
    assert status == 0 and world["made"] == 3
    workdirs = [str(c).rpartition("--workdir")[2] for c in world["calls"] if "start" in str(c)]
    assert len(set(workdirs)) == 1 and len(workdirs) >= 3


def test_a_slice_whose_machines_are_gone_before_its_request_says_so():
    lives = [["ACTIVE"] * 4 + ["ACTIVE/PREEMPTED"], ["ACTIVE"] * 4 + ["ACTIVE/none"], ["ACTIVE"]]
    runs = [["running"], ["running"], ["exited 0"]]
    status, world, said = play(lives=lives, runs=runs)
    check(status, world, said)
    assert status == 0 and world["made"] == 3


def test_machines_left_without_their_request_are_deleted():
    status, world, said = play(lives=[["ACTIVE", "orphan"], ["ACTIVE"]])
    check(status, world, said)
    assert status == 0


def test_a_run_that_was_stopped_goes_on_on_the_same_slice():
    runs = [LONG + ["exited 42"], ["running", "exited 0"]]
    status, world, said = play(runs=runs)
    check(status, world, said)
    assert status == 0 and world["made"] == 1 and world["started"] == 2


@pytest.mark.parametrize("outcome", ["quota", "capacity", "hang-lost", "hang-made"])
def test_a_request_that_fails_is_made_again_later_and_later(outcome):
    status, world, said = play(creates=[outcome] * 4, runs=[["exited 0"]])
    check(status, world, said)
    assert status == 0
    pauses = [float(line.split()[3]) for line in said.split("\n") if "going on in" in line]
    assert pauses == ([] if outcome == "hang-made" else [30.0, 60.0, 120.0, 240.0])


@pytest.mark.parametrize("outcome", ["quota", "capacity", "hang-lost"])
def test_requests_that_fail_for_ever_are_given_up(outcome):
    status, world, said = play("--tries", "5", creates=[outcome] * 50)
    check(status, world, said)
    assert status == 1 and "making the slice: 6 failures" in said


def test_no_permission_is_told_at_once():
    status, world, said = play(creates=["denied"])
    check(status, world, said)
    assert status == 2 and "PERMISSION_DENIED" in said
    assert sum("create" in call for call in world["calls"]) == 1


def test_a_mistake_in_the_run_ends_it_with_its_output():
    status, world, said = play(runs=[["running", "exited 2"]])
    check(status, world, said)
    assert status == 2 and "the end of the output" in said and world["started"] == 1


@pytest.mark.parametrize("code", [1, 42, 134])
def test_a_run_that_ends_again_and_again_is_given_up(code):
    status, world, said = play("--tries", "4", runs=[["running", f"exited {code}"]] * 50)
    check(status, world, said)
    assert status == 1 and f"the run ended with status {code}: 5 failures" in said


def test_a_run_that_crashes_now_and_then_is_not_given_up():
    runs = [LONG + ["exited 1"]] * 20 + [["exited 0"]]
    status, world, said = play("--tries", "3", runs=runs)
    check(status, world, said)
    assert status == 0 and world["started"] == 21 and world["made"] == 1


def test_machines_that_cannot_be_set_up_are_given_back():
    status, world, said = play(setups=["fail", "hang", "fail"], runs=[["exited 0"]])
    check(status, world, said)
    assert status == 0 and world["made"] == 2


def test_a_request_that_failed_is_made_again():
    lives = [["WAITING_FOR_RESOURCES", "FAILED"], ["ACTIVE"]]
    status, world, said = play(lives=lives)
    check(status, world, said)
    assert status == 0 and world["made"] == 2


def test_gcloud_that_does_not_answer_for_a_while_ends_nothing():
    looks = ["ok"] * 6 + ["fail", "hang", "fail"] + ["ok"] * 4 + ["fail"]
    runs = [["running", "broken", "running", "running", "exited 0"]]
    status, world, said = play(looks=looks, runs=runs)
    check(status, world, said)
    assert status == 0 and world["started"] == 1


def test_deleting_that_fails_is_tried_again():
    status, world, said = play(deletes=["fail", "slow"], looks=["ok"] * 8 + ["hang", "fail"])
    check(status, world, said)
    assert status == 0


def test_a_delete_that_hangs_may_have_worked():
    status, world, said = play(deletes=["hang"])
    check(status, world, said)
    assert status == 0


def test_a_slice_that_cannot_be_deleted_is_shouted_about():
    status, world, said = play(deletes=["fail"] * 100)
    assert status == babysit.LEFT_BEHIND and world["slices"]
    check(status, world, said)
    assert "$ gcloud" not in said.rpartition("MAY COST MONEY")[2]
    assert "gcloud compute tpus tpu-vm delete pod --zone=us-west4-a" in said.split("COST")[1]


def test_a_run_that_is_found_running_is_only_watched():
    run = babysit.hashlib.sha256(babysit.shlex.join(RUN[1:]).encode()).hexdigest()[:12]
    there = {"queued": True, "life": ["ACTIVE"], "kind": "v5litepod-16",
             "run": [run, ["running", "exited 0"]]}  # fmt: skip
    status, world, said = play(slices={"pod": there})
    check(status, world, said)
    assert status == 0 and world["made"] == world["started"] == 0


def test_another_run_on_the_slice_is_not_taken_for_ours():
    there = {"queued": True, "life": ["ACTIVE"], "kind": "v5litepod-16",
             "run": ["other", ["exited 0"]]}  # fmt: skip
    status, world, said = play(slices={"pod": there}, runs=[["exited 0"]])
    check(status, world, said)
    assert status == 0 and world["started"] == 1


@pytest.mark.parametrize("bucket, message", [
    ("False", "has no hierarchical namespace"), ("", "has no hierarchical"), (None, "NOT_FOUND"),
])  # fmt: skip
def test_a_bucket_that_will_not_do_costs_nothing(bucket, message):
    status, world, said = play(bucket=bucket)
    assert status == 2 and message in said and not world["made"]


@pytest.mark.parametrize("flags, run, message", [
    (["--topology", "v5e:3x3"], RUN, "there is no slice 'v5e:3x3'"),
    (["--name", "Pod"], RUN, "--name 'Pod'"),
    (["--bucket", "gs://b"], RUN, "--workdir gs://gs://b/FOLDER"),
    ([], [], "--workdir gs://my-bucket/FOLDER"),
    ([], ["--", "--workdir", "runs/x"], "which outlives the slice"),
    ([], ["--", "--workdir=gs://my-bucket/x", "--config.data.path=gs://other/d"], "gs://my-bucket"),
    (["--poll", "0"], RUN, "--poll must be above 0"),
    ([], [*RUN, "--coordinator", "auto"], "add --coordinator auto themselves"),
])  # fmt: skip
def test_mistakes_are_told_before_anything_is_made(flags, run, message):
    status, world, said = play(*flags, run=run)
    assert status == 2 and message in said and not world["made"] and not world["bad"]


def test_spot_and_reserved_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        play("--spot", "--reserved")
    assert "not allowed with" in capsys.readouterr().err


def test_ctrl_c_lets_the_run_save():
    for moment in range(1, 60):
        runs = [["running"] * 99]
        status, world, said = play(signal_at=[moment], number=signal.SIGINT, runs=runs)
        check(status, world, said)
        asked = any("worker.sh stop" in str(call) for call in world["calls"])
        if status == 130 and "run " in said and ": running" in said:
            assert asked
    assert asked and status == 130


@pytest.mark.parametrize("number, again", [(signal.SIGTERM, 0), (signal.SIGHUP, 1),
                                           (signal.SIGINT, 2), (signal.SIGTERM, 6)])  # fmt: skip
def test_a_signal_at_any_moment_leaves_nothing(number, again):
    """During every single command and pause of a life with all states in it, and a second one."""
    statuses = []
    for moment in range(1, 200):
        status, world, said = play(
            signal_at=[moment, moment + again], number=number, creates=["quota", "ok"],
            lives=[["WAITING_FOR_RESOURCES", "PROVISIONING", *["ACTIVE"] * 9, "SUSPENDING",
                    "SUSPENDED"], ["ACTIVE"]],
            setups=["fail"], runs=[["running", "running", "exited 42"], ["running", "exited 0"]],
            deletes=["fail", "slow", "hang"], looks=["ok"] * 12 + ["hang"],
        )  # fmt: skip
        check(status, world, said)
        statuses.append(status)
        if moment > 60 and status == 0:
            break
    # It came too late at last, and before that it was always heeded.
    assert statuses[-1] == 0 and statuses.count(128 + number) > 30
    assert set(statuses) == {0, 128 + number}


def outcomes(*names):
    return st.lists(st.sampled_from(names), max_size=6)


@settings(max_examples=200, deadline=None)
@given(
    queued=st.booleans(),
    creates=outcomes("ok", "quota", "capacity", "denied", "hang-made", "hang-lost",
                     "hang-late"),
    lives=st.lists(
        st.lists(st.sampled_from(["CREATING", "PROVISIONING", "ACTIVE", "ACTIVE/PREEMPTED",
                                  "ACTIVE/none", "SUSPENDING", "SUSPENDED", "FAILED", "orphan",
                                  "NEW_STATE"]), min_size=1, max_size=8), max_size=5),
    setups=outcomes("ok", "fail", "hang"),
    runs=st.lists(st.lists(st.sampled_from(["running", "none", "broken", "exited 0", "exited 1",
                                            "exited 2", "exited 42", "exited 134"]),
                           min_size=1, max_size=30), max_size=8),
    looks=st.lists(st.sampled_from(["ok", "fail", "hang"]), max_size=12),
    deletes=outcomes("ok", "fail", "hang", "slow"),
    signal_at=st.lists(st.integers(1, 150), max_size=3),
)  # fmt: skip
def test_no_story_leaves_a_slice_behind(queued, creates, lives, setups, runs, looks, deletes,
                                        signal_at):  # fmt: skip
    # No story may end in states that a slice never leaves, but those in which it can be used.
    lives = [[*life, "ACTIVE"] for life in lives]
    if not queued:
        node = {"ACTIVE": "READY", "SUSPENDED": "PREEMPTED", "FAILED": "TERMINATED",
                "SUSPENDING": "STOPPING", "orphan": "HIDDEN"}  # fmt: skip
        lives = [[node.get(state.partition("/")[0], state) for state in life] for life in lives]
    runs = [[*run, "exited 0"] for run in runs]
    status, world, said = play(
        *["--at-once"] * (not queued), creates=creates, lives=lives, setups=setups, runs=runs,
        looks=looks, deletes=deletes, signal_at=signal_at,
    )  # fmt: skip
    check(status, world, said)
    assert status in (0, 1, 2, 143), said
