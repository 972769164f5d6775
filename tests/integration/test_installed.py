"""What pip installs: it finds its configurations by name, from any folder."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from asesjax.cli.main import main
from asesjax.config import flatten, load_config, shipped
from asesjax.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def test_every_shipped_configuration_is_known_by_name(capsys):
    known = shipped()
    assert {"smoke", "quickstart", "evidence/length"} <= set(known)
    assert "evidence/common" not in known  # not one itself
    by_path = load_config(str(ROOT / "configs/smoke.py"))
    assert flatten(load_config("smoke")) == flatten(by_path)
    assert load_config("evidence/length:tiny").name == "length:tiny"
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[: len(known)]] == list(known)
    assert main(["configs", "smoke"]) == 0
    assert capsys.readouterr().out == (ROOT / "configs/smoke.py").read_text()


def test_unknown_names_get_the_nearest(capsys):
    with pytest.raises(UserError, match="did you mean 'smoke'"):
        load_config("smok")
    assert main(["configs", "smok"]) == 2 and "'smoke'" in capsys.readouterr().err


def test_a_wheel_holds_all_that_it_needs(tmp_path):
    source = tmp_path / "source"
    for name in ("asesjax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "README.md"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", str(tmp_path)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "site")
    for name in ("py.typed", "viz/report.html.jinja"):
        assert (tmp_path / "site/asesjax" / name).exists()
    run = [sys.executable, "-m", "asesjax.cli.main", "data", "--config", "smoke"]
    done = subprocess.run(
        run, cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout
