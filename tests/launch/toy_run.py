"""A run of three stages without a model, as a verb of the command line: ``toy_run.py WORKDIR STAGE
SECONDS N I PORT``. Process 0 works alone in "first", "last" and at the end of "train" ("measure"),
for so many seconds in the STAGE; all count together in "train", a collective a step, and save where
they stop.
"""

import json
import sys
import time
import types
from pathlib import Path

from asesjax.cli import main as cli


def run(args):
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    from asesjax.core.processes import (
        all_stop,
        check_same,
        follow,
        from_first,
        is_first,
        leading,
        several,
    )
    from asesjax.core.signals import check_stop, stopped
    from asesjax.core.stages import Stage, run_stages

    workdir, steps = Path(args.workdir), 100

    def alone(name):
        print(f"in {name}", flush=True)
        end = time.monotonic() + args.seconds * (name == args.stage)
        while time.monotonic() < end:
            check_stop()
            time.sleep(0.02)

    def train():
        state = workdir / "state.json"
        at, total = json.loads(state.read_text()) if state.exists() else (0, 0)
        while at < steps:
            if all_stop():
                if is_first():
                    state.write_text(json.dumps([at, total]))
                raise stopped(f"stopped by SIGTERM after step {at}; the same command resumes")
            at += 1
            own = np.int32((jax.process_index() + 1) * at)
            total += int(multihost_utils.process_allgather(own).sum()) if several() else 3 * at
            if at == 5:
                print("in train", flush=True)
            time.sleep(0.02)
        if is_first():
            (workdir / "total").write_text(str(total))
        from_first(lambda: alone("measure"))

    check_same({})
    stages = [
        Stage("first", lambda: alone("first"), {}),
        Stage("train", train, {}, ("first",), together=True),
        Stage("last", lambda: alone("last"), {}, ("train",)),
    ]
    if not is_first():
        return follow([stage.run for stage in stages])
    with leading() as together:
        stages[1] = Stage("train", together(1, train), {}, ("first",))
        run_stages(stages, workdir)


if __name__ == "__main__":
    workdir, stage, seconds, n, i, port = sys.argv[1:]
    toy = types.ModuleType("asesjax.cli.toy")
    toy.add_arguments, toy.main = cli.add_run_arguments, run
    sys.modules["asesjax.cli.toy"] = toy
    cli.VERBS["toy"] = "for this test"
    sys.argv[1:] = ["toy", "--workdir", workdir]
    if int(n) > 1:
        sys.argv += ["--coordinator", f"localhost:{port}", "--processes", n, "--process", i]
    real = cli.argparse.Namespace
    cli.argparse.Namespace = lambda **more: real(stage=stage, seconds=float(seconds), **more)
    sys.exit(cli.main())
