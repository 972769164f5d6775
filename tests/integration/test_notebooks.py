"""Notebooks run from the first cell to the last on tiny settings; kept outputs are small."""

import re
from pathlib import Path

import nbformat
import pytest
from shared.environment import xla_flags

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
KEPT = {"02_segmentation", "03_iterative_decoding"}  # with outputs

# Of the kernel's machinery, not ours.
pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_outputs_are_small_and_of_one_run(path):
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    if path.stem not in KEPT:
        assert not any(cell.outputs or cell.execution_count for cell in cells)
        return
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"display_data", "stream"}
    assert len(nbformat.writes(nbformat.read(path, 4))) < 150_000
    assert "/home/" not in str(outputs) and "/tmp/" not in str(outputs)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run that notebooks share: what one has trained the next finds."""
    return tmp_path_factory.mktemp("notebooks") / "run"


@pytest.fixture
def execute(tmp_path, monkeypatch, workdir):
    """Run a notebook and return its outputs."""
    from nbclient import NotebookClient

    monkeypatch.setenv("ASESJAX_CONFIG", "smoke")
    monkeypatch.setenv("ASESJAX_WORKDIR", str(workdir))
    monkeypatch.setenv("XLA_FLAGS", xla_flags(1))

    def execute(name):
        notebook = nbformat.read(ROOT / f"notebooks/{name}.ipynb", 4)
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
        return [output for cell in notebook.cells for output in cell.get("outputs", ())]

    return execute


def shown(outputs, kind):
    return [output["data"][kind] for output in outputs if kind in output.get("data", {})]


def said(outputs):
    return "".join(output.get("text", "") for output in outputs)


def test_segmentation_runs(execute):
    outputs = execute("02_segmentation")
    assert len(shown(outputs, "image/png")) == 1
    html, tables = shown(outputs, "text/html"), shown(outputs, "text/markdown")
    assert len(html) == 7 and all('title="' in text for text in html)  # gold, five scores, one own
    assert all(f"<b>{name}</b>" in "".join(html)
               for name in ("entropy", "loss", "bleu", "rouge", "location"))  # fmt: skip
    right, wrong = (len(table.splitlines()) for table in tables[-4:-2])
    assert wrong < right  # one label joined segments
    assert "| rouge " in tables[1]


def test_iterative_decoding_runs(execute):
    outputs = execute("03_iterative_decoding")
    assert len(shown(outputs, "image/png")) == 2
    tables = shown(outputs, "text/markdown")
    assert "Ends: " in tables[0] and "| es " in tables[1]
    rows = [[cell.strip() for cell in line.split("|")] for line in tables[2].splitlines()[2:]]
    assert [row[-2] for row in rows] == ["yes"] * 4  # the chains of both ways
    # The engine encodes nothing for idle slots and takes no more steps.
    assert all(int(engine[3].replace(",", "")) <= int(rounds[3].replace(",", ""))
               for rounds, engine in (rows[:2], rows[2:]))  # fmt: skip


def test_quickstart_runs(execute):
    outputs = execute("01_quickstart")
    assert len(shown(outputs, "image/png")) == 2
    html = shown(outputs, "text/html")
    assert len(html) == 5 and all('title="ES"' in text for text in html[:2])
    assert "| usm " in said(outputs)


def test_tpu_runs_without_a_tpu(execute, tmp_path, monkeypatch):
    monkeypatch.setenv("ASESJAX_WORKDIR", str(tmp_path / "run"))
    monkeypatch.setenv("ASESJAX_TOPOLOGY", "none")  # compiling takes minutes: tests/aot
    monkeypatch.setenv("XLA_FLAGS", xla_flags(2))
    text = said(execute("04_tpu"))
    assert "2 devices: cpu\nNo TPU here" in text and "[train-direct] done" in text
    assert re.search(r"token_embedder/embedding +\((\d+), 16\) .*on each of 2", text)
    assert "asesjax compile --config configs/tpu.py:t5-base --topology none" in text
    assert "so nothing was compiled" in text and "v5litepod-16" in text
    assert "$ gcloud compute tpus queued-resources create my-run" in text
    assert "$ gcloud compute tpus queued-resources delete my-run --force" in text


def test_results_are_drawn_from_their_files(execute, tmp_path, monkeypatch):
    monkeypatch.setenv("ASESJAX_RESULTS", str(ROOT / "notebooks/results"))
    monkeypatch.setenv("ASESJAX_FIGURES", str(tmp_path / "figures"))
    tables = shown(execute("05_results"), "text/markdown")
    drawn = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert drawn >= {path.stem for path in (ROOT / "notebooks/results").glob("data_efficiency*")}
    assert any("| `usm_200` |" in text and "| `direct_200` |" in text for text in tables)
