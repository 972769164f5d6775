"""Chunk-wise training and skip-thinking."""
