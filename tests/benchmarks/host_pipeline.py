"""Time of the host's work before and during training: corpus, examples, batches; JSON lines.

    .venv/bin/python tests/benchmarks/host_pipeline.py --data DIR

DIR holds gsm8k/train.jsonl and t5_vocab/spiece.model. The examples are the AS-ES ones (USM) of
GSM8K's training questions, segmented by location, in T5's vocabulary, made by the functions of
``asesjax train``. Lines:

  data stage     seconds to read the records, encode them and write the corpus, and its size
  examples       seconds to make the examples of the corpus, first and second time
  packed, padded examples a second of an epoch's batches, first and second epoch, and the seconds of
                 planning before them

Goal: 20,000 packed examples a second.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from asesjax.config import base_config, finish
from asesjax.data.batching import batch_at, examples_per_row, make_plan
from asesjax.jobs import data as data_jobs
from asesjax.jobs import training
from asesjax.methods.ases import stages as segmentation
from asesjax.methods.method import make_method
from asesjax.run import Run

SOURCE_BUCKETS = (64, 80, 96, 112, 128, 160, 192, 256, 448)
TARGET_BUCKETS = (16, 24, 32, 48, 72)


def show(what, **facts):
    facts = {k: round(v, 3) if isinstance(v, float) else v for k, v in facts.items()}
    print(json.dumps({"measured": what} | facts), flush=True)


def timed_examples(run):
    """Return the examples, made as at the start of ``asesjax train``, and print the seconds."""
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        examples = training.role_examples(run, make_method("usm", run.config), "train")["main"]
        seconds.append(round(time.perf_counter() - start, 3))
    show("examples", seconds=seconds, examples=len(examples))
    return examples


def time_epochs(examples, packed_length, batch):
    start = time.perf_counter()
    rows = max(1, round(batch / examples_per_row(examples, packed_length)))
    plan = make_plan(examples, rows, SOURCE_BUCKETS, TARGET_BUCKETS, 0, packed_length=packed_length)
    seconds = time.perf_counter() - start
    speeds = []
    for epoch in range(2):
        steps = range(plan.epoch_start(epoch), plan.epoch_start(epoch + 1))
        start = time.perf_counter()
        n = sum(int((batch_at(plan, examples, s)["example_index"] >= 0).sum()) for s in steps)
        speeds.append(round(n / (time.perf_counter() - start)))
    show("packed" if packed_length else "padded", examples_per_second=speeds, plan_seconds=seconds,
         rows=rows, batches=len(steps))  # fmt: skip


def prepared(args, folder):
    fields = {
        "data.source": "gsm8k", "data.path": str(args.data / "gsm8k"), "data.n_train": "0",
        "data.n_validation": "100", "data.n_test": "10", "vocab.kind": "sentencepiece",
        "vocab.path": str(args.data / "t5_vocab/spiece.model"), "vocab.max_unknown_share": "0.05",
        "segment.strategy": "location",
    }  # fmt: skip
    return Run(finish(base_config(), fields), Path(folder), say=lambda text: None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=64, help="examples a batch")
    parser.add_argument("--packed-length", type=int, default=512)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = prepared(args, folder)
        start = time.perf_counter()
        data_jobs.prepare_data(run)
        size = sum(file.stat().st_size for file in (run / "corpus").glob("*/*"))
        show("data stage", seconds=time.perf_counter() - start, corpus_megabytes=size / 1e6)
        segmentation.score_pieces(run)
        segmentation.segment_pieces(run)
        examples = timed_examples(run)
        time_epochs(examples, args.packed_length, args.batch)
        time_epochs(examples, 0, args.batch)


if __name__ == "__main__":
    main()
