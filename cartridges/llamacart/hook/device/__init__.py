"""The map of a layer as a ggml graph on the device that holds the layer's activations."""
