"""What a request or an answer looks like: data only."""
