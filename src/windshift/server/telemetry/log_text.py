"""The text of log records, made harmless: bounded, without credentials or terminal control characters.

Texts from clients reach log records in errors. None may start a line of its own, colour one, hide one, or
fill the disk. Libraries repeat URLs with the credentials in them, and a client may put its token anywhere.
"""

from __future__ import annotations

import logging
import re
import traceback
from typing import Final

LONGEST_TEXT: Final = 2_000
"""Characters of a message, or of a field."""
LONGEST_TRACEBACK: Final = 20_000

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_CREDENTIALS: Final = re.compile(r"(?<![^\s/@'\"])[^\s/@'\"]+@(?=[\w\[])")
"""The user and password of a URL. The match starts only where such a run begins: otherwise time would be
quadratic in its length, and a client could stall the server with a long name."""
_TOKENS: Final = re.compile(
    r"ws_[A-Za-z0-9_-]{46,}|(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}+(?:\.[A-Za-z0-9_-]*+)?"
)
"""Static tokens of the API, which are at least this long, and JSON web tokens. Time is linear in the length
of the text."""


def harmless(text: str, longest: int = LONGEST_TEXT) -> str:
    """Return a text without credentials in URLs and without tokens, and bounded."""
    if "@" in text:
        text = _CREDENTIALS.sub("…@", text)
    if "ws_" in text or "eyJ" in text:
        text = _TOKENS.sub("(a token)", text)
    return bounded(text, longest)


def bounded(text: str, longest: int = LONGEST_TEXT) -> str:
    """Cut a text to a length, and say by how much."""
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text) - longest} more)"


def escaped(text: str) -> str:
    """Escape control characters, line ends and invisible characters as in a Python literal."""
    if text.isprintable():
        return text
    shown = (each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
    return "".join(shown)


def fields_of(record: logging.LogRecord) -> dict[str, str | int | float | bool]:
    """Return the harmless extra fields of a record."""
    return {
        name: value if isinstance(value, int | float) else harmless(str(value))
        for name, value in vars(record).items()
        if name not in _STANDARD and value is not None
    }


def traceback_of(record: logging.LogRecord) -> str:
    """Return the harmless traceback of a record, or an empty text; a long one keeps its end."""
    if not record.exc_info or record.exc_info[1] is None:
        return ""
    text = "".join(traceback.format_exception(record.exc_info[1]))
    text = harmless(text, len(text))
    over = len(text) - LONGEST_TRACEBACK
    return text if over <= 0 else f"({over} characters before) …{text[over:]}"
