"""Fits that close a gap in the residual stream, where others copy activations."""
