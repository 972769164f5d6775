"""A room for each method; ``method.py`` is the seam that the rest of the house knows."""
