"""A causal language model that puts whole lists of passages in order."""
