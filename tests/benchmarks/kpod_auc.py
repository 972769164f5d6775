"""Whether KPOD's token weights rank computed tokens above filler words; a JSON line per seed.

    .venv/bin/python tests/benchmarks/kpod_auc.py --workdir runs/kpod-auc --seeds 0,1,2

Trains the weighting module of --config (configs/kpod.py) on the embedded task, whose gold segments
give the class of each token. The AUC is the probability that a token of one class weighs more than
one of another (ties count half), over all tokens of the rationales of a split:

  auc            results and operators above filler words
  auc_results    the number behind "="
  auc_operators  + - * /; auc_operands  the numbers beside them
  auc_words      "more", "fewer", "twice", "half", which name the operation
  auc_names      of people, for comparison

Filler words are "has", "as", "many", "than", the counted things, and ".". Other arguments are
overrides: --config.kpod.alpha=0.7.
"""

import argparse
import json
import re
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from asesjax.cli.main import split_overrides
from asesjax.core.files import read_json, read_jsonl
from asesjax.core.types import AS
from asesjax.data.corpus import read_corpus
from asesjax.data.generators.math_problems import ITEMS, NAMES
from asesjax.experiment import execute, open_run
from asesjax.methods.kpod.stages import WEIGHTS
from asesjax.methods.kpod.steps import step_ends

FILLERS = {"has", "as", "many", "than", ".", *(word for pair in ITEMS for word in pair)}
WORDS = {"more", "fewer", "twice", "half"}
OPERATORS = set("+-*/")


def classes(record, tokens: list[str]) -> list[str]:
    """Return the class of each token of a rationale, "" for none."""
    ends = np.cumsum([len(segment.text) for segment in record.gold])
    out, place = [], 0
    words = [token.strip() for token in tokens]
    for i, word in enumerate(words):
        middle = place + len(tokens[i]) / 2
        computes = record.gold[int(np.searchsorted(ends, middle))].label == AS
        place += len(tokens[i])
        is_number = re.fullmatch(r"\d+", word) is not None
        if word in FILLERS:
            out.append("filler")
        elif computes and word in OPERATORS:
            out.append("operator")
        elif computes and is_number:
            out.append("result" if words[i - 1] == "=" else "operand")
        else:
            out.append("word" if word in WORDS else "name" if word in NAMES else "")
    return out


def auc(high: list[float], low: list[float]) -> float:
    """Probability that one of ``high`` is above one of ``low``, ties counting half."""
    ranks = rankdata(np.concatenate([high, low]))[: len(high)]
    return (ranks.sum() - len(high) * (len(high) + 1) / 2) / (len(high) * len(low))


def main() -> None:
    rest, overrides = split_overrides(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/kpod.py")
    parser.add_argument("--workdir", default="runs/kpod-auc")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--split", default="validation", choices=("train", "validation"))
    args = parser.parse_args(rest)
    for seed in args.seeds.split(","):
        workdir = Path(args.workdir) / f"seed-{seed}"
        run = open_run(args.config, workdir, overrides | {"seed": seed})
        # Progress goes to standard error; standard output is JSON lines alone.
        execute(type(run)(run.config, run.workdir, lambda line: print(line, file=sys.stderr)),
                until=("kpod-weights",))  # fmt: skip
        of: dict[str, list[float]] = defaultdict(list)
        template = run.config.data.answer_template
        for record in read_corpus(workdir, args.split, template, [WEIGHTS]):
            tokens = record.chain.token_texts()[: step_ends(record)[-1]]
            weights = record.annotations["weights"].tolist()
            for name, weight in zip(classes(record.record, tokens), weights, strict=False):
                of[name].append(weight)
        filler, everything = of["filler"], sum(of.values(), [])
        role = workdir / "roles/kpod_weights/weights"
        metrics = [row for _, row in read_jsonl(role / "metrics.jsonl")]
        last = [row for row in metrics if row["kind"] == "validation"][-1]
        print(json.dumps({
            "seed": int(seed), "alpha": run.config.kpod.alpha,
            "auc": round(auc(of["result"] + of["operator"], filler), 4),
            **{f"auc_{name}s": round(auc(of[name], filler), 4)
               for name in ("result", "operator", "operand", "word", "name")},
            "weights": {name or "other": round(float(np.mean(own)), 3)
                        for name, own in sorted(of.items())},
            "kept_share": round(float(np.mean(everything)), 3),
            "above_half": round(float(np.mean(np.array(everything) > 0.5)), 3),
            "validation_loss": round(last["validation_loss"], 4),
            "answer_accuracy": round(last["validation_accuracy"], 4),
            "seconds": round(read_json(role / "result.json")["seconds"], 1),
        }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
