"""Consuming: clients attached to consumers, from their first message to the release of what they hold."""
