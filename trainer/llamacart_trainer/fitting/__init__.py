"""The cascade: samples, the fit of each layer, checkpoints."""
