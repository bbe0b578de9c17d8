"""Whether a model holds facts: asked in several ways, and asked what it should not answer."""
