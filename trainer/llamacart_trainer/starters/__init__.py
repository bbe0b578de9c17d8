"""Recipe folders to begin with: what `llamacart new` and `llamacart distill` write."""
