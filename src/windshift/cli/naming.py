"""Completion of the names of what a server has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:  # a command imports what it needs when it runs
    import windshift as ws

_SECONDS = 2.0
_MOST = 200

Names = Callable[["ws.Client", click.Context], AsyncIterator[str]]


def completes(names: Names) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Return what completes an argument with these names: none where the server cannot be asked."""

    def complete(context: click.Context, _: click.Parameter, start: str) -> list[str]:
        from windshift.cli.failing import Failure
        from windshift.cli.options import options_of
        from windshift.cli.session import Session

        async def ask() -> list[str]:
            session = Session(options_of(context))
            found: list[str] = []
            try:
                async with asyncio.timeout(_SECONDS):
                    async for name in names(session.client, context):
                        if name.startswith(start):
                            found.append(name)
                        if len(found) == _MOST:
                            break
            finally:
                await session.close()
            return found

        from windshift.sdk.errors import WindshiftError

        try:
            return asyncio.run(ask())
        except (WindshiftError, TimeoutError, Failure, OSError):
            return []

    return complete


async def streams(client: ws.Client, _: click.Context) -> AsyncIterator[str]:
    """Yield the names of the streams."""
    async for stream in client.streams.list():
        yield stream.name


async def consumers(client: ws.Client, context: click.Context) -> AsyncIterator[str]:
    """Yield the names of the consumers of the stream that the line names."""
    stream: Any = context.params.get("stream")
    if isinstance(stream, str):
        async for consumer in client.stream(stream).consumers.list():
            yield consumer.name


async def stores(client: ws.Client, _: click.Context) -> AsyncIterator[str]:
    """Yield the names of the stores."""
    async for store in client.stores.list():
        yield store.name


async def _keys(client: ws.Client, context: click.Context) -> AsyncIterator[str]:
    store: Any = context.params.get("store")
    if isinstance(store, str):
        async for entry in client.store(store).keys():
            yield entry.key


STREAM: dict[str, Any] = {"shell_complete": completes(streams)}
CONSUMER: dict[str, Any] = {"shell_complete": completes(consumers)}
STORE: dict[str, Any] = {"shell_complete": completes(stores)}
KEY: dict[str, Any] = {"shell_complete": completes(_keys)}
