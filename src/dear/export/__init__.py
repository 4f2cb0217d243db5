"""Checkpoints in other forms than the one they were trained in."""
