"""Readers of data sets: a module here that registers its sources needs no other mention."""
