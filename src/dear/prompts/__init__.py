"""Records to strings, and back: pure functions, no model."""
