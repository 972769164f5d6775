"""Floating point operations that a token costs, from the shape of the model alone."""

from asesjax.models.t5_config import T5Config


def token_flops(
    config: T5Config, source_length: int, target_length: int
) -> tuple[float, float]:
    """Count the operations of the forward pass for a source token and for a target token.

    A source token goes through the encoder and becomes the decoder's keys and values, a target
    token goes through the decoder and the logits. Only matrix products count, a multiplication and
    an addition as two; attention is over the whole padded lengths. Training costs three times as
    much, without what ``train.remat`` computes again.

    Example:
      >>> small = T5Config(32128, 512, 64, 2048, 8, 6, 6)
      >>> [round(flops / 1e6) for flops in token_flops(small, 128, 128)]
      [46, 80]
    """
    width = config.n_heads * config.d_kv
    projection = 2 * config.d_model * width  # one of queries, keys, values and output
    mlp = 2 * config.d_model * config.d_ff * (3 if config.mlp == "gated-gelu" else 2)
    source, target = (4 * width * length for length in (source_length, target_length))
    encoder = config.n_encoder_layers * (4 * projection + mlp + source)
    cross = config.n_decoder_layers * 2 * projection
    decoder = config.n_decoder_layers * (6 * projection + mlp + source + target)
    return float(encoder + cross), float(decoder + 2 * config.d_model * config.vocab_size)
