"""The question and its answer, no rationale: the row without which a table says little.

    asesjax run --config configs/answer_only.py --workdir runs/answer-only
    asesjax run --config configs/answer_only.py:gsm8k --config.data.path=DIR/gsm8k \
      --workdir runs/answer-only-gsm8k

Without an argument on the embedded arithmetic. "gsm8k": a small model from scratch on GSM8K, DIR
holding train.jsonl and test.jsonl; it shows that everything works, not a useful accuracy.
configs/baselines.py has the other baselines beside it, configs/compare.py all methods.
"""

from asesjax.config import base_config
from asesjax.core.errors import unknown


def get_config(arg: str = ""):
    if arg not in ("", "gsm8k"):
        raise unknown("argument of configs/answer_only.py", arg, ("gsm8k",))
    c = base_config()
    c.methods = ("answer_only",)
    c.vocab.size, c.vocab.extra_ids = 248, 8
    if arg == "gsm8k":
        c.data.source = "gsm8k"
        c.data.n_train, c.data.n_validation, c.data.n_test = 400, 50, 50
        c.vocab.size = 2000
        m, t = c.model, c.train
        m.d_model, m.d_ff, m.n_encoder_layers, m.n_decoder_layers = 64, 128, 1, 1
        t.tokens, t.batch_size, t.evaluate_every_share = 400_000, 16, 0.5
        c.decode.batch_size, c.decode.curve_questions = 50, 10
    return c
