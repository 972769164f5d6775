"""Babysit finishes the run in every scenario, and leaves no slice behind in any."""

import contextlib
import signal

import babysit
import fake_cloud
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import FakeShell

ARGUMENTS = ["--name", "pod", "--zone", "us-west4-a", "--topology", "v5e:4x4"]
RUN = ["--", "--config", "c.py", "--workdir", "gs://my-bucket/runs/x"]
RUN_ID = babysit.hashlib.sha256(babysit.shlex.join(RUN[1:]).encode()).hexdigest()[:12]
LONG = ["running"] * 25  # steady at 30 seconds between checks


@pytest.fixture(autouse=True)
def bundle(tmp_path, monkeypatch):
    """The file to copy, which packing would make."""
    (tmp_path / "asesjax.bundle").touch()
    folder = lambda make: contextlib.nullcontext(str(tmp_path))  # noqa: E731
    monkeypatch.setattr(babysit.steps, "temporary", folder)


def play(*flags, signal_at=(), number=signal.SIGTERM, run=RUN, **script):
    """Play a scenario; returns exit status, the world at the end, and the printed text."""
    shell = FakeShell(fake_cloud.new_world(**script), signal_at, number)
    status = babysit.main([*ARGUMENTS, *flags, *run], shell)
    said, world = "\n".join(shell.said), shell.world
    # What must hold at the end of every scenario.
    assert not world["bad"], world["bad"]
    if status == babysit.LEFT_BEHIND:
        assert "MAY COST MONEY" in said and "delete pod" in said
    else:
        assert not world["slices"] and not world["late"]
        assert "slice pod is gone" in said or not world["made"]
    return status, world, said


def first_call(world, word):
    return next(call for call in world["calls"] if word in " ".join(call))


def test_a_run_without_failures():
    lives = [["CREATING", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]]
    status, world, said = play("--spot", lives=lives, runs=[["running", "running", "exited 0"]])
    assert status == 0 and world["made"] == world["started"] == 1
    assert {"--spot", "--accelerator-type=v5litepod-16"} <= set(first_call(world, "create"))
    started = first_call(world, "worker.sh start")
    assert f"start {RUN_ID} --config c.py --workdir gs://my-bucket/runs/x" in str(started)
    # Deleted once, then described until it was gone.
    assert sum("delete" in call for call in world["calls"]) == 1
    assert sum("describe" in call for call in world["calls"][-4:]) == 4


def test_at_once_uses_no_queue():
    status, world, said = play(
        "--at-once", "--reserved", lives=[["CREATING", "READY"]], runs=[["exited 0"]]
    )
    assert status == 0 and not any("queued-resources" in call for call in world["calls"])
    assert "--reserved" in first_call(world, "create")


@pytest.mark.parametrize("queued", [True, False])
def test_a_preempted_slice_is_made_again_and_the_run_resumes(queued):
    up, down = (["ACTIVE"], "SUSPENDED") if queued else (["READY"], "PREEMPTED")
    lives = [[*up * 27, down], [*up * 30, down], up]
    runs = [LONG + ["exited 42"], LONG + ["running"], ["running", "exited 0"]]
    status, world, said = play(*["--at-once"] * (not queued), lives=lives, runs=runs)
    assert status == 0 and world["made"] == 3
    workdirs = [str(c).rpartition("--workdir")[2] for c in world["calls"] if "start" in str(c)]
    assert len(set(workdirs)) == 1 and len(workdirs) >= 3


def existing(run, *says):
    return {"pod": {"queued": True, "life": ["ACTIVE"], "kind": "v5litepod-16",
                    "run": [run, list(says)]}}  # fmt: skip


SCENARIOS = {
    "machines vanish before their request": ({
        "lives": [["ACTIVE"] * 4 + ["ACTIVE/PREEMPTED"], ["ACTIVE"] * 4 + ["ACTIVE/none"],
                  ["ACTIVE"]],
        "runs": [["running"], ["running"], ["exited 0"]]}, {"made": 3}),
    "machines without a request are deleted": ({"lives": [["ACTIVE", "orphan"], ["ACTIVE"]]}, {}),
    "a preempted run resumes on the same slice": (
        {"runs": [LONG + ["exited 42"], ["running", "exited 0"]]}, {"made": 1, "started": 2}),
    "rare crashes are not counted together": (
        {"runs": [LONG + ["exited 1"]] * 20 + [["exited 0"]]}, {"made": 1, "started": 21}),
    "a slice that cannot be set up is replaced": (
        {"setups": ["fail", "hang", "fail"], "runs": [["exited 0"]]}, {"made": 2}),
    "a failed request is made again": (
        {"lives": [["WAITING_FOR_RESOURCES", "FAILED"], ["ACTIVE"]]}, {"made": 2}),
    "gcloud does not answer for a while": ({
        "looks": ["ok"] * 6 + ["fail", "hang", "fail"] + ["ok"] * 4 + ["fail"],
        "runs": [["running", "broken", "running", "running", "exited 0"]]}, {"started": 1}),
    "a failed delete is tried again": (
        {"deletes": ["fail", "slow"], "looks": ["ok"] * 8 + ["hang", "fail"]}, {}),
    "a delete that hangs may have worked": ({"deletes": ["hang"]}, {}),
    "a run that is running already is only watched": (
        {"slices": existing(RUN_ID, "running", "exited 0")}, {"made": 0, "started": 0}),
    "another run on the slice is replaced by ours": (
        {"slices": existing("other", "exited 0"), "runs": [["exited 0"]]}, {"started": 1}),
}  # fmt: skip


@pytest.mark.parametrize("script, counts", SCENARIOS.values(), ids=SCENARIOS)
def test_the_run_finishes_although(script, counts):
    status, world, said = play(**script)
    assert status == 0, said
    assert {name: world[name] for name in counts} == counts


@pytest.mark.parametrize("outcome", ["quota", "capacity", "hang-lost", "hang-made"])
def test_failed_requests_are_repeated_with_growing_pauses(outcome):
    status, world, said = play(creates=[outcome] * 4, runs=[["exited 0"]])
    assert status == 0
    pauses = [float(line.split()[3]) for line in said.split("\n") if "trying again in" in line]
    assert pauses == ([] if outcome == "hang-made" else [30.0, 60.0, 120.0, 240.0])


@pytest.mark.parametrize("script, status, message, counts", [
    *(({"creates": [outcome] * 50}, 1, "making the slice: 5 failures", {"started": 0})
      for outcome in ("quota", "capacity", "hang-lost")),
    *(({"runs": [["running", f"exited {code}"]] * 50}, 1,
       f"the run ended with status {code}: 5 failures", {}) for code in (1, 42, 134)),
    ({"creates": ["denied"]}, 2, "PERMISSION_DENIED", {"made": 0}),
    ({"runs": [["running", "exited 2"]]}, 2, "the end of the output", {"started": 1}),
    ({"bucket": None}, 2, "gs://my-bucket not found: 404.; if there is none, make it", {"made": 0}),
])  # fmt: skip
def test_it_gives_up_with_a_message(script, status, message, counts):
    got, world, said = play("--tries", "4", **script)
    assert got == status and message in said, said
    assert {name: world[name] for name in counts} == counts
    if "denied" in str(script):
        assert sum("create" in call for call in world["calls"]) == 1


def test_a_slice_that_cannot_be_deleted_is_reported():
    status, world, said = play(deletes=["fail"] * 100)
    assert status == babysit.LEFT_BEHIND and world["slices"]
    assert "$ gcloud" not in said.rpartition("MAY COST MONEY")[2]
    assert "gcloud compute tpus tpu-vm delete pod --zone=us-west4-a" in said.split("COST")[1]


@pytest.mark.parametrize("flags, run, message", [
    (["--topology", "v5e:3x3"], RUN, "there is no slice 'v5e:3x3'"),
    (["--name", "Pod"], RUN, "--name 'Pod'"),
    ([], [], "--workdir gs://BUCKET/FOLDER, which outlives the slice; got nothing"),
    *(([], ["--", f"--workdir={path}"], f"got --workdir={path}")
      for path in ("runs/x", "s3://my-bucket/x", "gs://my-bucket", "gs://my-bucket/", "gs://M/x")),
    ([], [*RUN, "--workdir=gs://my-bucket/y"], "one --workdir"),
    ([], ["--", "--workdir", "gs://other/x"], "bucket gs://other of --workdir"),
    (["--poll", "0"], RUN, "--poll must be above 0"),
    ([], [*RUN, "--coordinator", "auto"], "add --coordinator auto themselves"),
])  # fmt: skip
def test_mistakes_are_reported_before_anything_is_made(flags, run, message):
    status, world, said = play(*flags, run=run)
    assert status == 2 and message in said and not world["made"]


def test_arguments_reach_the_workers_unchanged(monkeypatch):
    """Whatever buckets they name, and with the cache of the mirrors."""
    more = ["--config.data.path=gs://other/d 1", "--config.vocab.path", "s3://third/v"]
    monkeypatch.setenv("ASESJAX_CACHE", "/dev/shm/a b")
    status, world, _ = play(run=[*RUN, *more], runs=[["exited 0"]])
    command = first_call(world, "worker.sh start")[-4]
    words = babysit.shlex.split(command.removeprefix("--command="))
    assert words[:2] == ["env", "ASESJAX_CACHE=/dev/shm/a b"] and status == 0
    assert words[words.index("start") + 2 :] == [*RUN[1:], *more]


def test_spot_and_reserved_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        play("--spot", "--reserved")
    assert "not allowed with" in capsys.readouterr().err


def test_ctrl_c_lets_the_run_save():
    for moment in range(1, 60):
        status, world, said = play(
            signal_at=[moment], number=signal.SIGINT, runs=[["running"] * 99]
        )
        asked = any("worker.sh stop" in str(call) for call in world["calls"])
        if status == 130 and "run " in said and ": running" in said:
            assert asked
    assert asked and status == 130


@pytest.mark.parametrize("number, again", [(signal.SIGTERM, 0), (signal.SIGHUP, 1),
                                           (signal.SIGINT, 2), (signal.SIGTERM, 6)])  # fmt: skip
def test_a_signal_at_any_moment_leaves_no_slice(number, again):
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
        statuses.append(status)
        if moment > 60 and status == 0:
            break
    # The last signal came after the end; all earlier ones stopped it.
    assert statuses[-1] == 0 and statuses.count(128 + number) > 30
    assert set(statuses) == {0, 128 + number}


@pytest.mark.parametrize("queued", [True, False])
def test_the_project_of_the_start_is_kept(queued):
    """The default project is switched while it runs: the slice is found and deleted."""
    for call in range(1, 12):
        status, world, _ = play(*["--at-once"] * (not queued), switch=call)
        assert status == 0 and world["made"] == 1
    assert all("--project=mine" in call for call in world["calls"])


def test_without_any_project():
    status, world, said = play(project="(unset)")
    assert status == 2 and "--project" in said and not world["made"]


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
def test_no_scenario_leaves_a_slice(queued, creates, lives, setups, runs, looks, deletes,
                                    signal_at):  # fmt: skip
    # Every life and every run has to end well at last, so that a scenario ends.
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
    assert status in (0, 1, 2, 143), said
