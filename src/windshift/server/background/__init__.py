"""Work beside the event loop: threads, and files that are reloaded when they change."""
