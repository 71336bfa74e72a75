"""The key of a consumer, which authenticates the tokens of its deliveries. No I/O.

It lies in the consumer's metadata, so all servers have the same one and no operator has to hand it out; who
can read it there can settle the consumer's deliveries anyway.
"""

from __future__ import annotations

import secrets
from typing import Final

from windshift.nats.jetstream.api import JsonObject, metadata_of, with_metadata

KEY: Final = "windshift.token_key"
"""Where the key lies in the ``metadata`` of a consumer's configuration, in hexadecimal digits."""

_SIZE: Final = 16


def with_key(config: JsonObject) -> JsonObject:
    """Return the configuration of a consumer with a new key: earlier tokens are worth nothing then."""
    return with_metadata(config, KEY, secrets.token_hex(_SIZE))


def key_of(config: JsonObject) -> bytes:
    """Return the key in the configuration of a consumer; empty if there is none."""
    try:
        key = bytes.fromhex(metadata_of(config).get(KEY, ""))
    except ValueError:
        return b""
    return key if len(key) == _SIZE else b""
