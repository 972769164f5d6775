"""AS-ES learning: rationales cut into extractive and abstractive segments."""
