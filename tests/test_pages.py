"""The pages: links lead somewhere, the README to every page; commands are ones that the command
line understands; tables are those of result files.
"""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from asesjax.cli import main as cli
from asesjax.config import load_config
from asesjax.core import processes

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *(path for place in ("asesjax", "configs", "launch", "notebooks", "tests")
                   for path in sorted((ROOT / place).rglob("README.md")))]  # fmt: skip
PAGES += [ROOT / ".github/CONTRIBUTING.md"]
# What stands in the pages for words of the reader's own.
STANDS_FOR = {"...": "--config smoke --workdir runs/mine", "configs/NAME.py": "smoke",
              "FILE.py": "smoke", "kpod.py:runs/kpod-start": "kpod.py:start"}  # fmt: skip
page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def links(page):
    """Return the files that a page links to."""
    found = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    return [page.parent / link for link in found if "://" not in link]


@page
def test_links_lead_to_files(page):
    assert [str(link) for link in links(page) if not link.exists()] == []


def test_the_readme_is_short_and_leads_to_every_page():
    assert len(README.read_text().splitlines()) <= 150
    assert {link.resolve() for link in links(README)} >= set(PAGES[1:])


@page
def test_a_page_starts_with_a_command(page):
    """What a reader came for; the map of the code has none."""
    lines = page.read_text().splitlines()[:60]
    assert page.parent.name == "asesjax" or any("```bash" in line for line in lines)


@page
def test_tables_are_those_of_the_result_files(page, collect):
    text = page.read_text()
    assert collect.with_tables(text) == text, "run python notebooks/collect.py"


def commands():
    """The calls of ``asesjax`` in the pages, without optional words."""
    for path in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", path.read_text(), re.DOTALL):
            for line in re.sub(r"\\\n|\[-.*\]", " ", block).splitlines():
                if found := re.match(r"(?:\.venv/bin/)?asesjax (.*)", line):
                    yield pytest.param(found[1], id=f"{path.parent.name}: {found[1][:50]}")


@pytest.mark.parametrize("command", [*commands()])
def test_commands_are_understood(command, monkeypatch):
    """Verb, options, configuration, its fields and their values; the rest is told by other tests:
    each configuration goes through its stages (``integration``).
    """
    for words, meaning in STANDS_FOR.items():
        command = command.replace(words, meaning)
    verb, *words = shlex.split(command, comments=True)
    seen = []
    monkeypatch.setattr(importlib.import_module(cli.module_of(verb)), "main", seen.append)
    monkeypatch.setattr(processes, "start", lambda *_: None)
    monkeypatch.chdir(ROOT)
    assert cli.main([verb, *words]) == 0
    [args] = seen
    if getattr(args, "config", None):
        load_config(args.config, {name: value for name, value in args.overrides.items()
                                  if name != "model.init_from"})  # fmt: skip
