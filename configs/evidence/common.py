"""What all evidence on worded arithmetic has in common: the student and its training."""

from asesjax.config import base_config


def student_config():
    """Return a configuration of five seeds whose rows start from one pretrained student a seed."""
    c = base_config()
    c.seeds = (0, 1, 2, 3, 4)
    c.vocab.size, c.vocab.extra_ids = 248, 8
    c.pretrain.method = "direct"
    c.pretrain.data = {"min_steps": 1, "max_steps": 1, "n_distractors": 1, "n_train": 20_000}
    c.pretrain.train = {"tokens": 1_500_000, "source_buckets": (32,), "target_buckets": (24,)}
    c.pretrain.decode = {"curve_questions": 0}
    c.students = "runs/evidence/students"
    c.segment.strategy = "location"
    c.train.tokens, c.train.learning_rate = 2_000_000, 0.02
    # At most six shapes of these are compiled for a role.
    c.train.source_buckets = (32, 40, 48, 56, 64, 72, 80, 96, 112, 128)
    c.train.target_buckets = (12, 16, 24, 32, 48, 64, 80)
    c.train.keep_best = "validation_accuracy"
    c.data.n_validation, c.decode.curve_questions = 100, 0
    return c


def tiny(c) -> None:
    """Shrink a configuration so that it only shows that everything works."""
    c.seeds, c.students = (0,), ""
    c.model.d_model, c.model.d_ff, c.model.n_heads, c.model.d_kv = 16, 32, 2, 8
    c.model.n_encoder_layers = c.model.n_decoder_layers = 1
    c.pretrain.data.n_train, c.pretrain.data.n_validation, c.pretrain.data.n_test = 64, 8, 8
    c.pretrain.train.tokens = 20_000
    c.data.n_test = c.data.n_validation = 8
    c.train.tokens = 20_000 if c.train.tokens else 0
    c.train.epochs = 1.0 if c.train.epochs else 0.0
