"""Dead letters: how JetStream stores them, and what can be done with them."""
