"""What operators ask for: lists of streams and consumers, stored events, and their management."""
