"""The dialects: each turns its bodies into an Ask, and an Answer into its own."""
