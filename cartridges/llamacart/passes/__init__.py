"""Forward passes over whole texts: capture, generation, scoring, embedding."""
