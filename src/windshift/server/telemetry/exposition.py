"""The answer to a scrape."""

from __future__ import annotations

from typing import NamedTuple


class Exposition(NamedTuple):
    """The body of a response to a scrape, and its type."""

    content_type: str
    body: bytes
