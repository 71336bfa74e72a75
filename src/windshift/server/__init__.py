"""The Windshift server."""
