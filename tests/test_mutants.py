"""The table of ``benchmarks/mutants.py`` fits the package; it runs the tests by hand only."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_spec = importlib.util.spec_from_file_location("mutants", ROOT / "tests/benchmarks/mutants.py")
mutants = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(mutants)


@pytest.mark.parametrize("name, file, tests, changes", mutants.MUTANTS)
def test_every_mutant_can_be_made(name, file, tests, changes):
    text = (ROOT / "asesjax" / file).read_text()
    for old, new in changes:
        compile(mutants.mutate(text, old, new), file, "exec")
    assert all((ROOT / place.split("::")[0]).exists() for place in tests.split())


def test_a_text_that_is_not_there_once_is_refused():
    for text in ("", "a a"):
        with pytest.raises(SystemExit, match=rf"'a' is there {text.count('a')} times, not once"):
            mutants.mutate(text, "a", "b")
