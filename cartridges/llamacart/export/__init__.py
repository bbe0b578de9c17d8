"""Cartridges as adapters of other engines: LoRA files and control vectors, and what they lose."""
