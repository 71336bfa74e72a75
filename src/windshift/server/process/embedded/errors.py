"""The errors of the embedded server."""

from __future__ import annotations

from windshift.server.process.errors import StartError


class EmbeddedError(StartError):
    """The embedded server cannot run. The text is one line for the operator, and says what to change."""
