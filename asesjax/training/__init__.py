"""The training loop, its compiled step, optimisers and checkpoints."""
