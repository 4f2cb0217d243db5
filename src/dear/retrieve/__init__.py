"""Queries → candidates: the first stage."""
