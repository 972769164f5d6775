"""The pages: links lead somewhere, the README to every page; tables are those of result files."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *(path for place in ("asesjax", "configs", "launch", "notebooks", "tests")
                   for path in sorted((ROOT / place).rglob("README.md")))]  # fmt: skip
PAGES += [ROOT / ".github/CONTRIBUTING.md"]
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
