"""Training tokens a second: PyTorch and transformers against this package; JSON lines.

    .venv/bin/python tests/benchmarks/train_vs_hf.py --data DIR --size small --batch 64

DIR holds gsm8k/train.jsonl and t5_vocab/spiece.model. The examples are the AS-ES ones of GSM8K,
segmented by location, in T5's vocabulary; without --data they are random ids of such lengths
(``random_work.py``). All contestants start from the same random weights (converted by ``hf_io``),
float32 whatever is computed in --dtype, with AdamW at a constant rate and without dropout:

  torch     random batches padded to the longest, as the authors of AS-ES train; with --compile
            those of bucketed, of few shapes, each of which is compiled once
  bucketed  our step on batches of ``make_plan`` with buckets
  packed    our step on packed rows, --batch examples a batch on average

First come the losses of --curve-steps steps in which all three get the same examples in every step:
a line per step, then the largest difference. Then come --rounds rounds, in which each trains
--steps steps on batches of its own kind, in turns. The line of a round counts real tokens (source
and target, without padding) a second, including the time of making batches, without that of
compiling. A last line for each contestant has medians, their ratios to torch, the share of the
device's bfloat16 peak (``mfu``: operations of real tokens, as training logs them;
``mfu_with_padding``: of all positions), and the most memory that this process had in use so far.

With --profile come, of each contestant, the kernels of two steps, and of packed the floor of a
step: its matrix products at the rates measured here for these very shapes, and its traffic of
parameters, gradients and moments at the rate of a copy. ``share_of_bandwidth`` is of that rate, for
the bytes that XLA counts.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path

import device
import jax
import numpy as np
import random_work
from packing import SOURCE_BUCKETS, TARGET_BUCKETS, gsm8k_examples, longest_batches

from asesjax.data.batching import batch_at, eval_batches, examples_per_row, make_plan
from asesjax.models import t5
from asesjax.models.hf_io import save_hf
from asesjax.models.presets import preset
from asesjax.models.t5_config import DTYPES, T5Config, token_flops
from asesjax.sharding.mesh import make_mesh
from asesjax.sharding.place import batch_sharding, param_shardings, put_batch, rules
from asesjax.training import optim, state, step
from asesjax.training.options import TrainOptions

MODELS = {
    "tiny": T5Config(vocab_size=32128, d_model=128, d_kv=32, d_ff=512, n_heads=4),
    **{size: dataclasses.replace(preset(f"t5-{size}"), dropout=0.0)
       for size in ("small", "base", "large")},
}  # fmt: skip
RATE, BETAS = 1e-3, (0.9, 0.999)


class Torch:
    """A model of transformers, its optimizer and its step."""

    def __init__(self, folder: str, dtype: str, backend: str = ""):
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.torch = torch
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        model = transformers.T5ForConditionalGeneration.from_pretrained(folder)
        self.model = model.to(self.device, torch.float32).train()
        compiled = functools.partial(torch.compile, dynamic=False, backend=backend)
        self.forward = compiled(self.model) if backend else self.model
        self.cast = torch.autocast(self.device, torch.bfloat16, enabled=dtype == "bfloat16")
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=RATE, betas=BETAS, eps=1e-8, weight_decay=0.0, fused=True
        )

    def step(self, batch: dict):
        """Start training on one batch and return the loss before."""
        tensor = lambda name: self.torch.from_numpy(batch[name]).long().to(self.device)  # noqa: E731
        inputs, labels = tensor("encoder_input_tokens"), tensor("decoder_target_tokens")
        self.optimizer.zero_grad(set_to_none=True)
        with self.cast:
            loss = self.forward(
                input_ids=inputs, attention_mask=(inputs != 0).long(),
                labels=labels.masked_fill(labels == 0, -100), use_cache=False,
            ).loss  # fmt: skip
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def loss(self, batch: dict) -> float:
        """Train on one batch and return the loss before."""
        return self.step(batch).item()

    def wait(self) -> None:
        """Wait until all steps are done."""
        if self.device == "cuda":
            self.torch.cuda.synchronize()


class Ours:
    """The compiled step of this package and its state."""

    torch = None

    def __init__(self, config: T5Config, params, n_rows: int, scan_layers: bool = False):
        train = TrainOptions(
            optimizer="adamw", learning_rate=RATE, clip_norm=0.0, schedule="constant",
            warmup_share=0.0, weight_decay=0.0, beta1=BETAS[0], beta2=BETAS[1], batch_size=n_rows,
            scan_layers=scan_layers,
        )  # fmt: skip
        self.mesh = make_mesh(devices=jax.devices()[:1])
        optimizer = optim.make_optimizer(train, 1000)
        shapes = jax.eval_shape(lambda: params)
        on = param_shardings(self.mesh, rules("dp"), t5.logical_axes(config), shapes)
        target = state.state_target(optimizer, shapes, on, self.mesh)
        self.state = state.state_from_params(optimizer, target, params)
        self.key = jax.device_put(jax.random.key(0), target.step.sharding)
        self.run = step.make_train_step(config, train, optimizer, target, batch_sharding(self.mesh))

    def step(self, batch: dict) -> jax.Array:
        """Start training on one batch and return its metrics."""
        self.state, metrics = self.run(self.state, put_batch(self.mesh, batch), self.key)
        return metrics

    def loss(self, batch: dict) -> float:
        """Train on one batch and return the loss before."""
        values = step.named(np.asarray(self.step(batch)))
        return values["loss_sum"] / values["normalizer"]

    def wait(self) -> None:
        """Wait until all steps are done."""
        jax.block_until_ready(self.state)


def compare_losses(args, config, params, folder, examples, plan):
    """Train all three on the examples of the same packed batches, and print their losses."""
    n_rows = plan.batch_size * plan.packing.most
    longest = [(int(plan.lengths[:, side].max()),) for side in (0, 1)]
    torch = Torch(folder, args.dtype)
    plain, packed = (Ours(config, params, n) for n in (n_rows, 1))
    worst = 0.0
    for i in range(args.curve_steps):
        batch = batch_at(plan, examples, i)
        chosen = [examples[k] for k in batch["example_index"].ravel() if k >= 0]
        (padded,) = eval_batches(chosen, n_rows, *longest)
        (random,) = longest_batches(chosen, len(chosen), seed=i)
        losses = {
            "torch": torch.loss(random), "bucketed": plain.loss(padded),
            "packed": packed.loss(batch),
        }  # fmt: skip
        worst = max(worst, *(abs(loss / losses["torch"] - 1) for loss in losses.values()))
        print(json.dumps({"step": i + 1, "examples": len(chosen)}
                         | {k: round(v, 6) for k, v in losses.items()}), flush=True)  # fmt: skip
    print(json.dumps({"largest_relative_difference_of_losses": float(f"{worst:.2e}")}), flush=True)


def sizes(config: T5Config, batch: dict) -> np.ndarray:
    """Examples, real tokens, and operations of training on these and on all positions."""
    sides = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
    real = [int((side != 0).sum()) for side in sides]
    each = token_flops(config, *(side.shape[1] for side in sides))
    flops = [3 * float(np.dot(each, tokens)) for tokens in (real, [side.size for side in sides])]
    return np.array([(batch["example_index"] >= 0).sum(), sum(real), *flops])


def numbered(batches):
    """Give batches of ``longest_batches`` the numbers of examples that ``sizes`` counts."""
    for batch in batches:
        yield batch | {"example_index": np.arange(len(batch["encoder_input_tokens"]))}


def warm_up(contestant, plan, examples) -> list[float]:
    """Meet every shape of an epoch once, before the clock starts; return the losses."""
    missing, losses = set(plan.shapes), []
    for i in range(plan.epoch_start(1)):
        batch = batch_at(plan, examples, i)
        shape = batch["encoder_input_tokens"].shape[1], batch["decoder_input_tokens"].shape[1]
        if shape in missing:
            losses.append(round(contestant.loss(batch), 4))
            missing.remove(shape)
    return losses


def race(args, config, params, folder, examples, plans):
    """Let the contestants take turns, and print what each does in a round and all in all."""
    contestants, feeds, losses = {}, {}, {}
    for name in args.contestants:
        if name == "torch":
            own = contestants[name] = Torch(folder, args.dtype, args.compile)
        else:
            own = contestants[name] = Ours(config, params, plans[name].batch_size, args.scan_layers)
        start = time.perf_counter()
        if name == "torch" and not args.compile:
            epochs = (longest_batches(examples, args.batch, args.seed + i)
                      for i in itertools.count())  # fmt: skip
            feeds[name] = numbered(itertools.chain.from_iterable(epochs))
            losses[name] = [round(own.loss(next(feeds[name])), 4)]
        else:
            plan = plans["bucketed" if name == "torch" else name]
            feeds[name] = map(functools.partial(batch_at, plan, examples), itertools.count())
            losses[name] = warm_up(own, plan, examples)
        print(json.dumps({"contestant": name, "first_losses": losses[name],
                          "compile_seconds": round(time.perf_counter() - start, 1)}),
              flush=True)  # fmt: skip
    rates = {name: [] for name in contestants}
    for number in range(args.rounds):
        for name, own in contestants.items():
            done, start = np.zeros(4), time.perf_counter()
            for _ in range(args.steps):
                batch = next(feeds[name])
                done += sizes(config, batch)
                own.step(batch)
            own.wait()
            seconds = time.perf_counter() - start
            rates[name].append(np.append(done / seconds, args.steps / seconds))
            print(json.dumps({"round": number + 1, "contestant": name, "real_tokens": int(done[1]),
                              "seconds": round(seconds, 3),
                              "real_tokens_per_second": round(done[1] / seconds, 1)}),
                  flush=True)  # fmt: skip
    for name, own in contestants.items():
        each = np.array(rates[name])
        examples_s, tokens_s, flops_s, with_padding_s, steps_s = np.median(each, 0)
        plan = plans.get(name)
        line = {
            "contestant": name, "size": args.size, "dtype": args.dtype, "batch": args.batch,
            "steps": args.steps, "rounds": args.rounds, "rows": plan and plan.batch_size,
            "shapes": plan and plan.shapes, "examples_per_second": round(examples_s, 1),
            "real_tokens_per_second": round(tokens_s, 1), "step_ms": round(1e3 / steps_s, 3),
            "slowest": round(each[:, 1].min(), 1), "fastest": round(each[:, 1].max(), 1),
            "mfu": device.share_of_peak(flops_s, own.torch),
            "mfu_with_padding": device.share_of_peak(with_padding_s, own.torch),
            "peak_memory_bytes": device.peak_memory(own.torch),
            "device": device.device_kind(own.torch),
        }  # fmt: skip
        if own.torch:
            line["attention"] = own.model.config._attn_implementation
        elif "torch" in rates:
            ratios = each[:, 1] / np.array(rates["torch"])[:, 1]
            line["times_torch"] = round(statistics.median(ratios), 3)
        print(json.dumps(line), flush=True)
        if args.profile:
            if plan and plan.packing:
                found = floor(config, params, plan, 1 / steps_s)
                if not args.scan_layers:  # a loop is counted once
                    (program,) = own.run.programs.values()
                    moved = program.cost_analysis().get("bytes accessed", 0.0)
                    found["share_of_bandwidth"] = moved * steps_s / 1e9 / found["copy_gb_s"]
                print(json.dumps({"contestant": name} | found), flush=True)
            profile(name, own, feeds[name])


def floor(config, params, plan, seconds):
    """The least time of a step on packed rows, beside the ``seconds`` that it takes."""
    found = device.products(config, plan.batch_size, *plan.shapes[0])
    times = device.product_times(found, config.activation_dtype)
    compute = 3e-3 * sum(kind["ms"] for kind in times.values())  # forward, and twice backward
    # Parameters and two moments are read and written, gradients written and read, all float32.
    moved = 8 * 4 * sum(x.size for x in jax.tree.leaves(params))
    copied = device.copy_rate()
    return {
        "floor_ms": 1e3 * max(compute, moved / copied), "step_ms": 1e3 * seconds,
        "over_floor": seconds / max(compute, moved / copied),
        "products_ms": 1e3 * compute, "optimizer_traffic_ms": 1e3 * moved / copied,
        "copy_gb_s": copied / 1e9, "share_of_product_rate": compute / seconds,
        "products_forward": times,
    }  # fmt: skip


def profile(name, own, feed):
    """Print the kernels of two steps."""
    batches = [next(feed) for _ in range(2)]

    def work():
        for batch in batches:
            own.step(batch)
        own.wait()

    work()
    print(json.dumps({"contestant": name, "steps_profiled": 2}
                     | device.top_kernels(work, own.torch)), flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="absent: random ids of GSM8K's lengths")
    parser.add_argument("--size", choices=sorted(MODELS), default="tiny")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of activations")
    parser.add_argument("--contestants", nargs="+", default=["torch", "bucketed", "packed"],
                        choices=["torch", "bucketed", "packed"])  # fmt: skip
    parser.add_argument("--batch", type=int, default=64, help="examples a batch")
    parser.add_argument("--packed-length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=10, help="of a contestant in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--curve-steps", type=int, default=5)
    parser.add_argument("--records", type=int, default=0, help="questions; 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", nargs="?", const="inductor", default="", metavar="BACKEND",
                        help="torch.compile")  # fmt: skip
    parser.add_argument("--scan-layers", action="store_true", help="compile one of our layers")
    parser.add_argument("--profile", action="store_true", help="also kernels and floor")
    args = parser.parse_args()
    if args.data:
        examples = gsm8k_examples(args.data, args.records)
        buckets = SOURCE_BUCKETS, TARGET_BUCKETS
    else:
        examples = random_work.examples(args.records or 3000, args.seed)
        buckets = tuple((length,) for length in random_work.LONGEST)
    config = dataclasses.replace(MODELS[args.size], dtype=args.dtype)
    params = random_work.params(config, args.seed)
    rows = max(1, round(args.batch / examples_per_row(examples, args.packed_length)))
    of = lambda n, **more: make_plan(examples, n, *buckets, args.seed, **more)  # noqa: E731
    plans = {"bucketed": of(args.batch), "packed": of(rows, packed_length=args.packed_length)}
    with tempfile.TemporaryDirectory() as folder:
        if "torch" in args.contestants or args.curve_steps:
            save_hf(folder, config, params)
        if args.curve_steps:
            compare_losses(args, config, params, folder, examples, plans["packed"])
        race(args, config, params, folder, examples, plans)


if __name__ == "__main__":
    main()
