"""Rationales to labelled segments: pure functions on text and numpy arrays."""
