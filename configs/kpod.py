"""KPOD and its ablations on the embedded task, from a model that was trained before.

    asesjax run --config configs/kpod.py:start --workdir runs/kpod-start
    asesjax run --config configs/kpod.py:runs/kpod-start --workdir runs/kpod

KPOD weighs tokens by what a model that can already reason makes of them, and begins with the steps
that the untouched student finds easy. So the first command makes a student: USM on problems of one
or two steps, which reads rationales and does sums. The second starts from it on problems of two to
four steps, many of them: the predictor of answers must learn to read, not to remember. Without an
argument everything starts from random weights: every stage runs, and the weights mean little.

KPOD's token weights on AS-ES segments (one weighs tokens, the other cuts and orders them):
    asesjax run --config configs/kpod.py:ases,runs/kpod-start --workdir runs/ases-kpod

On GSM8K with a tiny model, which shows that everything works, no useful accuracy:
    asesjax run --config configs/kpod.py:gsm8k --config.data.path=DIR --workdir runs/kpod-gsm8k

The answers of the paper's token weights are predicted by FlanT5-Large, whatever the student is:
    --config.kpod.predictor_from=DIR         another checkpoint, of the same vocabulary
    --config.kpod.predictor_shape="(128, 512, 32, 4, 3)"     or another size, from random weights
and its masks are drawn by Gumbel-softmax (all rows of a run share their token weights):
    --config.kpod.mask=gumbel --config.kpod.temperature=1

train.normalize=examples divides the summed loss by the examples, not by the weights: dividing by
the weights would give back to a rationale what its tokens' weights take from it, and raise the
answer whenever steps are given. Equation 15 sums both as they are.
"""

from asesjax.config import base_config

# The ablations of the paper's table 2, in its order: w.o.-sig, w.o.-sig-dif, w.o.-prog, w.o.-div
# and SPL (self-paced learning of whole rationales). Its ACL and ICL (adaptive and in-sample
# curricula of other papers) are not built: neither their schedules nor the settings that they were
# compared with are stated there.
VARIANTS = {
    "kpod_without_weights": {"weighted_loss": False},
    "kpod_without_weights_in_difficulty": {"weighted_difficulty": False},
    "kpod_without_progression": {"schedule": "none"},
    "kpod_without_diversity": {"beta": 0.0},
    "kpod_self_paced": {"schedule": "self_paced"},
}


def get_config(arg: str = ""):
    c = base_config()
    words = [word for word in arg.split(",") if word]
    if "ases" in words:  # the token weights on AS-ES segments
        c.methods = ("direct", "usm", "usm_kpod", "dsm", "dsm_kpod")
        for path in ("usm", "dsm"):
            c.variants[f"{path}_kpod"] = {"method": path, "ases": {"token_weights": "kpod"}}
        words.remove("ases")
    else:
        c.methods = ("direct", "kpod", *VARIANTS)
        for name, fields in VARIANTS.items():
            c.variants[name] = {"method": "kpod", "kpod": fields}
    arg = ",".join(words)
    c.train.normalize = "examples"
    if arg == "gsm8k":
        return _gsm8k(c)
    c.vocab.size, c.vocab.extra_ids = 248, 8  # as in configs/quickstart.py
    c.train.tokens = 1_000_000
    c.kpod.weight_epochs, c.kpod.predictor_share = 10.0, 0.6
    if arg == "start":
        c.name = "kpod-start"
        c.seed = 1000  # other problems than those of the seeds that start from it
        c.methods = ("usm",)
        c.segment.strategy = "location"
        c.data.n_train, c.data.min_steps, c.data.max_steps = 4000, 1, 2
        c.data.n_test = 100
        c.train.normalize, c.train.tokens = "weights", 4_000_000
    elif arg:
        c.name = "kpod"
        c.data.n_train = 20_000
        # The symbols + - * / say again what "more", "fewer", "twice" and "half" said. The paper's
        # 0.5 is more than that is worth, see asesjax/methods/kpod/README.md.
        c.kpod.alpha = 0.1
        c.model.init_from = f"{arg}/roles/usm/main"
    return c


def _gsm8k(c):
    c.data.source = "gsm8k"
    c.data.n_train, c.data.n_validation, c.data.n_test = 400, 50, 50
    c.vocab.size, c.vocab.extra_ids = 2000, 4
    m, t = c.model, c.train
    m.d_model, m.d_ff, m.n_heads, m.d_kv = 64, 128, 4, 16
    m.n_encoder_layers = m.n_decoder_layers = 1
    t.tokens, t.batch_size = 200_000, 16
    t.evaluate_every_share = 0.5
    c.decode.batch_size, c.decode.curve_questions = 50, 10
    c.kpod.weight_epochs = 1.0
    return c
