"""Where the rules are, for somebody who wants to look at them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from windshift.server.config.reader import Reader


def auth_file(environment: Mapping[str, str]) -> Path | None:
    """Return the authorization file that a server with this environment reads; None = it has none.

    Raises `ConfigurationError`; what is wrong with other variables does not matter.
    """
    reader = Reader(environment)
    file = reader.path("WINDSHIFT_AUTH_FILE")
    reader.finish()
    return file
