"""Speed, side by side: our engine and what a user would pick instead, on the same pairs."""
