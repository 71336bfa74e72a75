"""Payloads from the line, from files and from stdin."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from windshift.cli.failing import USAGE, Failure
from windshift.cli.options import takes

if TYPE_CHECKING:
    from google.protobuf.any_pb2 import Any as AnyMessage

    from windshift.cli.payloads import Payloads

_CHUNK = 1 << 18
_CHUNKS_AHEAD = 4
_LONGEST_LINE = 64 << 20
"""Bytes; NATS takes no larger events."""


takes_payload = takes(
    click.option("--type", "kind", metavar="TYPE", help="Full name of the Protobuf message of the JSON."),
    click.option("--json-type", metavar="NAME", help="Send the JSON as it is, under this name."),
    click.option("--raw", is_flag=True, help="The payload is bytes of --type, not JSON."),
)
"""Adds the options that say what a payload is."""


def encoder(
    payloads: Payloads, kind: str | None, json_type: str | None, *, raw: bool
) -> Callable[[bytes], AnyMessage]:
    """Return what makes payloads of what the options say they are, and raises `Failure` with a reason.

    Without a type, JSON is sent as it is, in `windshift.payload.v1.Json`.
    """
    from windshift.cli.payloads import of_bytes, wrapped

    if kind and json_type:
        raise Failure("--type and --json-type do not go together", USAGE)
    if raw and not kind:
        raise Failure("--raw needs a --type", USAGE)

    def encode(content: bytes) -> AnyMessage:
        if kind and raw:
            return of_bytes(content, kind)
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise Failure("the payload is not UTF-8", USAGE, hint="send bytes with --raw") from error
        return payloads.message(text, kind) if kind else wrapped(text, json_type or "")

    return encode


async def content_of(argument: str | None) -> bytes:
    """Return what a payload argument stands for: itself, `@file`, or `-` for all of stdin."""
    stdin: Any = sys.stdin  # None where it was closed
    if argument is None and (stdin is None or stdin.isatty()):
        raise Failure("there is no payload", USAGE, hint="give it, @file, or - for stdin")
    if argument is None or argument == "-":
        return b"".join([chunk async for chunk in _chunks()])
    if argument.startswith("@"):
        try:
            return Path(argument[1:]).read_bytes()  # noqa: ASYNC240 -- nothing else runs meanwhile
        except OSError as error:
            raise Failure(f"{argument[1:]} cannot be read: {error.strerror}", USAGE) from error
    return argument.encode("utf-8", "surrogateescape")


async def lines_of_stdin(stop: asyncio.Event) -> AsyncIterator[list[bytes]]:
    """Yield the lines of stdin that come together, the empty ones too, until `stop` is set."""
    rest = b""
    async for chunk in _until(stop, _chunks()):
        *lines, rest = (rest + chunk).split(b"\n")
        yield lines
        if len(rest) > _LONGEST_LINE:
            raise Failure(f"a line is longer than {_LONGEST_LINE >> 20} MiB", USAGE)
    if not stop.is_set():
        yield [rest]


async def _until(stop: asyncio.Event, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield what an iterator has until `stop` is set, also while it waits."""
    stopping = asyncio.ensure_future(stop.wait())
    try:
        while True:
            chunk = asyncio.ensure_future(anext(chunks, b""))
            await asyncio.wait((chunk, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not chunk.done():
                chunk.cancel()
            if stop.is_set() or not (content := await chunk):
                return
            yield content
    finally:
        stopping.cancel()


async def _chunks() -> AsyncIterator[bytes]:
    """Yield what stdin has, read in a thread that ends with the process: nothing interrupts a read."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes] = asyncio.Queue()
    room = threading.Semaphore(_CHUNKS_AHEAD)

    def read() -> None:
        while room.acquire():
            try:
                chunk = os.read(number, _CHUNK)
            except OSError:
                chunk = b""
            try:
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)
            except RuntimeError:  # the loop is closed
                return
            if not chunk:
                return

    stdin: Any = sys.stdin
    if stdin is None:
        raise Failure("stdin is closed", USAGE)
    try:
        number = stdin.fileno()
    except (OSError, ValueError, AttributeError):  # no file: tests
        yield stdin.buffer.read()
        return
    threading.Thread(target=read, daemon=True).start()
    while chunk := await chunks.get():
        yield chunk
        room.release()
