"""GKE through xpk, Slurm and one machine with GPUs, against fakes that check the arguments."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_cloud
import pytest
import steps
import xpk
from in_process import FakeShell
from programs import LAUNCH, commit, copy_launch, write_program
from shell import Result

HERE = Path(__file__).parent
WHERE = ["--cluster", "c-1", "--zone", "us-west4-a"]
SUBMIT = ["submit", *WHERE, "--name", "run-1", "--topology", "v5e:4x4", "--image", "r/asesjax:1"]
RUN = ["--", "--config", "c.py", "--workdir", "gs://my-bucket/runs/x y"]


@pytest.fixture
def box(tmp_path):
    return Box(tmp_path)


class Box:
    """A project to launch from, fakes in PATH, and a record of their calls."""

    def __init__(self, folder):
        self.root, self.calls_file, self.tools = folder / "root", folder / "calls", folder / "bin"
        copy_launch(self.root)
        for name in ("xpk", "sbatch", "srun", "scontrol", "docker"):
            self.fake(name, f'exec {sys.executable} -I "$FAKES" {name} "$@"')
        self.environment = {
            **os.environ, "PATH": f"{self.tools}:{os.environ['PATH']}", "PYTHONPATH": str(HERE),
            "FAKE_CALLS": str(self.calls_file), "ASESJAX_REQUEUE_SECONDS": "0",
            "FAKES": str(folder / "fakes.py"),
        }  # fmt: skip
        (folder / "fakes.py").write_text(
            f"import runpy, sys\nsys.path.insert(0, {str(HERE)!r})\n"
            f"runpy.run_path({str(HERE / 'fake_clusters.py')!r}, run_name='__main__')\n"
        )

    def fake(self, name, body):
        write_program(self.tools, name, body)

    def fake_in_venv(self, name, body):
        write_program(self.root / ".venv/bin", name, body)

    def run(self, script, *arguments, **more):
        return subprocess.run(
            ["bash", str(self.root / script), *arguments], capture_output=True, text=True,
            env=self.environment, **more,
        )  # fmt: skip

    @property
    def calls(self):
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        return [json.loads(line) for line in lines]


class BoxShell(FakeShell):
    """Runs the fake xpk and docker as processes, and gcloud in memory."""

    def __init__(self, box, **script):
        super().__init__(fake_cloud.new_world(**script))
        self.box = box

    def call(self, argv, seconds, show=True, stream=False):
        if argv[0] == "gcloud":
            return super().call(argv, seconds)
        self.say("$ " + " ".join(argv))
        done = subprocess.run(argv, capture_output=True, text=True, env=self.box.environment)
        return Result(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("cache", ["", "/dev/shm/asesjax"])
def test_a_run_is_submitted_to_gke(box, cache, monkeypatch):
    monkeypatch.setenv("ASESJAX_CACHE", cache)
    assert xpk.main([*SUBMIT, "--slices", "2", *RUN], BoxShell(box)) == 0
    (call,) = box.calls
    assert call[:3] == ["xpk", "workload", "create"]
    assert {"--tpu-type=v5litepod-16", "--num-slices=2", "--workload=run-1"} <= set(call)
    command = next(word for word in call if word.startswith("--command="))
    assert command == (
        f"--command=exec {f'env ASESJAX_CACHE={cache} ' * bool(cache)}asesjax run --config c.py "
        "--workdir 'gs://my-bucket/runs/x y' --coordinator auto"
    )


@pytest.mark.parametrize("topology", ["v4:2x2x2", "v5e:16x16", "v5p:4x4x4", "v6e:2x4"])
def test_xpk_knows_the_type_of_every_generation(box, topology):
    arguments = [topology if word == "v5e:4x4" else word for word in SUBMIT]
    assert xpk.main([*arguments, *RUN], BoxShell(box)) == 0


@pytest.mark.parametrize("change, message", [
    (("v5e:4x4", "v5e:5x5"), "there is no slice"), (("run-1", "Run"), "--name 'Run'"),
    (("run-1", "r" * 41), "xpk takes 40 characters, got 41"),
    ((RUN[-1], "runs/x"), "one --workdir gs://BUCKET/FOLDER"),
    ((RUN[-1], "gs://other/x"), "bucket gs://other of --workdir"),
])  # fmt: skip
def test_mistakes_are_reported_before_anything_is_submitted(box, change, message):
    shell = BoxShell(box)
    words = [change[1] if word == change[0] else word for word in [*SUBMIT, *RUN]]
    assert xpk.main(words, shell) == 2
    assert message in "\n".join(shell.said) and not box.calls


def test_runs_are_listed_and_deleted(box):
    assert xpk.main(["list", *WHERE, "--project", "p"], BoxShell(box)) == 0
    assert xpk.main(["delete", *WHERE, "--name", "run-1"], BoxShell(box)) == 0
    assert [call[2] for call in box.calls] == ["list", "delete"]
    assert "--project=p" in box.calls[0] and "--workload=run-1" in box.calls[1]


def test_the_image_is_built_from_the_commit(box, monkeypatch):
    monkeypatch.setattr(steps, "ROOT", box.root)
    commit(box.root, box.environment)
    (box.root / "secret").touch()
    assert xpk.main(["image", *WHERE, "--image", "r/asesjax:1"], BoxShell(box)) == 0
    build, push = box.calls
    assert push == ["docker", "push", "r/asesjax:1"]
    assert re.search(r"COMMIT=[0-9a-f]{40}\b", " ".join(build))
    assert "EXTRAS=tpu,buckets,eval,viz" in build


def test_a_failing_step_ends_the_verb(box, monkeypatch):
    box.fake("docker", "exit 3")
    shell = BoxShell(box)
    assert xpk.main(["image", *WHERE, "--image", "r/a:1"], shell) == 1
    assert "ended with status 3" in shell.said[-1] and len(shell.said) == 2


@pytest.mark.parametrize("verb", [["image", "--image", "i"], ["list"], ["delete", "--name", "n"],
                                  [*SUBMIT[:1], *SUBMIT[5:], *RUN]])  # fmt: skip
def test_dry_runs_of_xpk_run_nothing(box, verb):
    done = subprocess.run(
        [sys.executable, str(LAUNCH / "tpu/xpk.py"), verb[0], *WHERE, *verb[1:], "--dry-run"],
        capture_output=True, text=True, env=box.environment,
    )  # fmt: skip
    assert done.returncode == 0 and "$ " in done.stdout and not box.calls, done.stderr


SLURM = ["launch/slurm/submit.sh", "--nodes", "2", "--gpus", "4"]


@pytest.mark.parametrize("workdir, extras", [
    ("runs/x", "cuda,eval,viz"), ("gs://b/x", "cuda,eval,viz,buckets"),
    ("s3://b/x", "cuda,eval,viz,buckets"),
])  # fmt: skip
def test_a_run_on_slurm(box, workdir, extras):
    box.fake_in_venv("asesjax", 'echo "asesjax $*"')
    done = box.run(*SLURM, "--time", "1:00:00", "--", "--config", "c.py", "--workdir", workdir)
    assert done.returncode == 0, done.stderr
    assert f"environment {extras}\n" in done.stdout and "ended with status 0" in done.stdout
    assert f"asesjax run --config c.py --workdir {workdir} --coordinator auto" in done.stdout
    submitted, task = box.calls
    assert {"--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4"} <= set(submitted)
    assert task[:2] == ["srun", "--kill-on-bad-exit=1"]


@pytest.mark.parametrize("status, requeued", [(42, True), (2, False), (1, False), (134, False)])
def test_only_a_preempted_run_is_requeued(box, status, requeued):
    box.fake_in_venv("asesjax", f"exit {status}")
    done = box.run(*SLURM, "--workdir", "w")
    assert done.returncode == status
    assert (["scontrol", "requeue", "7"] in box.calls) == requeued


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_the_batch_script_survives_a_signal_until_the_tasks_end(box, number):
    """Slurm signals the tasks itself; the script must survive to requeue the job."""
    wait = 'while [ ! -f "$FAKE_CALLS.end" ]; do sleep 0.05; done'
    box.fake_in_venv("asesjax", f'touch "$FAKE_CALLS.up"; {wait}; exit 42')
    script = subprocess.Popen(
        ["bash", "launch/slurm/train.sbatch", "--workdir", "w"], cwd=box.root, text=True,
        env={**box.environment, "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n"},
        stdout=subprocess.PIPE,
    )  # fmt: skip
    up, end = (Path(f"{box.calls_file}.{name}") for name in ("up", "end"))
    try:
        while not up.exists():
            time.sleep(0.02)
        script.send_signal(number)
        assert script.stdout.readline().startswith("start 1")
        assert script.stdout.readline().startswith("stop requested")
        end.touch()
        assert script.wait(60) == 42 and ["scontrol", "requeue", "7"] in box.calls
    finally:
        end.touch()
        script.kill()
        script.stdout.close()


@pytest.mark.parametrize("arguments, message", [
    (["--nodes", "2", "--workdir", "w"], "--gpus N"),
    (["--nodes", "0", "--gpus", "1", "--workdir", "w"], "--nodes N"),
    (["--nodes", "2", "--gpus", "8", "--config", "c"], "--workdir DIR is missing"),
    (["--nodes", "2", "--gpus", "8", "--tme=1", "--", "--workdir", "w"], "unknown option --tme=1"),
    (["--nodes", "2", "--gpus", "8", "more", "--", "--workdir", "w"], "unknown option more"),
    (["--nodes", "2", "--gpus", "8", "--time"], "--time needs a value"),
    (["--nodes", "--gpus", "8", "--", "--workdir", "w"], "--nodes needs a value"),
])  # fmt: skip
def test_mistakes_in_the_arguments_of_submit(box, arguments, message):
    done = box.run("launch/slurm/submit.sh", *arguments)
    assert done.returncode == 2 and message in done.stderr and not box.calls


@pytest.mark.parametrize("own", [["--time", "1:00:00"], ["--time=1:00:00"]])
@pytest.mark.parametrize("rest", [
    ["--dry-run", "--", "--workdir", "w"], ["--dry-run", "--workdir=w"],
    ["--", "--workdir", "w", "--dry-run"],
])  # fmt: skip
def test_submit_dry_run_submits_nothing(box, own, rest):
    done = box.run(*SLURM, *own, *rest)
    assert done.returncode == 0 and not box.calls, done.stderr
    assert done.stdout.startswith("$ sbatch --nodes=2") and "environment" not in done.stdout
    assert "--time=1:00:00" in done.stdout and "--dry-run" not in done.stdout


@pytest.mark.parametrize("data, extras", [
    ("d", "cuda,eval,viz"), ("gs://b/d", "cuda,eval,viz,buckets"),
])  # fmt: skip
def test_gpu_sh_runs_on_one_machine(box, data, extras):
    box.fake("nvidia-smi", 'echo "GPU 0: Great"')
    box.fake_in_venv("python", 'echo "2 x Great"')
    box.fake_in_venv("asesjax", 'echo "asesjax $*"; exit 42')
    done = box.run("launch/gpu.sh", "--config", "a b.py", f"--config.data.path={data}", cwd="/")
    assert done.returncode == 42, done.stderr
    said = [line for line in done.stdout.split("\n") if line and not line.startswith("$")]
    assert said == ["GPU 0: Great", f"environment {extras}", "2 x Great",
                    f"asesjax run --config a b.py --config.data.path={data}"]  # fmt: skip


def test_gpu_sh_without_a_gpu(box):
    box.fake("nvidia-smi", "exit 9")
    done = box.run("launch/gpu.sh", "--workdir", "w")
    assert done.returncode == 1 and "nvidia-smi finds no GPU" in done.stderr
    assert "environment" not in done.stdout


def test_gpu_sh_when_jax_finds_no_gpu(box):
    box.fake("nvidia-smi", "exit 0")
    box.fake_in_venv("python", 'exec "$REAL" "$@"')
    box.environment |= {"REAL": sys.executable, "JAX_PLATFORMS": "cpu"}
    done = box.run("launch/gpu.sh", "--workdir", "w")
    assert done.returncode == 1 and "error: jax finds no GPU, only cpu" in done.stderr


def test_gpu_sh_dry_run_runs_nothing(box):
    box.fake("nvidia-smi", "exit 9")
    done = box.run("launch/gpu.sh", "--workdir", "w", "--dry-run")
    assert done.returncode == 0 and "\nenvironment" not in done.stdout
    assert done.stdout.count("\n$ ") >= 3
