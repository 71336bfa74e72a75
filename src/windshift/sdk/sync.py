"""The client without asyncio: `ws.sync.connect()`. Same names, no `await`; see docs/sdk.md.

The types are in sync.pyi, which `make generate` writes from the asynchronous code.
"""

from __future__ import annotations

from typing import Any

from . import client as asynchronous
from .facade import facade_of, find
from .portal import to_close

_shared: Any = None


def connect(*arguments: Any, **named: Any) -> Any:
    """Make a client; see `windshift.connect`. Threads may share it, and forked processes use it further."""
    client = asynchronous.connect(*arguments, **named)
    client.follow_forks()
    to_close.add(client)
    return facade_of(asynchronous.Client)(client)


def shared() -> Any:
    """Return the client of this process, made as the environment says. It is never closed."""
    global _shared  # noqa: PLW0603 -- there is one for a process
    if _shared is None:
        _shared = connect()
    return _shared


def __getattr__(name: str) -> Any:
    """Return the facade of an asynchronous class."""
    from . import consumers, dead_letters, publishing, stores, streams  # noqa: F401, PLC0415 -- where they are

    return find(name)
