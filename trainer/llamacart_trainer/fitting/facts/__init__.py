"""Facts: the rows that are to say an object, and how far the residual stream is from saying it."""
