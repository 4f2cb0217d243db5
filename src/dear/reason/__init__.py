"""Reasoning data: lists drawn from candidates, thoughts, and the selection of what is kept."""
