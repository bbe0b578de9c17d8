"""llamacart: knowledge and style cartridges for llama.cpp."""

__version__ = "0.1.0"
