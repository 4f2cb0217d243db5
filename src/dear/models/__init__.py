"""Strings to tensors to scores."""
