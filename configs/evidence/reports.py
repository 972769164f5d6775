"""Findings -> impression, the paper's second task: direct, DSM and USM from a student.

    asesjax run --config configs/evidence/reports.py --workdir runs/evidence/reports

Generated reports of one to three abnormal findings among normal ones; the student knows reports of
one. Five seeds, 100 reports, 1 M training tokens a row, gold labels; BLEU and ROUGE are in
compare.json. About 30 minutes of one core. Argument "tiny": models too small to learn anything.
"""

from pathlib import Path

from asesjax.config import load_file

common = load_file(Path(__file__).with_name("common.py"))


def get_config(arg: str = ""):
    common.first_word(arg, ("",), __file__)  # nothing, or tiny
    c = common.student_config(arg)
    c.methods = ("start", "direct", "usm", "dsm")
    c.data.source, c.data.answer_template = "synthetic_reports", ""
    c.data.n_train, c.data.min_steps, c.data.max_steps, c.data.n_distractors = 100, 1, 3, 2
    c.pretrain.data.n_train, c.pretrain.data.n_distractors = 2000, 2
    c.pretrain.train.source_buckets, c.pretrain.train.target_buckets = (64,), (40,)
    c.vocab.size, c.vocab.extra_ids = 248, 8
    c.train.tokens = common.scaled(arg, 1_000_000)
    c.train.source_buckets = (64, 80, 96, 112, 128, 144, 160, 192)
    c.train.target_buckets = (16, 24, 32, 48, 64, 96)
    c.decode.max_segment_tokens = 40
    c.evaluate.metric = "exact"
    return c
