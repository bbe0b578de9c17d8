"""Which rows of the KV cache are whose, and which can be used again."""
