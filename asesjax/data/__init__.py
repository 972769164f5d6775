"""Records, vocabularies, training examples and batches."""
