"""Pairs that the model writes itself, from two prompts: as it is, and as it should be."""
