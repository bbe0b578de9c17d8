"""What a recipe says: its keys, its texts, how rows are paired."""
