"""Every stage of the main job in seconds, on a model too small to learn anything.

asesjax run --config configs/smoke.py --workdir runs/smoke
"""

from asesjax.config import base_config
from asesjax.core.errors import UserError


def get_config(arg: str = ""):
    if arg:
        raise UserError(f"configs/smoke.py takes no argument, got {arg!r}")
    c = base_config()
    c.name = "smoke"
    d = c.data
    d.n_train, d.n_validation, d.n_test = 64, 16, 16
    d.min_steps, d.max_steps = 1, 2
    c.vocab.extra_ids = 4
    m = c.model
    m.d_model, m.d_ff, m.n_heads, m.d_kv = 16, 32, 2, 8
    m.n_encoder_layers = m.n_decoder_layers = 1
    c.segment.beta = 1.0  # an untrained scorer finds no piece 1.4 times as surprising as the mean
    t = c.train
    t.tokens, t.steps = 0, 8
    t.batch_size = 8
    t.source_buckets, t.target_buckets = (96,), (64,)
    t.evaluate_every_share = 0.5
    t.log_every_steps, t.save_every_steps = 2, 4
    g = c.decode
    g.batch_size, g.max_rounds, g.max_segment_tokens, g.max_chain_tokens = 8, 3, 8, 16
    g.curve_questions = 8
    g.question_buckets = (64, 128, 256, 512)
    g.context_lengths = ()  # each would be compiled
    return c
