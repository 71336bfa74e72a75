"""What is looked at so that operators see it: what JetStream holds, and what the broker forbids."""
