r"""T5 v1.1 of three sizes on v5e slices: AS-ES on GSM8K, at scale.

    asesjax compile --config configs/tpu.py:t5-base --topology v5e:4x4      with no TPU
    asesjax compile --config configs/tpu.py:t5-xl --topology v5e:8x8
    asesjax compile --config configs/tpu.py:t5-xxl --topology v5e:16x16

    asesjax run --config configs/tpu.py:t5-base --workdir runs/t5-base --coordinator auto \
      --config.data.path=DIR --config.vocab.path=DIR/spiece.model \
      --config.model.init_from=CHECKPOINT

Batches are of packed rows, 512 source and up to 512 target positions each. The meshes keep the
state small; asesjax compile --search compares others.
"""

from asesjax.config import base_config
from asesjax.core.errors import unknown

# Argument -> preset of the model, rows of a batch, questions written at once: by all machines, of
# four chips each, 256, 64 and 32 by each
_SIZES = {
    "t5-base": ("t5-v1_1-base", 256, 1024),
    "t5-xl": ("t5-v1_1-xl", 256, 1024),
    "t5-xxl": ("t5-v1_1-xxl", 512, 2048),
}


def get_config(arg: str = ""):
    arg = arg or "t5-base"
    if arg not in _SIZES:
        raise unknown("argument of configs/tpu.py", arg, _SIZES)
    preset, rows, slots = _SIZES[arg]
    c = base_config()
    c.methods = ("answer_only", "direct", "usm")
    c.data.source = "gsm8k"
    c.data.n_train = c.data.n_validation = c.data.n_test = 0
    c.vocab.kind, c.vocab.max_unknown_share = "sentencepiece", 0.001
    c.model.preset, c.model.dropout, c.model.dtype = preset, 0.1, "bfloat16"
    t = c.train
    t.tokens, t.epochs = 0, 10.0
    t.batch_size, t.packed_length = rows, 512
    t.source_buckets, t.target_buckets = (128, 256, 512), (64, 128, 320)
    # T5's own fine-tuning (Raffel et al. 2020, section 3.1.2)
    t.optimizer, t.learning_rate, t.schedule = "adafactor", 1e-3, "constant"
    t.warmup_share, t.clip_norm = 0.0, 0.0
    t.remat, t.scan_layers = "full", True
    c.mesh.preset, c.mesh.data, c.mesh.fsdp = "fsdp", 1, -1
    if arg == "t5-xxl":
        c.mesh.preset, c.mesh.tensor = "fsdp_tp", 4
    g = c.decode
    g.batch_size = slots
    g.max_rounds, g.max_segment_tokens, g.max_chain_tokens = 16, 128, 320
    g.question_buckets = (64, 128, 256)
    g.context_lengths = (256,)  # each is a copy of all layers to compile
    return c
