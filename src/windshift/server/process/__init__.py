"""The process: what it is built of, how it starts, reports its health, and drains."""
