"""Generators of problems: a module here that registers its source needs no other mention."""
