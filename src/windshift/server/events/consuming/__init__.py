"""Consume calls: clients attached to consumers, from the first message to the release of what they hold."""
