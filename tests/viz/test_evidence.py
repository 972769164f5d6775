"""Result files and their figures, and that numbers which are shown stand in a result file."""

import json
from pathlib import Path

import pytest

from asesjax.viz import evidence

ROOT = Path(__file__).resolve().parents[2]
RESULTS = sorted((ROOT / "notebooks/results").glob("*.json"))


def result(names):
    rows = [
        {"method": name, "mean": 0.25 * i, "interval": [0.2 * i, 0.3 * i], "bleu": 50.0 + i,
         "accuracy_by_steps": {"2": 0.5, "3": 0.1 * i}}
        for i, name in enumerate(names)
    ]  # fmt: skip
    losses = {"usm/main": [[10, 1.0, 3.0], [20, 2.0, 4.0], [30, 3.0, 1.0]]}
    return {"rows": rows, "losses": losses}


def test_figures(tmp_path):
    sizes = result(["start", "direct_50", "usm_50", "direct_100", "usm_100"])
    values = result(["direct", "usm_beta_0p5", "usm_beta_1p0"])
    evidence.against_size(sizes, tmp_path / "size.png")
    evidence.against_value(values, "beta", tmp_path / "value.png")
    evidence.by_steps(sizes, tmp_path / "steps.png")
    evidence.bars(sizes, tmp_path / "bars.png")
    evidence.losses(sizes, {"usm/main": "USM"}, tmp_path / "loss.png")
    evidence.losses(sizes, {"usm/main": "USM"}, tmp_path / "best.png", best=True)
    assert len(list(tmp_path.glob("*.png"))) == 6


def test_a_result_file_names_what_made_it(tmp_path, collect):
    metrics = tmp_path / "seed-0/roles/usm/main/metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    lines = [{"kind": "train", "tokens": 10 * i, "seconds": i, "loss": 1 / (1 + i)}
             for i in range(100)]  # fmt: skip
    metrics.write_text("\n".join(map(json.dumps, [*lines, {"kind": "validation"}])))
    made_by = {"command": "/somewhere/main.py run --workdir runs/x", "source": {"commit": "abc"},
               "machine": {"cpus": 2}, "devices": ["cpu"],
               "versions": {"jax": "1", "flax": "2", "optax": "3"}}  # fmt: skip
    group = {"name": "x", "budget": "b", "metric": "numeric", "seeds": [0], "questions": [5],
             "made_by": made_by, "runs": ["seed-0"],
             "rows": [{"method": "usm", "mean": 1 / 3, "curve": [1]}]}  # fmt: skip
    (tmp_path / "compare.json").write_text(json.dumps(group))
    found = collect.collect(tmp_path)
    assert found["command"] == "asesjax run --workdir runs/x" and found["commit"] == "abc"
    assert found["rows"] == [{"method": "usm", "mean": 0.33333}]
    points = found["losses"]["usm/main"]
    assert points[0] == [10, 1, 0.75] and points[-1][0] == 990 and len(points) == 50


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_every_result_file_is_whole(path):
    found = json.loads(path.read_text())
    assert found["command"].startswith("asesjax run --config configs/") and found["commit"]
    assert all(len(row["accuracies"]) == len(found["seeds"]) for row in found["rows"])
