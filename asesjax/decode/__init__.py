"""Generation and scoring, compiled."""
