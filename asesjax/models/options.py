"""Options of the model's shape and start."""

from asesjax.core.options import option, section


@section("model")
class ModelOptions:
    """Shape of the T5 and what it starts from."""

    preset: str = option("", "a released shape (models/presets.py) instead of the eight fields "
                         "below")  # fmt: skip
    d_model: int = option(64, "width D", least=1)
    d_ff: int = option(256, "width of the feed-forward layer", least=1)
    n_heads: int = option(4, "attention heads H", least=1)
    d_kv: int = option(16, "width K of a head", least=1)
    n_encoder_layers: int = option(2, "layers of the encoder", least=1)
    n_decoder_layers: int = option(2, "layers of the decoder", least=1)
    mlp: str = option("relu", "T5 v1.0 has relu; v1.1 and Flan have gated-gelu",
                      choices=("relu", "gated-gelu"))  # fmt: skip
    tied: bool = option(True, "the output shares the input embedding, scaled by d_model**-0.5 "
                        "(v1.0)")  # fmt: skip
    dropout: float = option(0.0, "dropout rate", least=0, below=1)
    dtype: str = option(
        "float32", "dtype of activations; parameters, norms, softmax and losses are float32",
        choices=("float32", "bfloat16"),
    )  # fmt: skip
    init_from: str = option("", "role of a run, checkpoint or Hugging Face folder that every role "
                            "starts from")  # fmt: skip
