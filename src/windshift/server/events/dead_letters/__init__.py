"""Dead letters: how they lie in JetStream, and what can be done with them."""
