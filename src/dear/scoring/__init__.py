"""Pairs → scores: encoding, batching, engines, and everything that scores a pair."""
