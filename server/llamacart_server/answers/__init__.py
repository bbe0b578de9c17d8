"""From tokens to the text, the figures and the events of an answer."""
