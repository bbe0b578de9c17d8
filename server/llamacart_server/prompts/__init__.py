"""From messages to the text that the model reads."""
