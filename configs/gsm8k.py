"""AS-ES on GSM8K's own worked solutions, with the settings of the paper or of its released code.

    asesjax run --config configs/gsm8k.py --config.data.path=DIR --workdir runs/gsm8k
    asesjax run --config configs/gsm8k.py:code --config.data.path=DIR \
      --config.model.init_from=DIR/flan-t5-base --workdir runs/gsm8k-code
    asesjax run --config configs/gsm8k.py:tiny --config.data.path=DIR --workdir runs/gsm8k-tiny

DIR holds train.jsonl and test.jsonl of GSM8K. Arguments, joined by commas:
    tiny    a small model from scratch with a vocabulary trained on the spot, minutes on a CPU:
            it shows that everything works, not a useful accuracy
    code    what the released scripts do, see below
    paper   the paper's (default): short pieces merged, neighbours merged, end-of-chain sentinel

The full-size setting (flan-t5-base's shape) needs model.init_from, or T5's spiece.model as
vocab.path and then starts from random weights; and an accelerator.

"code" sets what the authors' scripts do (rootnx/AS-ES-learning: script/, run/, src/, utils/):
- pieces end at full stops that are no decimal points, newlines and commas, not at ; : ! or ?; those
  of three words or fewer are left out; neighbours of one label stay apart;
- the scorer is the direct model; each piece is its target alone, given the question, and entropies
  are summed, end of sequence included; AS is above 1.4 times the mean;
- ES and AS models alternate, ES first, greedily, 100 tokens a segment and five rounds at most,
  until "answer is" is there;
- 50 epochs of each model over its own examples, batch 64, AdamW (weight decay 0.01, no clipping),
  cosine to 0 after a warm-up of 4 %; 5e-4 for segment models, 8e-5 for direct, the scorer;
  validation ten times, the checkpoint of the best BLEU is tested;
- 80/10/10 of the training file's questions by id; the last numbers are compared as text.

What still differs:
- the chains: theirs are code-davinci-002's, ours the data set's own solutions;
- a piece keeps its full stop or comma; they write a comma behind each piece in its place;
- nothing is truncated (they cut sources and targets at 256 tokens);
- BLEU is that of whole chains which the models write together, at every validation; theirs is that
  of single segments, given the right ones before, in the last fifth of training;
- all start from flan-t5-base; a default of their test script names ES and AS models that started
  from the direct model, and another script's learning rate 1e-4 and warm-up .08.
Defects that are not copied: commas are cut inside 1,000; the last batch of pieces that is not full
is not scored and so lost; contexts are joined by "," in training and by " " in decoding; the best
validation loss is judged by the last batch alone; weights of the best BLEU are loaded and thrown
away before the test; run/test.py has default paths of ES and AS exchanged, and gives sacrebleu the
references as hypotheses.
"""

from asesjax.config import base_config
from asesjax.core.errors import unknown


def get_config(arg: str = ""):
    c = base_config()
    words = list(filter(None, arg.split(",")))
    for word in words:
        if word not in ("tiny", "code", "paper"):
            raise unknown("argument of configs/gsm8k.py", word, ("tiny", "code", "paper"))
    d, s, t, g = c.data, c.segment, c.train, c.decode
    d.source = "gsm8k"
    d.n_train = d.n_validation = d.n_test = 0
    if "code" in words:
        d.source, d.split_by = "gsm8k_train", "id"
        s.beta, s.given, s.reduce = 1.4, "piece", "sum"
        s.cut, s.short, s.min_words, s.merge_adjacent = "commas", "drop", 3, False
        c.ases.first, c.ases.end_of_chain, c.ases.stop_text = "es", "stop_text", "answer is"
        g.max_rounds, g.max_segment_tokens = 10, 100  # five rounds of two segments
        c.evaluate.metric = "authors"
    if "tiny" in words:
        d.n_train, d.n_validation, d.n_test = 400, 50, 50
        c.vocab.size, c.vocab.extra_ids = 2000, 4
        m = c.model
        m.d_model, m.d_ff, m.n_heads, m.d_kv = 64, 128, 4, 16
        m.n_encoder_layers = m.n_decoder_layers = 1
        t.tokens, t.batch_size, t.evaluate_every_share = 400_000, 16, 0.5
        g.batch_size, g.curve_questions = 50, 10
        return c
    c.vocab.kind = "sentencepiece"
    c.vocab.max_unknown_share = 0.001
    m = c.model
    m.preset, m.dropout, m.dtype = "flan-t5-base", 0.1, "bfloat16"
    t.tokens, t.epochs = 0, 10.0
    t.batch_size = 64
    t.optimizer, t.learning_rate, t.weight_decay, t.warmup_share = "adamw", 1e-4, 0.01, 0.1
    if "code" in words:
        c.methods = ("direct", "dsm", "usm")
        t.epochs, t.learning_rate, t.warmup_share = 50.0, 5e-4, 0.04
        t.beta2, t.clip_norm, t.final_share = 0.999, 0.0, 0.0
        t.keep_best, t.evaluate_every_share, g.curve_questions = "bleu", 0.1, 1000
        c.variants.direct = {"train": {"learning_rate": 8e-5}}
    return c
