"""Every method on the embedded arithmetic: one budget of training tokens, three seeds.

    asesjax run --config configs/compare.py --workdir runs/compare

Each seed is a run of its own in WORKDIR/seed-N, with problems, initialisation and batch order of
its own; compare.md has means over seeds with 95 % intervals and paired tests against direct.

Argument "tiny": models too small to learn anything, two seeds; it shows that every stage works.
"""

from asesjax.config import base_config
from asesjax.core.errors import unknown

METHODS = (
    "answer_only", "direct", "step_by_step", "in_context", "diverse", "usm", "dsm", "socratic",
    "socratic_unified", "kpod", "cwt", "skip_thinking",
)  # fmt: skip


def get_config(arg: str = ""):
    if arg not in ("", "tiny"):
        raise unknown("argument of configs/compare.py", arg, ("tiny",))
    c = base_config()
    c.methods, c.seeds = METHODS, (0, 1, 2)
    d, v, t, g = c.data, c.vocab, c.train, c.decode
    d.min_steps, d.max_steps = 2, 3
    d.n_rationales = 3  # for diverse; all others learn from the first
    v.size, v.extra_ids = 244, 12
    # A chunk is a sentence, six of them at most: no cut to move.
    c.chunk.n_chunks, c.chunk.chunking, c.skip.order = 6, "average", "back_to_front"
    c.step_by_step.predict_prefix, c.step_by_step.explain_prefix = "<extra_id_1>", "<extra_id_2>"
    c.in_context.chain_prompt, c.in_context.answer_prompt = "<extra_id_1>", "<extra_id_2>"
    c.variants.kpod = {"train": {"normalize": "examples"}}  # as its equation 15
    t.tokens, t.batch_size, t.evaluate_every_share = 1_000_000, 8, 0.5
    if arg == "tiny":
        c.seeds = (0, 1)
        d.n_train, d.n_validation, d.n_test = 48, 8, 16
        m = c.model
        m.d_model, m.d_ff, m.n_heads, m.d_kv = 16, 32, 2, 8
        m.n_encoder_layers = m.n_decoder_layers = 1
        t.tokens, t.steps, t.batch_size, t.evaluate_every_share = 0, 8, 8, 1.0
        t.source_buckets, t.target_buckets = (320,), (96,)
        g.batch_size, g.curve_questions, g.context_lengths = 16, 4, ()
    return c
