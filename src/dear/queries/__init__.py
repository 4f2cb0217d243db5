"""Queries made from documents: by rule or by a language model, and which of them are kept."""
