"""What the whole server shares: which names are valid, and what can go wrong."""
