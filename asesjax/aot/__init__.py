"""Compiling a run's programs for devices that are not there, and what can be read off them."""
