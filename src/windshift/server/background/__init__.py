"""Work beside the event loop: threads, batches, and files that are reloaded when they change."""
