"""Chunk-wise training and skip-thinking, beside plain chains of thought.

On worded arithmetic whose rationales hold sentences that nobody needs, about half an hour on one core:
    asesjax run --config configs/skip_thinking.py --workdir runs/skip
"""

from asesjax.core.config import base_config
from asesjax.core.errors import unknown


def get_config(arg: str = ""):
    if arg not in ("", "letters", "svamp"):
        raise unknown("argument of configs/skip_thinking.py", arg, ("letters", "svamp"))
    c = base_config()
    c.methods = ("direct", "cwt", "skip_thinking", "full_thinking")
    d, t, g, k = c.data, c.train, c.decode, c.chunk
    d.n_train, d.n_fillers = 2000, 2
    d.min_steps = d.max_steps = 2
    d.n_test = 300
    k.n_chunks = 6
    c.vocab.size, c.vocab.extra_ids = 244, 12
    t.source_buckets, t.target_buckets = (48, 64, 96, 128), (16, 32, 64, 96)
    return c
