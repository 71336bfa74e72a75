"""What attacks can do to a real server process: docs/limits.md, row by row."""
