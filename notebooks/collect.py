"""Make the small result files of ``notebooks/results`` from finished runs of ``configs/evidence``.

    python notebooks/collect.py runs/evidence/data_efficiency runs/evidence/length ...

A file holds what ``compare.json`` of the run says of each row, what made it (command, commit,
machine, packages), and training losses of the first seed; ``05_results.ipynb`` draws them. Tables
of these rows stand in the pages, between ``<!-- results: NAME -->`` and ``<!-- end -->``; they are
written anew. Without a folder, only they are.
"""

import argparse
import json
import re
import shlex
from pathlib import Path
from typing import Any

from asesjax.core.files import read_json, read_jsonl, write_text
from asesjax.seeds import compare_runs
from asesjax.viz.evidence import table

ROOT = Path(__file__).resolve().parents[1]
OF_ROW = (
    "method", "accuracies", "mean", "sd", "interval", "versus", "chain_accuracy", "bleu", "rouge_l",
    "accuracy_by_steps", "first_wrong", "tokens_per_question", "train_tokens", "train_steps",
    "train_passes", "train_seconds", "before_tokens", "before_seconds",
)  # fmt: skip
POINTS = 40  # of a loss curve


def collect(workdir: Path) -> dict[str, Any]:
    """Return the results of one folder, of several seeds or of one."""
    several = (workdir / "compare.json").is_file()
    group = read_json(workdir / "compare.json") if several else compare_runs([workdir])
    made_by = group["made_by"]
    # Without places of the machine that ran it.
    words = [f"runs/{workdir.name}" if Path(word).is_absolute() else word
             for word in shlex.split(made_by["command"])[1:]]  # fmt: skip
    command = ["asesjax", *words]
    facts = {name: group[name] for name in ("name", "budget", "metric", "seeds", "questions")}
    return facts | {
        "command": shlex.join(command),
        "commit": (made_by["source"] or {}).get("commit"),
        "machine": f"{made_by['machine']['cpus']} cores, {', '.join(made_by['devices'])}",
        "packages": {name: made_by["versions"][name] for name in ("jax", "flax", "optax")},
        "rows": [{name: _rounded(row[name]) for name in OF_ROW if name in row}
                 for row in group["rows"]],
        "losses": _losses(workdir / group["runs"][0] if several else workdir),
    }  # fmt: skip


def _losses(run: Path) -> dict[str, list[list[float]]]:
    """Return [tokens, seconds, loss] of each role, means of stretches of training."""
    out = {}
    for file in sorted(run.glob("roles/*/*/metrics.jsonl")):
        lines = [row for _, row in read_jsonl(file) if row["kind"] == "train"]
        size = max(1, len(lines) // POINTS)
        parts = [lines[start : start + size] for start in range(0, len(lines), size)]
        out[f"{file.parts[-3]}/{file.parts[-2]}"] = [
            [part[-1]["tokens"], part[-1]["seconds"],
             _rounded(sum(row["loss"] for row in part) / len(part))]
            for part in parts
        ]  # fmt: skip
    return out


def pages() -> list[Path]:
    """Return the pages of the project."""
    return [ROOT / "README.md",
            *(path for place in ("asesjax", "configs", "launch", "notebooks", "tests")
              for path in sorted((ROOT / place).rglob("README.md")))]  # fmt: skip


def with_tables(text: str) -> str:
    """Return a page with the tables of the result files that there are."""

    def fill(found: re.Match) -> str:
        path = ROOT / f"notebooks/results/{found[2]}.json"
        return f"{found[1]}{table(json.loads(path.read_text()))}<!-- end -->"

    return re.sub(r"(<!-- results: (\S+) -->\n).*?<!-- end -->", fill, text, flags=re.S)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 5) if isinstance(value, float) else value


def main() -> None:
    """Write a file for each folder, and the tables of the pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", nargs="*", type=Path)
    for workdir in parser.parse_args().workdir:
        path = ROOT / f"notebooks/results/{workdir.name}.json"
        path.parent.mkdir(exist_ok=True)
        write_text(path, json.dumps(collect(workdir), indent=1) + "\n")
        print(path.relative_to(ROOT))
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (filled := with_tables(text)) != text:
            write_text(page, filled)
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
