"""A run whose roles hold random parameters: what asks trained rows needs no training."""

import jax

from asesjax.cli.main import main
from asesjax.config import base_config, finish, save_fields
from asesjax.data.vocab import ByteVocabulary
from asesjax.experiment import open_run
from asesjax.models import t5
from asesjax.run import model_config
from asesjax.training.checkpoint import save_params

FIELDS = {
    "methods": "direct,dsm,usm", "vocab.kind": "byte", "vocab.extra_ids": "4",
    "model.d_model": "16", "model.d_ff": "32", "model.n_heads": "2", "model.d_kv": "8",
    "model.n_encoder_layers": "1", "model.n_decoder_layers": "1", "model.tied": "false",
    "decode.batch_size": "4", "decode.max_rounds": "3", "decode.max_segment_tokens": "6",
    "decode.max_chain_tokens": "12", "decode.question_buckets": "(16, 24)",
}  # fmt: skip
VOCAB = ByteVocabulary(4)


def write_run(workdir):
    save_fields(workdir, finish(base_config(), FIELDS))
    VOCAB.save(workdir / "vocab")
    config = model_config(open_run(None, workdir), VOCAB)
    for seed, role in enumerate(("usm/main", "dsm/es", "dsm/as")):
        params = jax.tree.map(lambda x: 2.5 * x, t5.init(config, jax.random.key(seed)))
        save_params(workdir / f"roles/{role}/checkpoints", params)


def generate(workdir, *more, method="usm"):
    return main(["generate", "--workdir", str(workdir), "--method", method, *map(str, more)])
