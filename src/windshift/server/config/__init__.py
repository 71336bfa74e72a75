"""The configuration of a server: one tree, read from the environment once and validated as a whole."""
