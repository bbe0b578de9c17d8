"""Continuous batching: the thread that owns the runner, and what it decides."""
