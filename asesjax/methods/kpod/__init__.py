"""KPOD: learned token weights and a progressive schedule inside the rationale."""
