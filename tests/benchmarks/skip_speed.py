"""Time and tokens of answering one question at a time, relative to the first method; JSON lines.

    .venv/bin/asesjax run --config configs/skip_thinking.py --workdir runs/skip
    .venv/bin/python tests/benchmarks/skip_speed.py runs/skip --questions 50

Methods take turns in every round; the ratio is that of the medians of their times.
"""

import argparse
import json
import statistics

from asesjax.data.sources import read_records
from asesjax.evals.runner import answer_questions
from asesjax.experiment import open_run
from asesjax.run import load_method, own_mesh


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir")
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    run = open_run(None, args.workdir, {"decode.batch_size": "1"})
    records = read_records(run / "data/test.jsonl")[: args.questions]
    times: dict[str, list[float]] = {name: [] for name in run.config.methods}
    tokens = {}
    methods = {name: load_method(run, name) for name in times}
    for number in range(args.rounds):
        for name, method in methods.items():
            answers, seconds = answer_questions(method, records, own_mesh(run), timed=not number)
            times[name].append(seconds / len(records))
            tokens[name] = sum(chain.tokens for (chain,) in answers) / len(records)
    first = next(iter(times))
    for name, own in times.items():
        ratio = statistics.median(own) / statistics.median(times[first])
        spread = [min(own) / statistics.median(own), max(own) / statistics.median(own)]
        print(json.dumps({
            "method": name, "tokens_per_question": tokens[name],
            f"time_per_question_over_{first}": ratio, "spread": spread,
            "questions": len(records), "rounds": args.rounds,
        }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
