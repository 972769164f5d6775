"""Time of KPOD's schedule, and how closely it follows its ceiling; JSON lines.

    .venv/bin/python tests/benchmarks/kpod_schedule.py

Difficulties are simulated: 3 to 8 steps a question, each drawn from a gamma distribution (shape 2,
scale 0.5). A line for each kind of schedule and number of stages: seconds, the largest distance
between H and D (in percent of B) before the last stage and at it, and how often the set of each
solver was the best.
"""

import argparse
import json
import time
from collections import Counter

import numpy as np

from asesjax.methods.kpod.options import KpodOptions
from asesjax.methods.kpod.schedule import make_schedule


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=7473, help="as many as GSM8K has")
    parser.add_argument("--stages", default="10,50")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    random, n = np.random.default_rng(args.seed), args.questions
    difficulties = [random.gamma(2, 0.5, random.integers(3, 9)) for _ in range(n)]
    clusters, losses = random.integers(0, 5, n), random.random(n)
    for kind in ("progressive", "self_paced"):
        for n_stages in map(int, args.stages.split(",")):
            settings = KpodOptions(schedule=kind, n_stages=n_stages)
            start = time.perf_counter()
            made = make_schedule(difficulties, clusters, losses, settings)
            seconds = time.perf_counter() - start
            short = 100 * (made.ceiling - made.difficulty) / made.ceiling[-1]
            print(json.dumps({
                "kind": kind, "questions": n, "stages": n_stages, "seconds": round(seconds, 3),
                "short_before_last": round(float(short[:-1].max()), 4),
                "short_at_last": round(float(short[-1]), 2), "solvers": Counter(made.solver),
            }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
