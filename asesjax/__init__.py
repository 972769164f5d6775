"""Learning from chain-of-thought data with small encoder-decoder models, in JAX."""

__version__ = "0.1.0"
