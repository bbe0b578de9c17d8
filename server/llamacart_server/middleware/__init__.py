"""What surrounds every request: keys, log, life of the server."""
