"""How fast methods learn the embedded task under varied settings; a JSON line per method.

    .venv/bin/python tests/benchmarks/learnability.py --config configs/quickstart.py \
        --vary data.max_value=15,25 --vary train.optimizer=adamw,adafactor --seeds 0,1

Every combination of the varied fields and seeds is its own run below --workdir; the same command
resumes unfinished runs. Other arguments are overrides: --config.train.tokens=1000000.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

from asesjax.cli.main import split_overrides
from asesjax.core.files import read_json
from asesjax.experiment import execute, open_run


def main() -> None:
    rest, overrides = split_overrides(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--workdir", default="runs/learnability")
    parser.add_argument("--vary", action="append", default=[], help="field=value,value,...")
    parser.add_argument("--seeds", default="0")
    args = parser.parse_args(rest)
    fields = [entry.partition("=")[0] for entry in args.vary]
    values = [entry.partition("=")[2].split(",") for entry in args.vary]
    for chosen in itertools.product(args.seeds.split(","), *values):
        setting = dict(zip(["seed", *fields], chosen, strict=True))
        name = "-".join(f"{field}={value}" for field, value in setting.items())
        workdir = Path(args.workdir) / name
        run = open_run(args.config, workdir, overrides | setting)
        # Progress goes to standard error; standard output is JSON lines alone.
        execute(type(run)(run.config, run.workdir, lambda line: print(line, file=sys.stderr)))
        for row in read_json(workdir / "report.json")["rows"]:
            point = {name: row[name] for name in ("method", "questions", "accuracy",
                     "chain_accuracy", "first_wrong", "train_tokens", "train_steps",
                     "train_seconds")}  # fmt: skip
            curve = [[p["tokens"], p["accuracy"]] for p in row["curve"]]
            print(json.dumps(setting | point | {"curve": curve}), flush=True)


if __name__ == "__main__":
    main()
