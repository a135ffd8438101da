"""Single weights: patterns of zeros, scores, and what is left made good."""
