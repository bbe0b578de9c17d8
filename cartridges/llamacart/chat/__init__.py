"""Chats as a model reads them: its own template, and the tokens of what it writes."""
