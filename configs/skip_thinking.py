"""Chunk-wise training and skip-thinking, beside plain chains of thought.

Worded arithmetic whose rationales hold sentences that nobody needs, half an hour on one core:
    asesjax run --config configs/skip_thinking.py --workdir runs/skip
Last letters of made-up words, where every step is needed, half an hour on one core:
    asesjax run --config configs/skip_thinking.py:letters --workdir runs/skip-letters
The 500 problems of Ho et al. 2023 are too few for a model that has never seen a letter; DIR holds
the files of configs/symbolic.py:
    asesjax run --config configs/skip_thinking.py:letters --workdir runs/skip-ho \
      --config.data.source=last_letter_concatenation --config.data.path=DIR
SVAMP with reasoning that PaLM wrote; DIR holds the files of configs/svamp.py:
    asesjax run --config configs/skip_thinking.py:svamp --config.data.path=DIR \
      --workdir runs/skip-svamp

The models are small and from scratch. In the first two a chunk is a sentence, so that there is no
cut to move and evenly cut is all there is; chunks are left out from the back, see its README.md.
"""

from asesjax.config import base_config
from asesjax.core.errors import unknown


def get_config(arg: str = ""):
    if arg not in ("", "letters", "svamp"):
        raise unknown("argument of configs/skip_thinking.py", arg, ("letters", "svamp"))
    c = base_config()
    s = c.skip
    c.methods = ("direct", "cwt", "skip_thinking", "full_thinking")
    d, v, t, k = c.data, c.vocab, c.train, c.chunk
    if arg == "letters":
        d.source, d.max_skipped_share = "synthetic_letters", 0.1
        d.n_train, d.n_validation, d.n_test = 6000, 100, 300
        d.min_steps = d.max_steps = 4  # words, as in Ho et al.
        v.size, v.extra_ids = 800, 12  # most words are one piece
        k.n_chunks, k.chunking, s.order = 6, "average", "back_to_front"
        t.tokens = 6_000_000
        c.evaluate.metric = "exact"
    elif arg == "svamp":
        d.source, d.only_right_chains = "palm_svamp", True
        d.n_train = d.n_validation = d.n_test = 0
        v.size, v.split_digits, v.byte_fallback = 2000, True, True
    else:
        d.n_train, d.n_test, d.n_fillers = 4000, 300, 2
        d.min_steps = d.max_steps = 2
        v.size, v.extra_ids = 244, 12
        k.n_chunks = 6  # the sentences of a rationale: two for each step, and the fillers
        k.chunking, s.order = "average", "back_to_front"
        t.tokens = 6_000_000
    return c
