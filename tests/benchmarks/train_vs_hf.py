"""Training tokens a second: PyTorch and transformers against this package; JSON lines.

    .venv/bin/python tests/benchmarks/train_vs_hf.py --data DIR --size small --batch 64

DIR holds gsm8k/train.jsonl and t5_vocab/spiece.model. The examples are the AS-ES ones of GSM8K,
segmented by location, in T5's vocabulary. All contestants start from the same random weights (ours,
converted by ``hf_io``), in float32, with AdamW at a constant rate and without dropout:

  torch     random batches padded to the longest, as the authors of AS-ES train
  bucketed  our step on batches of ``make_plan`` with buckets
  packed    our step on packed rows, --batch examples a batch on average

First come the losses of --curve-steps steps in which all three get the same examples in every step:
a line per step, then the largest difference. Then come --rounds rounds, in which each trains
--steps steps on batches of its own kind, in turns. The line of a round counts real tokens (source
and target, without padding) a second, including the time of making batches, without that of
compiling. The last line has the medians and their ratios to torch.
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

import jax
import numpy as np
from packing import SOURCE_BUCKETS, TARGET_BUCKETS, gsm8k_examples, longest_batches

from asesjax.config import base_config, finish
from asesjax.data.batching import batch_at, eval_batches, examples_per_row, make_plan
from asesjax.models import t5
from asesjax.models.hf_io import save_hf
from asesjax.models.presets import preset
from asesjax.models.t5_config import T5Config
from asesjax.sharding.mesh import make_mesh
from asesjax.sharding.place import batch_sharding, param_shardings, put_batch, rules
from asesjax.training import optim, state, step

MODELS = {
    "tiny": T5Config(vocab_size=32128, d_model=128, d_kv=32, d_ff=512, n_heads=4),
    "small": dataclasses.replace(preset("t5-small"), dropout=0.0),
}
RATE, BETAS = 1e-3, (0.9, 0.999)


class Torch:
    """A model of transformers, its optimizer and its step."""

    def __init__(self, folder: str, compiled: bool):
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.torch = torch
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        model = transformers.T5ForConditionalGeneration.from_pretrained(folder)
        self.model = model.to(self.device, torch.float32).train()
        self.forward = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=RATE, betas=BETAS, eps=1e-8, weight_decay=0.0
        )

    def step(self, batch: dict) -> float:
        """Train on one batch and return the loss before."""
        tensor = lambda name: self.torch.from_numpy(batch[name]).long().to(self.device)  # noqa: E731
        inputs, labels = tensor("encoder_input_tokens"), tensor("decoder_target_tokens")
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.forward(
            input_ids=inputs, attention_mask=(inputs != 0).long(),
            labels=labels.masked_fill(labels == 0, -100),
        ).loss  # fmt: skip
        loss.backward()
        self.optimizer.step()
        return loss.item()


class Ours:
    """The compiled step of this package and its state."""

    def __init__(self, config: T5Config, params, n_rows: int):
        fields = {
            "train.optimizer": "adamw", "train.learning_rate": str(RATE), "train.clip_norm": "0.0",
            "train.schedule": "constant", "train.warmup_share": "0.0", "train.weight_decay": "0.0",
            "train.beta1": str(BETAS[0]), "train.beta2": str(BETAS[1]),
            "train.batch_size": str(n_rows),
        }  # fmt: skip
        train = finish(base_config(), fields).train
        self.mesh = make_mesh(devices=jax.devices()[:1])
        optimizer = optim.make_optimizer(train, 1000)
        shapes = jax.eval_shape(lambda: params)
        on = param_shardings(self.mesh, rules("dp"), t5.logical_axes(config), shapes)
        target = state.state_target(optimizer, shapes, on, self.mesh)
        copied = jax.tree.map(np.array, params)  # the step gives its buffers away
        self.state = state.state_from_params(optimizer, target, copied)
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


def compare_losses(args, config, params, folder, examples, plan):
    """Train all three on the examples of the same packed batches, and print their losses."""
    n_rows = plan.batch_size * plan.packing.most
    longest = [(int(plan.lengths[:, side].max()),) for side in (0, 1)]
    torch, plain, packed = Torch(folder, False), *(Ours(config, params, n) for n in (n_rows, 1))
    worst = 0.0
    for i in range(args.curve_steps):
        batch = batch_at(plan, examples, i)
        chosen = [examples[k] for k in batch["example_index"].ravel() if k >= 0]
        (padded,) = eval_batches(chosen, n_rows, *longest)
        (random,) = longest_batches(chosen, len(chosen), seed=i)
        losses = {
            "torch": torch.step(random), "bucketed": plain.loss(padded),
            "packed": packed.loss(batch),
        }  # fmt: skip
        worst = max(worst, *(abs(loss / losses["torch"] - 1) for loss in losses.values()))
        print(json.dumps({"step": i + 1, "examples": len(chosen)}
                         | {k: round(v, 6) for k, v in losses.items()}), flush=True)  # fmt: skip
    print(json.dumps({"largest_relative_difference_of_losses": float(f"{worst:.2e}")}), flush=True)


def count(batch: dict) -> int:
    """Real tokens of a batch."""
    sides = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
    return int(sum((side != 0).sum() for side in sides))


def warm_up(contestant, plan, examples):
    """Meet every shape of an epoch once, before the clock starts."""
    missing = set(plan.shapes)
    for i in range(plan.epoch_start(1)):
        batch = batch_at(plan, examples, i)
        shape = batch["encoder_input_tokens"].shape[1], batch["decoder_input_tokens"].shape[1]
        if shape in missing:
            contestant.loss(batch)
            missing.remove(shape)


def race(args, config, params, folder, examples, plans):
    """Let the contestants take turns and print what each does in a round, and the medians."""
    torch = Torch(folder, args.compile)
    epochs = (longest_batches(examples, args.batch, args.seed + i) for i in itertools.count())
    feeds = {"torch": itertools.chain.from_iterable(epochs)}
    ours = {}
    for name, plan in plans.items():
        ours[name] = Ours(config, params, plan.batch_size)
        feeds[name] = map(functools.partial(batch_at, plan, examples), itertools.count())
        warm_up(ours[name], plan, examples)
    torch.step(next(feeds["torch"]))
    rates = {name: [] for name in feeds}
    for number in range(args.rounds):
        for name, feed in feeds.items():
            tokens, metrics, start = 0, None, time.perf_counter()
            for _ in range(args.steps):
                batch = next(feed)
                tokens += count(batch)
                metrics = torch.step(batch) if name == "torch" else ours[name].step(batch)
            jax.block_until_ready(metrics)
            seconds = time.perf_counter() - start
            rates[name].append(tokens / seconds)
            print(json.dumps({"round": number + 1, "contestant": name, "real_tokens": tokens,
                              "seconds": round(seconds, 3),
                              "real_tokens_per_second": round(tokens / seconds, 1)}),
                  flush=True)  # fmt: skip
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {
        name: statistics.median(a / b for a, b in zip(rates[name], rates["torch"], strict=True))
        for name in plans
    }
    print(json.dumps({
        "size": args.size, "batch": args.batch, "steps": args.steps, "rounds": args.rounds,
        "rows": {name: plan.batch_size for name, plan in plans.items()},
        "shapes": {name: plan.shapes for name, plan in plans.items()},
        "real_tokens_per_second": {name: round(value, 1) for name, value in medians.items()},
        "times_torch": {name: round(value, 3) for name, value in ratios.items()},
        "device": jax.devices()[0].device_kind, "torch_device": torch.device,
    }))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--size", choices=sorted(MODELS), default="tiny")
    parser.add_argument("--batch", type=int, default=64, help="examples a batch")
    parser.add_argument("--packed-length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=10, help="of a contestant in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--curve-steps", type=int, default=5)
    parser.add_argument("--records", type=int, default=0, help="questions; 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    args = parser.parse_args()
    examples = gsm8k_examples(args.data, args.records)
    config = MODELS[args.size]
    params = t5.init(config, jax.random.key(args.seed))
    rows = max(1, round(args.batch / examples_per_row(examples, args.packed_length)))
    of = lambda n, **more: make_plan(  # noqa: E731
        examples, n, SOURCE_BUCKETS, TARGET_BUCKETS, args.seed, **more
    )
    plans = {"bucketed": of(args.batch), "packed": of(rows, packed_length=args.packed_length)}
    with tempfile.TemporaryDirectory() as folder:
        save_hf(folder, config, params)
        if args.curve_steps:
            compare_losses(args, config, params, folder, examples, plans["packed"])
        race(args, config, params, folder, examples, plans)


if __name__ == "__main__":
    main()
