"""Every parameter lies in a file of Hugging Face where transformers 5 looks for it."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from asesjax.models import t5
from asesjax.models.hf_io import save_hf
from asesjax.models.t5_config import T5Config

# As in the state_dict of T5ForConditionalGeneration; those with a slash behind are transposed.
ENCODER = {
    "layer.0.layer_norm": "pre_attention_layer_norm/scale",
    "layer.0.SelfAttention.q": "attention/query/kernel/",
    "layer.0.SelfAttention.k": "attention/key/kernel/",
    "layer.0.SelfAttention.v": "attention/value/kernel/",
    "layer.0.SelfAttention.o": "attention/out/kernel/",
    "layer.1.layer_norm": "pre_mlp_layer_norm/scale",
}
DECODER = {
    "layer.0.layer_norm": "pre_self_attention_layer_norm/scale",
    "layer.0.SelfAttention.q": "self_attention/query/kernel/",
    "layer.0.SelfAttention.k": "self_attention/key/kernel/",
    "layer.0.SelfAttention.v": "self_attention/value/kernel/",
    "layer.0.SelfAttention.o": "self_attention/out/kernel/",
    "layer.1.layer_norm": "pre_cross_attention_layer_norm/scale",
    "layer.1.EncDecAttention.q": "encoder_decoder_attention/query/kernel/",
    "layer.1.EncDecAttention.k": "encoder_decoder_attention/key/kernel/",
    "layer.1.EncDecAttention.v": "encoder_decoder_attention/value/kernel/",
    "layer.1.EncDecAttention.o": "encoder_decoder_attention/out/kernel/",
    "layer.2.layer_norm": "pre_mlp_layer_norm/scale",
}
BIAS = "block.0.layer.0.SelfAttention.relative_attention_bias"
TOP = {
    "shared": "token_embedder/embedding",
    f"encoder.{BIAS}": "encoder/relpos_bias/rel_embedding/",
    f"decoder.{BIAS}": "decoder/relpos_bias/rel_embedding/",
    "encoder.final_layer_norm": "encoder/encoder_norm/scale",
    "decoder.final_layer_norm": "decoder/decoder_norm/scale",
}


@pytest.mark.parametrize(
    "mlp, tied, kernels",
    [("relu", True, ("wi", "wo")), ("gated-gelu", False, ("wi_0", "wi_1", "wo"))],
)
def test_names_and_directions_are_those_of_transformers(tmp_path, mlp, tied, kernels):
    # All matrices are square, so that no shape tells which way round one lies.
    config = T5Config(8, d_model=8, d_kv=2, d_ff=8, n_heads=4, n_encoder_layers=2,
                      n_decoder_layers=3, mlp=mlp, tied=tied, relpos_buckets=4)  # fmt: skip
    expected = TOP | ({} if tied else {"lm_head": "decoder/logits_dense/kernel/"})
    for stack, n_layers, names, last in (("encoder", 2, ENCODER, 1), ("decoder", 3, DECODER, 2)):
        mlps = {f"layer.{last}.DenseReluDense.{name}": f"mlp/{name}/kernel/" for name in kernels}
        for layer in range(n_layers):
            expected |= {f"{stack}.block.{layer}.{theirs}": f"{stack}/layers_{layer}/{ours}"
                         for theirs, ours in (names | mlps).items()}  # fmt: skip
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: t5.init(config, key), jax.random.key(0))
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    ours = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf
            for path, leaf in jax.tree.leaves_with_path(params)}  # fmt: skip
    save_hf(tmp_path, config, params)
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == {f"{name}.weight" for name in expected}
    for name, path in expected.items():
        value = ours[path.rstrip("/")]
        value = value.T if path.endswith("/") else value
        np.testing.assert_array_equal(found[f"{name}.weight"], value, err_msg=name)
