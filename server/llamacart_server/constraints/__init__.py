"""What an answer must look like: JSON under a schema, calls of tools."""
