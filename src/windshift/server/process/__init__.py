"""The process: what is built, how it starts, reports how it is, and drains."""
