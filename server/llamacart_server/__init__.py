"""An OpenAI-compatible server whose requests choose their cartridges."""
