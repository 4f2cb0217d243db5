"""Candidates to rankings."""
