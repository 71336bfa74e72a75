"""What all calls share of the broker: who asks, how much may be asked for at once, and following a stream."""
