"""Files that are written whole or not at all, and text files as people save them."""
