"""The shell scripts: their syntax, and their messages when something is missing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = [*ROOT.glob("launch/**/*.sh"), *ROOT.glob("tests/**/*.sh"), ROOT / ".ci/run"]


@pytest.fixture
def project(tmp_path):
    """A copy of the scripts, and a PATH with basic tools and no Python."""
    shutil.copytree(ROOT / "launch", tmp_path / "launch")
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests/run.sh", tmp_path / "tests")
    shutil.copy(ROOT / "setup.py", tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in ("bash", "dirname", "cksum", "grep", "rm"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    return tmp_path


def run(project, script):
    return subprocess.run(
        ["bash", str(project / script)], capture_output=True, text=True, cwd="/",
        env={"PATH": str(project / "bin"), "HOME": os.environ.get("HOME", "/")},
    )  # fmt: skip


def fake(project, name, body, folder="bin"):
    path = project / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{shutil.which('bash')}\n{body}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_syntax(path):
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.parametrize("script", ["launch/quickstart.sh", "tests/run.sh"])
def test_no_python(project, script):
    done = run(project, script)
    assert done.returncode == 1
    assert "error: no Python 3.11 or newer found" in done.stderr


def test_python_too_old(project):
    fake(project, "python3", "exit 1")  # what the version check exits with
    assert "error: no Python 3.11 or newer found" in run(project, "tests/run.sh").stderr


def test_python_without_venv(project):
    fake(project, "python3", 'case "$*" in *venv*) exit 1;; *) exit 0;; esac')
    done = run(project, "launch/quickstart.sh")
    assert done.returncode == 1 and "apt-get install python3-venv" in done.stderr
    assert not (project / ".venv").exists()


def test_failing_pip(project):
    inner = f"#!{shutil.which('bash')}\\nexit 1"
    body = f"""case "$*" in
      *"-m venv"*) mkdir -p "$3/bin"; printf '{inner}' > "$3/bin/python"
                   chmod +x "$3/bin/python";;
      *) exit 0;; esac"""
    for tool in ("mkdir", "chmod"):
        (project / "bin" / tool).symlink_to(shutil.which(tool))
    fake(project, "python3", body)
    done = run(project, "launch/quickstart.sh")
    assert done.returncode == 1
    assert "error: pip could not install the packages" in done.stderr
    assert not (project / ".venv/installed").exists()


def test_installs_again_only_after_a_change(project):
    fake(project, "python", 'echo "pip $*"', ".venv/bin")
    fake(project, "asesjax", 'echo "asesjax $*"', ".venv/bin")
    first, second = run(project, "launch/quickstart.sh"), run(project, "launch/quickstart.sh")
    assert "pip -m pip install" in first.stdout and "[eval,viz]" in first.stdout
    assert "--workdir runs/quickstart" in first.stdout
    assert "pip -m pip" not in second.stdout and "is up to date" in second.stdout
    (project / "setup.py").write_text("# another\n")
    assert "pip -m pip install" in run(project, "launch/quickstart.sh").stdout


def test_the_default_run_collects_without_torch_and_transformers(tmp_path):
    for name in ("torch", "transformers"):
        (tmp_path / f"{name}.py").write_text("raise ModuleNotFoundError")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", "tests/parity",
         "tests/test_benchmarks.py"], capture_output=True, text=True, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "ASESJAX_REQUIRE_DATA": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
