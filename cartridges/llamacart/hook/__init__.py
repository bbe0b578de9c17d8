"""The compiled eval callback that steers each row of a step."""
