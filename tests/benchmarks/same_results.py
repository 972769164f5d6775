"""Compare two workdirs of the same configuration: parameters, chains and scores, to the bit.

    python tests/benchmarks/same_results.py WORKDIR OTHER

Prints a JSON line for each row of the results table, and exits with 1 where something differs. For
changes that must leave results as they are: run the same command with both versions first. Rows are
matched by name; what only one version writes of a prediction row is not compared.
"""

import argparse
import json
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

FIELDS = ("id", "question", "chain", "segments", "answer", "tokens", "reference_chain")
SCORES = ("accuracy", "chain_accuracy", "bleu", "rouge_l", "tokens_per_question", "train_tokens",
          "train_steps", "first_wrong", "segments_per_chain")  # fmt: skip


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def checkpoints(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path / "params"
            for path in sorted(folder.glob("roles/*/*/checkpoints/step_*"))}  # fmt: skip


def leaves(path: Path) -> dict[str, np.ndarray]:
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
        tree = reader.restore(path.absolute())
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree.leaves_with_path(tree)}


def same_params(one: Path, other: Path) -> bool:
    a, b = leaves(one), leaves(other)
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdirs", nargs=2, type=Path)
    parser.add_argument("--params", type=int, default=100, help="most checkpoints to read")
    args = parser.parse_args()
    one, other = args.workdirs
    failed = False
    mine, theirs = checkpoints(one), checkpoints(other)
    wrong = sorted(mine.keys() ^ theirs.keys())
    both = [name for name in mine if name in theirs][: args.params]
    wrong += [name for name in both if not same_params(mine[name], theirs[name])]
    print(json.dumps({"checkpoints": len(both), "different": wrong}))
    reports = [json.loads((path / "report.json").read_text()) for path in args.workdirs]
    by_name = [{row["method"]: row for row in report["rows"]} for report in reports]
    for name in by_name[0]:
        row, match = by_name[0][name], by_name[1].get(name, {})
        scores = [field for field in SCORES if row.get(field) != match.get(field)]
        found = {}
        for file in sorted((one / f"predictions/{name}").glob("*.jsonl")):
            a, b = rows(file), rows(other / f"predictions/{name}" / file.name)
            found[file.name] = sum(
                any(x.get(f) != y.get(f) for f in FIELDS) for x, y in zip(a, b, strict=True)
            )
        failed |= bool(scores or any(found.values()))
        print(json.dumps({"row": name, "scores": scores, "chains": found}))
    return int(failed or bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
