"""The machine that this process runs on: its processors, and what else they do."""
