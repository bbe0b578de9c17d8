"""Fits cartridges in closed form from pairs of texts."""
