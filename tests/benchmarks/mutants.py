"""Whether the tests notice mistakes in the functions that matter most; a JSON line per mistake.

    .venv/bin/python tests/benchmarks/mutants.py
    .venv/bin/python tests/benchmarks/mutants.py --only sampling

Each mistake of the table is made by itself in a copy of the project, where the default ones of the
named tests then run until one fails. A line has the function, what was changed to what, the test
that failed (null: none did) and seconds. Exit status 1 if no test failed for some mistake. Without
mistakes the tests must pass.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("asesjax", "configs", "tests", ".pytest.ini")
# Function, its file in the package, the tests that are about it, and what becomes what there.
MUTANTS = (
    ("losses", "losses.py", "tests/test_losses.py", (
        ("loss = nll = log_z - target_logit", "loss = nll = target_logit - log_z"),
        ("(target_logit - jnp.mean(logits", "(target_logit - jnp.sum(logits"),
        ("jnp.where(used, log_z, 0.0)", "log_z"),
        ("jnp.where(used, values * weights, 0.0)", "jnp.where(used, values, 0.0)"),
        ("target_logit >= jnp.max", "target_logit > jnp.max"),
        ("g * cotangent.loss_sum.astype(g.dtype)", "g"),
        ('jnp.max(batch["decoder_segment_ids"], axis=-1)',
         'jnp.max(batch["decoder_segment_ids"], axis=0)'),
        ('batch["example_index"] >= 0', 'batch["example_index"] > 0'),
        ('{"weights": sums.weight_sum, "examples": n_examples}',
         '{"weights": n_examples, "examples": sums.weight_sum}'),
    )),
    ("labels", "segmentation/label.py", "tests/segmentation/test_score_label.py", (
        ("in values > threshold", "in values >= threshold"),
        ("beta * values.mean()", "beta * values.sum()"),
        ("groups[-1][0] == label", "groups[0][0] == label"),
        ("None if c.isspace() else segment.label", "segment.label"),
        ("n_es >= n_as", "n_es > n_as"),
        ("counts[LABELS.index(ours), 1]", "counts[LABELS.index(right), 1]"),
        ("(2 * tp + fp + fn)", "(tp + fp + fn)"),
    )),
    ("packing", "data/packing.py", "tests/data/test_packing.py tests/data/test_loss_from.py", (
        ('["decoder_input_tokens"][i, t + 1 : t_end] = targets[:-1]',
         '["decoder_input_tokens"][i, t:t_end] = targets'),
        ('["encoder_segment_ids"][i, s:s_end] = segment',
         '["encoder_segment_ids"][i, s:s_end] = 1'),
        ("enumerate(members, start=1)", "enumerate(members, start=0)"),
        ("[i, t:t_end] = weights", "[i, t:t_end] = 1.0"),
        (".at(progress)", ".at(1.0)"),
        ("packing.kind_of_example[order]", "packing.kind_of_example"),
        ("(after_source < 0) | (after_target < 0)", "(after_source < 0)"),
    )),
    ("answers", "evals/answers.py", "tests/evals/test_answers.py", (
        ('found or mark == "box"', "found"),
        ("value(numbers[-1])", "value(numbers[0])"),
        (", text, re.IGNORECASE)", ", text)"),
        ("boxed[-1][2]", "boxed[0][2]"),
        ("found[0 if first else -1]", "found[0]"),
        ("letters[-1] if letters", "letters[0] if letters"),
        ("return said is not None and said == reference", "return said == reference"),
        ('.rstrip("./")', ""),
        ('own if _behind(chain, own)[1] == "marker" else MARKER', "own"),
    )),
    ("schedule", "methods/kpod/schedule.py", "tests/methods/test_kpod_schedule.py", (
        ("** (settings.power + 1)", "** settings.power"),
        ("np.exp(np.asarray(weights[: len(losses)], np.float64))",
         "np.asarray(weights[: len(losses)], np.float64)"),
        ("stages[:, None] <= np.arange(n_steps)", "stages[:, None] < np.arange(n_steps)"),
        ("np.where(rounded > share, np.nextafter(rounded, np.float32(0)), rounded)", "rounded"),
        ("candidates & (costs <= budget)", "candidates & (costs < budget)"),
        ("math.sqrt(taken[k] + 1) - math.sqrt(taken[k])", "math.sqrt(taken[k] + 1)"),
        ("taken[k] += 1", "taken[k] = 1"),
        ("limit - tails[rows, now].sum()", "limit - tails[rows, after].sum()"),
        ("while t == 0 and chosen:", "while False:"),
        ('np.argsort(losses, kind="stable")', 'np.argsort(-losses, kind="stable")'),
    )),
)  # fmt: skip


def mutate(text: str, old: str, new: str) -> str:
    """Make one change; refuse a table that no longer fits the package."""
    if text.count(old) != 1:
        raise SystemExit(f"{old!r} is there {text.count(old)} times, not once; update {__file__}")
    return text.replace(old, new)


def run_tests(folder: Path, tests: str) -> str | None:
    """Return the first test that fails in a copy of the project, None where all pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-rfE", "--tb=no", "-p", "no:cacheprovider"]
    environment = os.environ | {
        "PYTHONPATH": str(folder), "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        # What a file was compiled to is known by its size and second of change.
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    done = subprocess.run([*command, "-m", "not slow and not gpu", *tests.split()], cwd=folder,
                          env=environment, capture_output=True, text=True)  # fmt: skip
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", done.stdout, re.MULTILINE)
    if not failed and done.returncode:
        raise SystemExit(f"pytest {tests}: exit status {done.returncode}\n{done.stdout[-2000:]}")
    return failed[1] if failed else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = list(dict.fromkeys(name for name, *_ in MUTANTS))
    parser.add_argument("--only", choices=names, help="one function")
    args = parser.parse_args()
    survived = False
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, folder / name)
        for name, file, tests, changes in MUTANTS:
            place = folder / "asesjax" / file
            whole = place.read_text()
            for old, new in changes if args.only in (None, name) else ():
                place.write_text(mutate(whole, old, new))
                begun = time.perf_counter()
                test = run_tests(folder, tests)
                seconds = round(time.perf_counter() - begun, 1)
                survived |= test is None
                print(json.dumps({"function": name, "mutant": f"{old}  ->  {new}",
                                  "killed_by": test, "seconds": seconds}), flush=True)  # fmt: skip
            place.write_text(whole)
    sys.exit(int(survived))


if __name__ == "__main__":
    main()
