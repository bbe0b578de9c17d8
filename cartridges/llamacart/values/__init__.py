"""Plain values that everybody shares; nothing here needs llama.cpp."""
