"""Automatic choice of a recipe's solver, λ, δ, α, layers and pairing within a time budget."""
