"""Groups to checkpoints."""
