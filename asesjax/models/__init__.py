"""The T5 family in Flax Linen; all use of Flax lives here."""
