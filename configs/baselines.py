"""What plain training on rationales is compared with: five baselines, one budget of tokens.

    asesjax run --config configs/baselines.py --workdir runs/baselines
    asesjax run --config configs/baselines.py:gsm8k --config.data.path=DIR/gsm8k \
      --workdir runs/baselines-gsm8k

Without an argument on the embedded arithmetic, with three rationales a question. "gsm8k": small
models from scratch on GSM8K, DIR holding train.jsonl and test.jsonl, without diverse (GSM8K has one
rationale a question; JSON lines with several have them in data.others_field). It shows that
everything works, not a useful accuracy.

Useful fields: step_by_step.alpha, in_context.formats, in_context.shots, in_context.ask,
decode.sampler=sample with decode.samples=N for self-consistency of every method.
"""

from asesjax.config import base_config
from asesjax.core.errors import unknown


def get_config(arg: str = ""):
    if arg not in ("", "gsm8k"):
        raise unknown("argument of configs/baselines.py", arg, ("gsm8k",))
    c = base_config()
    c.methods = ("answer_only", "direct", "step_by_step", "in_context", "diverse")
    d, v, t, g = c.data, c.vocab, c.train, c.decode
    if arg == "gsm8k":
        c.methods = c.methods[:-1]
        d.source, d.n_train, d.n_validation, d.n_test = "gsm8k", 400, 50, 50
        v.size = 2000
        m = c.model
        m.d_model, m.d_ff, m.n_encoder_layers, m.n_decoder_layers = 64, 128, 1, 1
        t.tokens, t.batch_size, t.evaluate_every_share = 600_000, 16, 0.5
        g.batch_size, g.curve_questions = 50, 10
        return c
    d.n_rationales = 3
    v.size, v.extra_ids = 248, 8
    # Marks of one token; the words that T5's vocabulary has would be spelled letter by letter.
    c.step_by_step.predict_prefix, c.step_by_step.explain_prefix = "<extra_id_1>", "<extra_id_2>"
    c.in_context.chain_prompt, c.in_context.answer_prompt = "<extra_id_1>", "<extra_id_2>"
    return c
