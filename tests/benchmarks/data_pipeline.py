"""Seconds of each step from GSM8K's files to labelled segments and ids; JSON lines.

    .venv/bin/python tests/benchmarks/data_pipeline.py --data DIR

DIR holds gsm8k/train.jsonl and t5_vocab/spiece.model. Each step runs --times times on the 7,473
training questions in one process; the best and the median time are printed. Target: 3 s each for
segmentation by location and by the similarities.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from asesjax.config import base_config, finish
from asesjax.data.corpus import encode_text
from asesjax.data.examples import chain_text
from asesjax.data.sources import load_records, read_records, write_records
from asesjax.data.vocab import load_vocabulary, with_symbols
from asesjax.data.vocab_training import train_vocabulary
from asesjax.methods.ases.scoring import ScoredRecord, segment_scored
from asesjax.segmentation.pieces import piece_texts, split_pieces
from asesjax.segmentation.score import SCORES, ScoreInput


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--scratch", type=Path, default=Path("."), help="for a file of records")
    args = parser.parse_args()
    fields = {"data.source": "gsm8k", "data.path": str(args.data / "gsm8k"), "data.n_train": "0",
              "data.validation_share": "0.0"}  # fmt: skip
    config = finish(base_config(), fields)
    records, _ = load_records(config.data, "train", 0)
    chains = [chain_text(record, config.data.answer_template) for record in records]
    pieces = [tuple(split_pieces(chain)) for chain in chains]
    t5 = load_vocabulary("sentencepiece", str(args.data / "t5_vocab/spiece.model"))

    def score(kind):
        rows = []
        for record, chain in zip(records, chains, strict=True):
            cut = tuple(split_pieces(chain))
            score_input = ScoreInput(record.question, piece_texts(chain, cut), "en", ())
            scores = {kind: SCORES.get(kind).function(score_input).tolist()}
            rows.append(ScoredRecord(record.id, chain, cut, scores))
        return segment_scored(rows, kind, 1.0)

    def encode(vocab):
        for chain, cut in zip(chains, pieces, strict=True):
            encode_text(vocab, chain).piece_of_tokens(cut)

    file = args.scratch / "data_pipeline.jsonl.tmp"
    steps = {
        "read gsm8k": lambda: load_records(config.data, "train", 0),
        "write records": lambda: write_records(file, records),
        "read records": lambda: read_records(file),
        "segment by location": lambda: score("location"),
        "segment by bleu": lambda: score("bleu"),
        "segment by rouge": lambda: score("rouge"),
        "tokenise chains, T5": lambda: t5.encode_batch(chains),
        "tokenise chains with pieces, T5": lambda: encode(t5),
        "tokenise chains with pieces, T5 and symbols": lambda: encode(with_symbols(t5)),
        "train a vocabulary of 2000": lambda: train_vocabulary(chains, 2000),
    }
    try:
        for name, work in steps.items():
            seconds = []
            for _ in range(args.times):
                start = time.perf_counter()
                work()
                seconds.append(time.perf_counter() - start)
            best, median = round(min(seconds), 3), round(statistics.median(seconds), 3)
            row = {"step": name, "records": len(records), "best_s": best, "median_s": median}
            print(json.dumps(row), flush=True)
    finally:
        file.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
