"""The errors of the embedded server."""

from __future__ import annotations


class EmbeddedError(Exception):
    """The embedded server cannot run. The text is one line for the operator, and says what to change."""
