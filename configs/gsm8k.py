"""AS-ES on GSM8K's own worked solutions, with the settings of the paper or of its released code.

    asesjax run --config configs/gsm8k.py --config.data.path=DIR --workdir runs/gsm8k
    asesjax run --config configs/gsm8k.py:tiny --config.data.path=DIR --workdir runs/gsm8k-tiny

DIR holds train.jsonl and test.jsonl of GSM8K. Arguments, joined by commas:
    tiny    a small model from scratch with a vocabulary trained on the spot, minutes on a CPU:
            it shows that everything works, not a useful accuracy
    code    the released code's variant: short pieces dropped, neighbours not merged, chains that
            end on the text "answer is"
    paper   the paper's (default): short pieces merged, neighbours merged, end-of-chain sentinel

The full-size setting (flan-t5-base's shape) needs vocab.path, T5's spiece.model,
and an accelerator; without model.init_from it starts from random weights.
"""

from asesjax.config import base_config
from asesjax.core.errors import unknown


def get_config(arg: str = ""):
    c = base_config()
    for word in filter(None, arg.split(",")):
        if word not in ("tiny", "code", "paper"):
            raise unknown("argument of configs/gsm8k.py", word, ("tiny", "code", "paper"))
    c.data.source = "gsm8k"
    c.data.n_train = c.data.n_validation = c.data.n_test = 0
    c.segment.strategy = "entropy"
    c.segment.beta = 1.4
    if "code" in arg:
        c.segment.short = "drop"
        c.segment.merge_adjacent = False
        c.ases.end_of_chain = "stop_text"
        c.ases.stop_text = "answer is"
        c.decode.max_rounds = 10  # five rounds of two segments
        c.decode.max_segment_tokens = 100
        c.evaluate.metric = "authors"
    else:
        c.decode.max_rounds = 16
        c.decode.max_segment_tokens = 128
    c.decode.max_chain_tokens = 320
    t = c.train
    if "tiny" in arg:
        c.data.n_train, c.data.n_validation, c.data.n_test = 400, 50, 50
        c.vocab.size = 2000
        c.vocab.extra_ids = 4
        m = c.model
        m.d_model, m.d_ff, m.n_heads, m.d_kv = 64, 128, 4, 16
        m.n_encoder_layers = m.n_decoder_layers = 1
        t.tokens = 400_000
        t.batch_size = 16
        t.source_buckets, t.target_buckets = (320, 768), (128, 512)
        t.evaluate_every_share = 0.5
        c.decode.batch_size = 50
        c.decode.curve_questions = 10
        return c
    c.vocab.kind = "sentencepiece"
    c.vocab.max_unknown_share = 0.001
    m = c.model
    m.preset, m.dropout, m.dtype = "flan-t5-base", 0.1, "bfloat16"
    t.tokens, t.epochs = 0, 10.0
    t.batch_size = 64
    t.optimizer, t.learning_rate, t.weight_decay, t.warmup_share = "adamw", 1e-4, 0.01, 0.1
    t.source_buckets, t.target_buckets = (128, 256, 512), (64, 128, 320)
    return c
