"""llama.cpp: the model, its contexts, its threads, and what its graph is called."""
