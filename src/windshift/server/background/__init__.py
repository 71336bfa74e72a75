"""Work beside the event loop: in threads, and on files that change."""
