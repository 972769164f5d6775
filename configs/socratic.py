"""Socratic CoT: a decomposer asks subquestions, a solver answers them (Shridhar et al. 2023).

    asesjax run --config configs/socratic.py --workdir runs/socratic
    asesjax run --config configs/socratic.py:whole,equations,planner --workdir runs/socratic-planned
    asesjax run --config configs/socratic.py:gsm8k --config.data.path=DIR/gsm8k \
      --workdir runs/socratic-gsm8k
    asesjax run --config configs/socratic.py:strategyqa --config.data.path=DIR/strategyqa \
      --workdir runs/socratic-strategyqa

Arguments, joined by commas:
    gsm8k       DIR holds train_socratic.jsonl and test_socratic.jsonl; without it and the next,
    strategyqa  DIR holds train.json and dev.json; the embedded arithmetic
    unified     one set of parameters for both tasks, instead of two
    whole       all subquestions are written before the first is answered
    operators   the decomposer sees the operators of the gold steps,
    equations   or their equations; the results then hold for questions that come with them,
    planner     unless a third model writes them
    forget      the solver sees the last subquestion alone, not the steps before it

The models are small and from scratch: on the two real data sets they show that everything works,
not a useful accuracy.
"""

from asesjax.config import base_config
from asesjax.core.errors import UserError, unknown

ARGUMENTS = (
    "gsm8k", "strategyqa", "unified", "whole", "operators", "equations", "planner", "forget",
)  # fmt: skip


def get_config(arg: str = ""):
    words = [word for word in arg.split(",") if word]
    for word in words:
        if word not in ARGUMENTS:
            raise unknown("argument of configs/socratic.py", word, ARGUMENTS)
    for one, other in (("gsm8k", "strategyqa"), ("operators", "equations")):
        if one in words and other in words:
            raise UserError(f"configs/socratic.py takes {one} or {other}, not both")
    c = base_config()
    c.methods = ("direct", "socratic_unified" if "unified" in words else "socratic")
    s, d, t, g = c.socratic, c.data, c.train, c.decode
    s.plan = "whole" if "whole" in words else "step"
    for guidance in {"operators", "equations"} & set(words):
        s.guidance = guidance
    s.guide_source = "planner" if "planner" in words else "oracle"
    s.history = "forget" not in words
    c.vocab.size, c.vocab.extra_ids = 248, 8
    if "gsm8k" in words:
        d.source = "gsm8k_socratic"
        d.n_train, d.n_validation, d.n_test = 400, 50, 50
        c.vocab.size = 2000
        # A chain of n steps has 2 n + 1 segments, the last of them its end.
    elif "strategyqa" in words:
        d.source = "strategyqa"
        d.n_train = d.n_validation = d.n_test = 0
        s.single_steps = True  # the facts of one row in twenty are fewer than its subquestions
        c.vocab.size, c.vocab.byte_fallback = 4000, True
        c.evaluate.metric = "exact"
    if d.source != "synthetic_math":
        m = c.model
        m.d_model, m.d_ff, m.n_encoder_layers, m.n_decoder_layers = 64, 128, 1, 1
        t.tokens, t.batch_size, t.evaluate_every_share = 600_000, 16, 0.5
        g.batch_size, g.curve_questions = 50, 10
    return c
