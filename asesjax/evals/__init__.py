"""Answers, text overlap and the comparison of chains with gold ones."""
