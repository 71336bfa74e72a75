"""The client library. Programs import it as `import windshift as ws`."""
