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
    ("advance and judge", "decode/segment.py", "tests/decode/test_iterative.py", (
        ("(ids < spec.vocab_limit)", "(ids <= spec.vocab_limit)"),
        ("s.step + 1 >= s.bound", "s.step >= s.bound"),
        ("return where_rows(s.over, s, new)", "return new"),
        ("inputs.limits.max_chain_tokens - rows.output.length", "inputs.limits.max_chain_tokens"),
    )),
    ("advance and judge", "decode/segment.py", "tests/decode/test_judge.py", (
        ("(place >= 0) & (place < n_ids[:, None])", "(place < n_ids[:, None])"),
        ("| (is_last & ~cut)", "| is_last"),
        ("rows.turn >= spec.n_turns - 1", "rows.turn >= spec.n_turns"),
        ("previous=segment.ids", "previous=rows.previous"),
        ("again &= rows.rounds > 0", "again &= rows.rounds >= 0"),
        ("(same | (n_ids == 0)) & ~end & ~segment.looping", "(same | (n_ids == 0)) & ~end"),
        ("(same | (n_ids == 0)) & ~end & ~segment.looping",
         "(same | (n_ids == 0)) & ~segment.looping"),
        ("length >= inputs.limits.max_chain_tokens", "length > inputs.limits.max_chain_tokens"),
        ("rounds >= inputs.limits.max_rounds", "rounds > inputs.limits.max_rounds"),
        ("segment.end == turn.mark, number, next_turn", "segment.end == turn.mark, 0, next_turn"),
        ("(segment.end == PAD) & ~segment.looping", "(segment.end == PAD)"),
    )),
    ("advance and judge", "decode/segment.py", "tests/decode/test_turns.py", (
        ("jnp.where(is_forced, 0.0, log_p)", "log_p"),
        ("output.n_segments[:, None] - 2", "output.n_segments[:, None] - 1"),
    )),
    ("advance and judge", "decode/segment.py",
     "tests/decode/test_continuous.py::TestModes::test_forced_prefixes", (
        ("(s.step < n_forced) & (wanted != PAD)", "wanted != PAD"),
    )),
    ("sampling", "decode/sampling.py", "tests/decode/test_sampling.py", (
        ("logits / jax.lax", "logits * jax.lax"),
        ("axis=-1) >= k ", "axis=-1) > k "),
        ("jnp.where(p >= lowest[:, None], p, 0.0)", "jnp.where(p > lowest[:, None], p, 0.0)"),
        ("jax.random.fold_in(jax.random.wrap_key_data(key), step)",
         "jax.random.fold_in(jax.random.wrap_key_data(key), 0)"),
        ("u * sums.sum(axis=-1)", "u"),
        ("target - before", "target"),
        ("weights.shape[1] - 1 - jnp.argmax", "weights.shape[1] - jnp.argmax"),
        ("chosen - jax.nn.logsumexp(logits, axis=-1)", "chosen"),
    )),
    ("sampling", "decode/segment.py", "tests/decode/test_sampling.py", (
        ("before=rows.output.generated_tokens", "before=zeros"),
    )),
    ("sampling", "decode/spec.py", "tests/decode/test_sampling.py", (
        ("(seed, int(row), sample)", "(seed, int(row))"),
    )),
    ("checkpoint identity", "training/describe.py", "tests/training/test_describe.py", (
        ("self.vocab.fingerprint != vocab.fingerprint", "self.vocab.size != vocab.size"),
        ('_FREE = ("dropout", "dtype")', '_FREE = ("dropout", "dtype", "layer_norm_epsilon")'),
        ("self.vocab.size > self.model.vocab_size", "self.vocab.size > self.model.vocab_size + 1"),
        ("if fingerprint != vocab.fingerprint", "if not fingerprint"),
        ("vocab.fingerprint != known.vocab.fingerprint", "vocab.size != known.vocab.size"),
        ("if name in explicit and got[name] != value", "if name in explicit and not got[name]"),
    )),
    ("checkpoint identity", "training/checkpoint.py", "tests/training/test_checkpoint.py", (
        ('cursor.get("step") != step', 'cursor.get("step") is None'),
        ("in sorted(expected | found)", "in sorted(expected)"),
        ("_check_shapes(place, target.params)", "pass"),
    )),
    ("checkpoint identity", "training/checkpoint_files.py", "tests/training/test_checkpoint.py", (
        ('OF_WEIGHTS = ("params", "model.json", "vocab")', 'OF_WEIGHTS = ("params",)'),
        ("in reversed([n for n in", "in list([n for n in"),
        ("there[-1] if step is None", "there[0] if step is None"),
        ('(path / "params").is_dir()', "path.is_dir()"),
    )),
    ("checkpoint identity", "training/state.py", "tests/training/test_loop.py::"
     "test_a_folder_of_another_run_is_refused_and_left_alone", (
        ("name in cursor and cursor[name] != value", "name not in cursor"),
        ('"training examples": n_examples', '"training examples": n_steps'),
    )),
    ("hf names", "models/hf_names.py", "tests/models/test_hf_names.py", (
        ('"query": "q", "key": "k"', '"query": "k", "key": "q"'),
        ('f"encoder.{_BIAS}", True', 'f"encoder.{_BIAS}", False'),
        ("enumerate(blocks)", "enumerate(blocks, 1)"),
        ("value.T if self.transposed", "value if self.transposed"),
        ("(HEAD, True)", "(HEAD, False)"),
        ("if not config.tied", "if config.tied"),
        ('"decoder/decoder_norm/scale": ("decoder.', '"decoder/decoder_norm/scale": ("encoder.'),
    )),
    ("epochs per role", "training/duration.py", "tests/training/test_optim.py", (
        ('"epochs": value * n_examples', '"epochs": value * n_examples * share'),
        ("value / mean_tokens_per_example * share", "value / mean_tokens_per_example"),
        ("return max(1, round(steps))", "return round(steps)"),
        ("return max(1, round(steps))", "return max(1, int(steps))"),
        ("n * share > 1 - 1e-9", "n * share >= 1"),
        ("round(total_steps * share * k)", "int(total_steps * share * k)"),
    )),
    ("epochs per role", "training/duration.py", "tests/training/test_packed.py", (
        ("train.batch_size * examples_per_row", "train.batch_size"),
    )),
    ("epochs per role", "jobs/training.py", "tests/training/test_role_steps.py", (
        ("len(examples), share, per_row)", "len(examples), per_row, share)"),
        ("1 / len(method.roles)", "1"),
        ("token_counts(examples).sum(1)", "token_counts(examples).sum(0)"),
        ('examples["train"][role], 1', 'examples["train"][method.roles[0]], 1'),
    )),
    ("learning rate", "training/optim.py", "tests/training/test_optim.py", (
        ("jnp.asarray(step, jnp.float32) + 1.0", "jnp.asarray(step, jnp.float32)"),
        ("jnp.maximum(1.0, total - warmup)", "jnp.maximum(1.0, total)"),
        ("1.0 + jnp.cos(jnp.pi * done)", "1.0 - jnp.cos(jnp.pi * done)"),
        ("jnp.sqrt(warmup / jnp.maximum(update, warmup))", "warmup / jnp.maximum(update, warmup)"),
        ("-rate * u", "rate * u"),
        ("Scheduled(state.count + 1, state", "Scheduled(state.count, state"),
        ("last + (1.0 - last) * 0.5", "last + 0.5"),
    )),
)  # fmt: skip


def mutate(text: str, old: str, new: str) -> str:
    """Make one change; refuse a table that no longer fits the package."""
    if text.count(old) != 1:
        raise SystemExit(f"{old!r} is there {text.count(old)} times, not once; update {__file__}")
    return text.replace(old, new)


def run_tests(folder: Path, tests: str) -> str | None:
    """Return the first test that fails in a copy of the project, None where all pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-rfE", "--tb=no", "-p", "no:cacheprovider",
               "-m", "not long and not slow and not gpu"]  # fmt: skip
    environment = os.environ | {
        "PYTHONPATH": str(folder), "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        # What a file was compiled to is known by its size and second of change.
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    done = subprocess.run([*command, *tests.split()], cwd=folder, env=environment,
                          capture_output=True, text=True)  # fmt: skip
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
