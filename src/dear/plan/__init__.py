"""What a recipe needs before it runs: memory by part, time by stage, and what would make it fit."""
