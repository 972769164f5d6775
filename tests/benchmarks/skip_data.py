"""Chunks of a finished run's rationales that its student leaves out, by the model that continues
and the protected chunks; a JSON line per setting.

    .venv/bin/asesjax run --config configs/skip_thinking.py --workdir runs/skip
    .venv/bin/python tests/benchmarks/skip_data.py runs/skip --records 500
"""

import argparse
import json
import sys

from asesjax.experiment import open_run
from asesjax.methods.skip_thinking.report import left_out
from asesjax.methods.skip_thinking.skip_data import skip_rows
from asesjax.methods.skip_thinking.training import read_samples
from asesjax.run import load_method

SETTINGS = (
    {},
    {"skip.protect_first": "true", "skip.protect_last": "true"},
    {"skip.continuation": "teacher"},
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir")
    parser.add_argument("--records", type=int, default=500, help="training records to look at")
    args = parser.parse_args()
    # Progress goes to standard error; standard output is JSON lines alone.
    say = lambda line: print(line, file=sys.stderr)  # noqa: E731
    student = load_method(open_run(None, args.workdir), "cwt")
    for setting in SETTINGS:
        run = open_run(None, args.workdir, setting)
        run = type(run)(run.config, run.workdir, say)
        samples = read_samples(run, "train")[: args.records]
        found = left_out(skip_rows(run, student, samples), [sample.record for sample in samples])
        print(json.dumps({"setting": setting} | found), flush=True)


if __name__ == "__main__":
    main()
