"""A pretrained checkpoint of the T5 family learns from your own worked solutions.

    asesjax run --config finetune --workdir runs/mine \
      --config.data.path=my.jsonl --config.model.init_from=./flan-t5-small

The file is JSON lines, JSON, CSV or Parquet, or a folder of such; ``finetune:seqio``, ``:tfds`` and
``:huggingface`` read other sources (configs/README.md). Each row has ``question``,
``rationale`` and ``answer`` (``data.question_field`` and so on name others); a tenth of it is for
validation, a tenth for the test. The checkpoint is a folder of Hugging Face, a role of another run
or a checkpoint; it brings shape, vocabulary and sentinels. Settings are those of T5's own
fine-tuning: Adafactor at a constant rate of 0.001. Every row learns for 10 passes over its own
examples and hands on what wrote the most right answers to 50 validation questions. Lengths are
chosen from the data, and a step is computed in as many parts as the memory asks; --check prints all
of that and stops before training. Without ``model.init_from`` a small model learns from scratch; so
few passes teach it little.
"""

from asesjax.config import base_config


def get_config(arg: str = ""):
    c = base_config()
    c.methods = ("start", "direct", "usm")
    c.data.source = arg or "file"
    c.data.n_train = c.data.n_validation = c.data.n_test = 0
    c.vocab.size, c.vocab.byte_fallback = 4000, True  # without a checkpoint
    t, g = c.train, c.decode
    t.epochs, t.tokens, t.batch_size, t.microbatches = 10.0, 0, 32, 0
    t.learning_rate, t.schedule, t.warmup_share = 0.001, "constant", 0.0
    t.keep_best, t.evaluate_every_share = "answer_accuracy", 0.2
    g.curve_questions = 50
    g.context_lengths = (128, 256, 512)
    return c
