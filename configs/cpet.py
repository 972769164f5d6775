"""AS-ES on cPET: Chinese PET/CT findings -> impression (AS-ES paper, its second task), with mT5.

    asesjax run --config configs/cpet.py --config.data.path=DIR/cpet.csv.gz \
      --config.model.init_from=DIR/mt5-base --workdir runs/cpet
    asesjax run --config configs/cpet.py:tiny --config.data.path=DIR/cpet.csv.gz \
      --workdir runs/cpet-tiny

The file has the columns question, answer and qid. The impression is the chain and there is no other
answer, so a report is right when its whole text is; BLEU (sacrebleu's Chinese tokenizer) and ROUGE
(characters) say how near it comes.

model.init_from is a folder of transformers with config.json, safetensors and spiece.model, of any
size of mT5: shape, vocabulary, sentinels (the last 100 pieces of mT5's own model) and number of
rows (250,112) are taken from there. mT5 writes , for ，: references are compared in that form too.

Argument "tiny": a small model from scratch on 300 reports, minutes on a CPU; it shows that
everything works. Its vocabulary is trained on the spot: with bytes for characters that training
never shows, and no normalisation, so that ， stays ，.
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
    c.segment.min_words = 8  # characters: 、 and ， cut reports finely
    c.evaluate.metric, c.evaluate.language = "exact", "zh"
    t, g, v = c.train, c.decode, c.vocab
    # The longest report has 1,412 and 376 characters, and a token at least one.
    if arg == "tiny":
        d.n_train, d.n_validation, d.n_test = 300, 20, 20
        v.size, v.extra_ids, v.split_digits, v.byte_fallback = 2000, 4, True, True
        m = c.model
        m.d_model, m.d_ff, m.n_heads, m.d_kv = 64, 128, 4, 16
        m.n_encoder_layers = m.n_decoder_layers = 1
        t.tokens, t.batch_size, t.evaluate_every_share = 200_000, 8, 0.5
        g.batch_size, g.curve_questions = 20, 10
        return c
    v.kind = "sentencepiece"  # without model.init_from the run ends here and says so
    v.max_unknown_share = 0.001
    c.model.dropout, c.model.dtype = 0.1, "bfloat16"
    t.tokens, t.epochs = 0, 10.0
    t.batch_size = 64
    t.optimizer, t.learning_rate, t.weight_decay, t.warmup_share = "adamw", 1e-4, 0.01, 0.1
    return c
