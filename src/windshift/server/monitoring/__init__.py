"""What operators want to know of the broker: what JetStream holds, and what it forbids."""
