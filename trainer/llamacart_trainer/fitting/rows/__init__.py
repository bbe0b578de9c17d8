"""Which rows of conversations are tied, and how much they count."""
