"""When a certificate in a file expires, which Python's ssl tells only of those that others present."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
_VALIDITY: Final = 3
"""Place of the validity behind the optional version (RFC 5280, section 4.1)."""


def expiry(file: Path) -> datetime:
    """Return when the first certificate of a PEM file expires.

    Raises:
        ValueError: there is none that can be read.
        OSError: the file cannot be read.
    """
    found = _PEM.search(file.read_text("ascii", "replace"))
    if found is None:
        raise ValueError("there is no certificate in it")
    try:
        ((_, certificate),) = _parts(ssl.PEM_cert_to_DER_cert(found[0]))
        (_, signed), *_ = _parts(certificate)
        fields = [content for tag, content in _parts(signed) if tag != _VERSION]
        _, (tag, text) = _parts(fields[_VALIDITY])
        return datetime.strptime(
            text.decode("ascii"), "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
        ).replace(tzinfo=UTC)
    except (ValueError, IndexError) as error:
        raise ValueError("its certificate cannot be read") from error


def _parts(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the tag and the content of each element in DER (X.690, section 8.1)."""
    place = 0
    while place < len(content):
        tag, length = content[place], content[place + 1]
        place += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(content[place : place + size])
            place += size
        yield tag, content[place : place + length]
        place += length
