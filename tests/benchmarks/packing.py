"""Share of real tokens in padded, bucketed and packed batches; JSON lines.

    .venv/bin/python tests/benchmarks/packing.py --data DIR

DIR holds gsm8k/train.jsonl and t5_vocab/spiece.model. The examples are the AS-ES ones of GSM8K's
training questions, segmented by location, in T5's vocabulary. A line for each way of making
batches: the share of real tokens on the source and the target side over an epoch, examples a second
of the host's work (--steps batches), and the seconds of planning.

  longest   random batches, padded to the longest of the batch, as PyTorch trainers do
  bucketed  ``make_plan`` with buckets
  packed    ``make_plan`` with ``packed_length``; --batch examples a batch on average
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from asesjax.data.batching import batch_at, examples_per_row, make_plan, token_counts

SOURCE_BUCKETS = (64, 80, 96, 112, 128, 160, 192, 256, 448)
TARGET_BUCKETS = (16, 24, 32, 48, 72)


def gsm8k_examples(data: Path, n_records: int = 0) -> list:
    """AS-ES examples (USM) of GSM8K's training questions, all of them for 0."""
    # Here, because machines without ml_collections and sentencepiece import this file.
    from asesjax.config import base_config, finish
    from asesjax.data.corpus import encode_record
    from asesjax.data.sources import load_records
    from asesjax.data.vocab import load_vocabulary
    from asesjax.methods.method import make_method
    from asesjax.segmentation.pieces import split_pieces

    fields = {"data.source": "gsm8k", "data.path": str(data / "gsm8k")}
    fields |= {"data.n_train": str(n_records), "data.validation_share": "0.0"}
    config = finish(base_config(), fields)
    vocab = load_vocabulary("sentencepiece", str(data / "t5_vocab/spiece.model"))
    usm, examples = make_method("usm", config), []
    for record in load_records(config.data, "train", config.seed)[0]:
        encoded = encode_record(vocab, record, config.data.answer_template)
        pieces = split_pieces(encoded.chain.text, config.segment.short, config.segment.min_words)
        notes = {"pieces": np.ravel(pieces), "labels": np.arange(len(pieces)) % 2}
        examples += usm.examples(encoded._replace(annotations=notes), vocab)["main"]
    return examples


def longest_batches(examples, batch_size, seed):
    """Yield random batches of an epoch, padded to the longest on each side."""
    order = np.random.default_rng(seed).permutation(len(examples))
    for start in range(0, len(order) - batch_size + 1, batch_size):
        chosen = [examples[i] for i in order[start : start + batch_size]]
        source, target = token_counts(chosen).max(0)
        inputs = np.zeros((batch_size, source), np.int32)
        labels = np.zeros((batch_size, target), np.int32)
        for i, example in enumerate(chosen):
            inputs[i, : len(example.inputs)] = example.inputs
            labels[i, : len(example.targets)] = example.targets
        yield {"encoder_input_tokens": inputs, "decoder_target_tokens": labels}


def plan_batches(plan, examples):
    """Yield the batches of the first epoch."""
    for step in range(plan.epoch_start(1)):
        yield batch_at(plan, examples, step)


def measure(batches, n_timed):
    """Real share of both sides over all batches, and examples a second of the first ones."""
    real, places, n_examples = np.zeros(2), np.zeros(2), 0
    start, seconds = time.perf_counter(), 0.0
    for i, batch in enumerate(batches):
        if i < n_timed:
            seconds = time.perf_counter() - start
            index = batch.get("example_index", batch["encoder_input_tokens"][:, 0])
            n_examples += int((index >= 0).sum())
        sides = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
        real += [(side != 0).sum() for side in sides]
        places += [side.size for side in sides]
        if i < n_timed:
            start = time.perf_counter() - seconds  # counting is not the pipeline's work
    source, target = real / places
    return {
        "source_real": round(source, 4), "target_real": round(target, 4),
        "real": round(real.sum() / places.sum(), 4), "batches": i + 1,
        "examples_per_second": round(n_examples / seconds),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=64, help="examples a batch")
    parser.add_argument("--packed-length", type=int, default=512)
    parser.add_argument("--records", type=int, default=0, help="questions; 0 for all")
    parser.add_argument("--steps", type=int, default=200, help="batches that are timed")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    examples = gsm8k_examples(args.data, args.records)
    source, target = token_counts(examples).mean(0)
    print(json.dumps({"examples": len(examples), "mean_source": round(float(source), 1),
                      "mean_target": round(float(target), 1)}))  # fmt: skip

    def show(name, batches, **more):
        print(json.dumps({"batches_are": name} | measure(batches, args.steps) | more), flush=True)

    show("longest", longest_batches(examples, args.batch, args.seed), rows=args.batch)
    for name, packed_length in (("bucketed", 0), ("packed", args.packed_length)):
        start = time.perf_counter()
        rows = max(1, round(args.batch / examples_per_row(examples, packed_length)))
        plan = make_plan(examples, rows, SOURCE_BUCKETS, TARGET_BUCKETS, args.seed,
                         packed_length=packed_length)  # fmt: skip
        seconds = time.perf_counter() - start
        show(name, plan_batches(plan, examples), rows=rows, shapes=plan.shapes,
             plan_seconds=round(seconds, 2))  # fmt: skip


if __name__ == "__main__":
    main()
