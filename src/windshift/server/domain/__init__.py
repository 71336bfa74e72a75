"""What every part of the server knows: which names are allowed, and what can go wrong."""
