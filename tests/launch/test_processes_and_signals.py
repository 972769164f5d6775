"""The launch scripts as real processes, with a fake gcloud in their PATH."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_cloud
import gcloud_reference
import pytest
from programs import commit, copy_launch, write_program

pytestmark = pytest.mark.long

HERE = Path(__file__).parent
SLICE = ["--name", "pod", "--zone", "us-west4-a"]
KIND = ["--topology", "v5e:4x4"]
RUN = ["--", "--config", "c.py", "--workdir", "gs://my-bucket/runs/x"]
STUB = {
    # What the real environment.sh would install: here an asesjax that waits for a file or SIGTERM.
    "launch/environment.sh": """make_environment() {
  echo "environment $1 with ${PYTHON##*/}"
  mkdir -p "$root/.venv/bin"
  cp "$root/asesjax.sh" "$root/.venv/bin/asesjax"
  chmod +x "$root/.venv/bin/asesjax"
}
""",
    "asesjax.sh": """#!/usr/bin/env bash
echo "asesjax $*" | tee -a "$HOME/ran"
trap 'echo saved; exit 42' TERM
while [ ! -f "$HOME/end" ]; do sleep 0.05; done
exit "$(cat "$HOME/end")"
""",
}


class Cloud:
    """A fake cloud on disk with its gcloud, and a checkout to launch from."""

    def __init__(self, folder, **script):
        self.file = folder / "cloud.json"
        self.file.write_text(json.dumps(fake_cloud.new_world(**script)))
        self.root, tools = folder / "root", folder / "bin"
        program = f"""import sys
sys.path.insert(0, {str(HERE)!r})
import fake_cloud
sys.exit(fake_cloud.main(sys.argv[1:]))"""
        write_program(tools, "gcloud", program, f"#!{sys.executable} -IS")
        write_program(tools, "python3.12", "exit 1")
        copy_launch(self.root)
        for name, text in STUB.items():
            (self.root / name).write_text(text)
        self.environment = {
            **os.environ, "FAKE_CLOUD": str(self.file), "PATH": f"{tools}:{os.environ['PATH']}",
            "GIT_CONFIG_GLOBAL": os.devnull, "ASESJAX_STOP_SECONDS": "60",
        }  # fmt: skip
        commit(self.root, self.environment)

    def start(self, module, *arguments):
        scripts = str(self.root / "launch/tpu")
        command = [sys.executable, str(HERE / "driver.py"), scripts, str(self.root), module]
        return subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=self.environment,
        )  # fmt: skip

    def run(self, module, *arguments):
        process = self.start(module, *arguments)
        try:
            said = process.communicate(timeout=120)[0]
        finally:
            process.kill()
        return process.returncode, said

    @property
    def world(self):
        return json.loads(self.file.read_text())


@pytest.fixture
def cloud(tmp_path):
    """Make a cloud; the runs on its workers end with the test."""
    yield lambda **script: Cloud(tmp_path, **script)
    for home in tmp_path.glob("homes/*/*"):
        (home / "end").write_text("1")


def check_nothing_left(one, said):
    world = one.world
    assert not world["bad"] and not world["slices"], said
    assert "slice pod is gone" in said
    return world


def test_a_preempted_slice_is_made_again(cloud):
    lives = [["WAITING_FOR_RESOURCES", "ACTIVE", "ACTIVE", "SUSPENDED"], ["ACTIVE"]]
    one = cloud(lives=lives, runs=[["running"], ["running", "exited 0"]])
    status, said = one.run("babysit", *SLICE, *KIND, "--spot", *RUN)
    assert status == 0, said
    assert check_nothing_left(one, said)["made"] == 2


SCENARIO = {
    "lives": [["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]], "runs": [["running"] * 99],
}  # fmt: skip
MOMENTS = {
    "creating": (4, "create"), "waiting": (5, "describe"), "provisioning": (6, "describe"),
    "copying": (10, "scp"), "setting up": (12, "setup"), "starting": (13, "start"),
    "running": (16, "status"),
}  # fmt: skip


# Ctrl-\\ and others that nobody means; those of crashes aside
ENDING = [signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGALRM, signal.SIGABRT]


@pytest.mark.parametrize("moment, number", [
    *((moment, signal.SIGTERM) for moment in MOMENTS), ("creating", signal.SIGINT),
    ("running", signal.SIGINT), *(("running", n) for n in ENDING if n != signal.SIGINT),
])  # fmt: skip
def test_a_signal_while(cloud, moment, number):
    call, word = MOMENTS[moment]
    one = cloud(**SCENARIO, signal=[call, number])
    status, said = one.run("babysit", *SLICE, *KIND, *RUN)
    assert status == 128 + number, said
    world = check_nothing_left(one, said)
    assert word in str(world["calls"][call - 1])
    assert ("worker.sh stop" in said) == ((moment, number) == ("running", signal.SIGINT))


def test_a_signal_while_deleting_is_ignored(cloud):
    one = cloud(**SCENARIO, signal=[20, signal.SIGTERM], looks=["ok"] * 4 + ["fail"] * 11)
    status, said = one.run("babysit", *SLICE, *KIND, "--tries", "3", *RUN)
    assert status == 1 and "cleaning up; please wait" in said, said
    check_nothing_left(one, said)


@pytest.mark.parametrize("number", [signal.SIGTSTP, signal.SIGTTOU])
def test_it_cannot_be_paused(cloud, number):
    one = cloud(runs=[["running", "exited 0"]], signal=[10, number])
    status, said = one.run("babysit", *SLICE, *KIND, *RUN)
    assert status == 0, said
    check_nothing_left(one, said)


def test_its_temporary_folder_may_vanish(cloud, tmp_path):
    """Somebody clears it during a run of days."""
    (gone := tmp_path / "gone").mkdir()
    one = cloud(lives=[["ACTIVE"] * 40 + ["SUSPENDED"], ["ACTIVE"]],
                runs=[["running"] * 30, ["running", "exited 0"]])  # fmt: skip
    one.environment["TMPDIR"] = str(gone)
    process = one.start("babysit", *SLICE, *KIND, *RUN)
    wait_for(lambda: one.world["started"] == 1)
    shutil.rmtree(gone, ignore_errors=True)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    assert check_nothing_left(one, said)["made"] == 2


def test_a_gcloud_that_hangs_is_killed(cloud):
    script = {"creates": ["hang-made"], "setups": ["hang"], "looks": ["ok", "ok", "hang"],
              "deletes": ["hang"], "runs": [["running", "exited 0"]]}  # fmt: skip
    one = cloud(**script)
    status, said = one.run("babysit", *SLICE, *KIND, *RUN)
    assert status == 0 and "no answer within" in said, said
    check_nothing_left(one, said)


def test_without_gcloud(cloud):
    one = cloud()
    one.environment["PATH"] = str(Path(shutil.which("git")).parent)
    if shutil.which("gcloud", path=one.environment["PATH"]):
        (path := one.root.parent / "git").mkdir()
        (path / "git").symlink_to(shutil.which("git"))
        one.environment["PATH"] = str(path)
    status, said = one.run("babysit", *SLICE, *KIND, *RUN)
    assert status == 2 and "cannot run gcloud" in said, said


@pytest.mark.parametrize("dirty", [True, False])
def test_uncommitted_changes_are_refused(cloud, dirty):
    one = cloud()
    if dirty:
        (one.root / "asesjax.sh").write_text("changed")
    else:
        shutil.rmtree(one.root / ".git")
    status, said = one.run("babysit", *SLICE, *KIND, *RUN)
    assert status == 2 and not one.world["made"]
    assert ("changes that are not committed" if dirty else "is no git checkout") in said


def wait_for(condition):
    for _ in range(1500):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("never happened")


def test_step_by_step_on_four_machines(cloud, tmp_path):
    """Commands for workers really run, each worker in its own home folder."""
    homes = tmp_path / "homes"
    one = cloud(homes=str(homes), lives=[["ACTIVE"]])
    step = lambda verb, *more: one.run("tpu", verb, *SLICE, *more)  # noqa: E731
    assert step("create", "--topology", "v5e:4x4", "--spot")[0] == 0
    status, said = step("setup")
    assert status == 0 and said.count("\nready: ") == 4, said
    assert said.count("environment tpu,buckets,eval,viz with python3.12") == 4
    workers = [homes / "pod-1" / str(i) for i in range(4)]
    assert step("status")[1].count(" none") == 4

    arguments = ["--", "--config", "c d.py", "--workdir=gs://my-bucket/runs/x"]
    status, said = step("run", *arguments)
    assert status == 0 and said.count(" running") == 4, said
    for worker in workers:
        wait_for(lambda worker=worker: (worker / "ran").exists())
        ran = "asesjax run --config c d.py --workdir=gs://my-bucket/runs/x --coordinator auto\n"
        assert (worker / "ran").read_text() == ran
    assert step("status")[1].count(" running") == 4
    assert "asesjax run" in step("logs", "--worker", "1")[1]

    # Setting up again changes nothing; a second start ends the first.
    assert step("setup")[0] == 0
    assert step("run", *arguments)[0] == 0
    wait_for(lambda: len((workers[3] / "ran").read_text().split("\n")) == 3)

    status, said = step("stop")
    assert status == 0 and said.count("stopped: ") == 4 and "tpu.py delete ends that" in said
    wait_for(lambda: step("status")[1].count(" exited 42") == 4)
    for worker in workers:
        logs = [path.read_text() for path in (worker / "bucket/logs").iterdir()]
        assert len(logs) == 2 and all("asesjax run" in log and "saved" in log for log in logs)

    status, said = one.run("tpu", "list", *SLICE[2:])
    assert status == 0 and said.count("\npod\n") == 2
    assert step("delete")[0] == 0
    status, said = step("delete")
    assert status == 1 and "us-west4-a has no slice pod" in said
    assert not one.world["slices"] and not one.world["bad"]


def test_babysit_with_real_workers(cloud, tmp_path):
    one = cloud(homes=str(tmp_path / "homes"), lives=[["ACTIVE"] * 3 + ["SUSPENDED"], ["ACTIVE"]])
    second = tmp_path / "homes/pod-2"
    process = one.start("babysit", *SLICE, *KIND, *RUN)
    wait_for(lambda: (second / "3/ran").exists())
    for i in range(4):
        (second / str(i) / "end").write_text("0")
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    assert check_nothing_left(one, said)["made"] == 2


def test_a_rebooted_machine_reports_no_run(cloud, tmp_path):
    one = cloud(homes=str(tmp_path / "homes"))
    step = lambda verb, *more: one.run("tpu", verb, *SLICE, *more)  # noqa: E731
    step("create", "--topology", "v5e:2x4")
    home = tmp_path / "homes/pod-1/0"
    assert step("setup")[0] == 0
    (home / "end").write_text("2")
    step("run", *RUN)
    wait_for(lambda: " exited 2" in step("status")[1])
    (home / "asesjax-state/boot").write_text("another\n")
    assert " none" in step("status")[1]


def test_a_run_by_hand_needs_its_bucket(cloud):
    one = cloud(bucket=None)
    status, said = one.run("tpu", "run", *SLICE, *RUN)
    assert status == 2 and "bucket gs://my-bucket of --workdir cannot be used" in said
    assert len(one.world["calls"]) == 1


@pytest.mark.parametrize("verb, more", [
    ("create", ["--topology", "v6e:2x4", "--at-once", "--reserved"]),
    ("setup", []), ("run", RUN), ("status", []), ("logs", ["--follow"]), ("stop", []),
    ("delete", []),
])  # fmt: skip
def test_dry_runs_of_tpu_print_valid_commands_and_run_none(cloud, verb, more):
    one = cloud()
    status, said = one.run("tpu", verb, *SLICE, "--dry-run", *more)
    assert status == 0 and "$ gcloud" in said and not one.world["calls"], said
    for line in said.split("\n"):
        if line.startswith("$ gcloud"):
            gcloud_reference.parse(shlex.split(line)[2:])


def test_dry_run_of_babysit_prints_all_steps(cloud):
    one = cloud()
    status, said = one.run("babysit", *SLICE, *KIND, "--dry-run", *RUN)
    words = ["buckets describe", "bundle create", "resources create", "resources describe", "scp",
             "worker.sh setup", "worker.sh start", "worker.sh status",
             "resources delete"]  # fmt: skip
    places = [said.index(word) for word in words]
    assert status == 0 and places == sorted(places) and not one.world["calls"]
