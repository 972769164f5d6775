"""Socratic CoT: a decomposer asks subquestions, a solver answers them."""
