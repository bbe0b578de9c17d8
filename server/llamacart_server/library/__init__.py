"""The cartridges there are, and which of them a request chose."""
