"""AS-ES on cPET: Chinese PET/CT findings -> impression (AS-ES paper, its second task).

    asesjax run --config configs/cpet.py --config.data.path=DIR/cpet.csv.gz --workdir runs/cpet
    asesjax run --config configs/cpet.py:tiny --config.data.path=DIR/cpet.csv.gz \
      --workdir runs/cpet-tiny

The file has the columns question, answer and qid. The impression is the chain and there is no other
answer, so a report is right when its whole text is; BLEU (sacrebleu's Chinese tokenizer) and ROUGE
(characters) say how near it comes. The vocabulary is trained on the spot: with bytes for characters
that training never shows, and no normalisation, so that ， stays ，.

Argument "tiny": a small model on 300 reports, minutes on a CPU; it shows that everything works.
"""

from asesjax.config import base_config
from asesjax.core.errors import unknown


def get_config(arg: str = ""):
    if arg not in ("", "tiny"):
        raise unknown("argument of configs/cpet.py", arg, ("tiny",))
    c = base_config()
    c.methods = ("direct", "dsm", "usm")
    d = c.data
    d.source, d.split_by = "csv", "id"  # 80/10/10 by question id, as in the paper
    d.rationale_field, d.answer_field, d.id_field = "answer", "", "qid"
    d.answer_template = ""
    d.n_train = d.n_validation = d.n_test = 0
    v = c.vocab
    v.size, v.split_digits, v.byte_fallback = 4000, True, True
    c.segment.min_words = 8  # characters: 、 and ， cut reports finely
    c.evaluate.metric, c.evaluate.language = "exact", "zh"
    t, g = c.train, c.decode
    t.source_buckets, t.target_buckets = (256, 384, 512, 768), (32, 64, 128, 256)
    g.max_rounds, g.max_segment_tokens, g.max_chain_tokens = 24, 192, 256
    g.question_buckets = (256, 384, 512)
    if arg == "tiny":
        d.n_train, d.n_validation, d.n_test = 300, 20, 20
        v.size, v.extra_ids = 2000, 4
        m = c.model
        m.d_model, m.d_ff, m.n_heads, m.d_kv = 64, 128, 4, 16
        m.n_encoder_layers = m.n_decoder_layers = 1
        t.tokens, t.batch_size, t.evaluate_every_share = 200_000, 8, 0.5
        g.batch_size, g.curve_questions = 20, 10
        return c
    m = c.model
    m.preset, m.dropout, m.dtype = "mt5-base", 0.1, "bfloat16"
    t.tokens, t.epochs = 0, 10.0
    t.batch_size = 64
    t.optimizer, t.learning_rate, t.weight_decay, t.warmup_share = "adamw", 1e-4, 0.01, 0.1
    return c
