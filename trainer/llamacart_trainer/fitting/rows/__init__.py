"""Which rows of conversations are tied, how much they count, and where rows lie."""
