"""Windows of passages → orders: strategies, decoding, and causal models that rerank lists."""
