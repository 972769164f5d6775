"""Notebooks run from the first cell to the last on tiny settings, and are kept without outputs."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path):
    for cell in nbformat.read(path, 4).cells:
        assert not cell.get("outputs") and not cell.get("execution_count"), cell.source


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's machinery, not ours
def test_quickstart_runs(tmp_path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("ASESJAX_CONFIG", str(ROOT / "configs/smoke.py"))
    monkeypatch.setenv("ASESJAX_WORKDIR", str(tmp_path / "run"))
    monkeypatch.setenv("XLA_FLAGS", "")  # one device is quicker to compile for
    notebook = nbformat.read(ROOT / "notebooks/01_quickstart.ipynb", 4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    html = [output["data"]["text/html"] for output in outputs if "text/html" in
            output.get("data", {})]  # fmt: skip
    assert len(html) == 5 and all('title="ES"' in text for text in html[:2])
    assert any("| usm " in output.get("text", "") for output in outputs)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's machinery, not ours
def test_tpu_runs_without_a_tpu(tmp_path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("ASESJAX_WORKDIR", str(tmp_path / "run"))
    monkeypatch.setenv("ASESJAX_TOPOLOGY", "none")  # compiling takes minutes: tests/aot
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    notebook = nbformat.read(ROOT / "notebooks/04_tpu.ipynb", 4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    said = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ())
    )
    assert "2 devices: cpu\nNo TPU here" in said and "[train-direct] done" in said
    assert re.search(r"token_embedder/embedding +\((\d+), 16\) .*on each of 2", said)
    assert "asesjax compile --config configs/tpu.py:t5-base --topology none" in said
    assert "so nothing was compiled" in said and "v5litepod-16" in said
    assert "$ gcloud compute tpus queued-resources create my-run" in said
    assert "$ gcloud compute tpus queued-resources delete my-run --force" in said


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's machinery, not ours
def test_results_are_drawn_from_their_files(tmp_path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("ASESJAX_RESULTS", str(ROOT / "notebooks/results"))
    monkeypatch.setenv("ASESJAX_FIGURES", str(tmp_path / "figures"))
    notebook = nbformat.read(ROOT / "notebooks/05_results.ipynb", 4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    drawn = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert drawn >= {path.stem for path in (ROOT / "notebooks/results").glob("data_efficiency*")}
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    tables = [output["data"].get("text/markdown", "") for output in outputs]
    assert any("| usm_200" in text and "(direct_200)" in text for text in tables)
