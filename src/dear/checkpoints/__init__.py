"""What lies on disk: contracts, weights, tokenizers, adapters, and the registry of named models."""
