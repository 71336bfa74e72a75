"""Snapshots of whole streams: their messages and consumers, as one archive in pieces.

The format is the server's own, a compressed tar, the same that ``nats stream backup`` writes. A snapshot is
of one moment. Sources: ``processSnapshotRequest`` and ``processStreamRestore`` in nats-server's
``jetstream_api.go``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from windshift.nats.connection import Connection
from windshift.nats.errors import Forbidden, NatsError, Unavailable
from windshift.nats.jetstream.api import JetStream, JsonObject, read_answer
from windshift.nats.protocol import Message
from windshift.nats.requests import NoReply

PIECE: Final = 128 * 1024
"""Bytes of one piece, at most."""
_STEP: Final = 120.0
"""Seconds that the server may take over each step: the beginning, one piece, and the end of a restore, in
which it reads the whole stream."""
_GOOD_END: Final = b"NATS/1.0 204"
"""How the header of the last message begins, if it has one, and all went well."""


class SnapshotFailed(NatsError):
    """A snapshot, or what was made of it, is not whole. The text says why."""


async def take_snapshot(api: JetStream, stream: str, write: Callable[[bytes], object]) -> JsonObject:
    """Take a snapshot; `write` is called with each piece, in order.

    Return the stream's ``config`` and ``state`` at that moment. Raise `SnapshotFailed` if it breaks off, and
    the errors of `JetStream.call`.
    """
    connection, deadline = api.connection, _deadline(api)
    pieces: asyncio.Queue[Message | None] = asyncio.Queue()
    await connection.wait_ready(deadline)
    # Not across wires: while one replaces another, each piece would arrive by both.
    subscription = connection.subscribe_once(pieces.put_nowait)
    if subscription is None:
        raise Unavailable

    on_lost = partial(pieces.put_nowait, None)
    hooks = connection.on_lost, connection.on_replaced
    for some in hooks:
        some.append(on_lost)
    try:
        request = {"deliver_subject": subscription.subject.decode(), "chunk_size": PIECE, "jsck": True}
        answer = await api.call(f"STREAM.SNAPSHOT.{stream}", request, deadline, repeatable=False)
        await _read(connection, pieces, write)
    finally:
        for some in hooks:
            some.remove(on_lost)
        subscription.unsubscribe()
    return {"config": answer["config"], "state": answer["state"]}


async def _read(
    connection: Connection, pieces: asyncio.Queue[Message | None], write: Callable[[bytes], object]
) -> None:
    while True:
        try:
            async with asyncio.timeout(_STEP):
                piece = await pieces.get()
        except TimeoutError:
            raise SnapshotFailed("the server sent nothing more") from None
        if piece is None:
            raise SnapshotFailed("the connection was lost")
        if not piece.body:
            if piece.headers and not piece.headers.startswith(_GOOD_END):
                raise SnapshotFailed(piece.headers.decode(errors="replace").split("\r\n")[0])
            return
        write(piece.body)
        if piece.reply:  # the server sends some megabytes ahead of these
            connection.publish(piece.reply)


async def restore_snapshot(api: JetStream, snapshot: JsonObject, pieces: Iterable[bytes]) -> JsonObject:
    """Make a stream of a snapshot, whose ``config`` may have been changed; return the stream's info.

    Raise `SnapshotFailed` if the server does not take it, and the errors of `JetStream.call`: a stream of
    that name must not exist.
    """
    operation = f"STREAM.RESTORE.{snapshot['config']['name']}"
    answer = await api.call(operation, snapshot, _deadline(api), repeatable=False)
    subject = answer["deliver_subject"].encode()
    for piece in pieces:
        refusal = await _send(api, subject, piece)
        if refusal:
            read_answer(refusal)
            raise SnapshotFailed(refusal.decode(errors="replace"))
    return read_answer(await _send(api, subject, b""))


async def _send(api: JetStream, subject: bytes, piece: bytes) -> bytes:
    outcome = await api.requests.request(subject, piece, b"", _deadline(api))
    if isinstance(outcome, bytes):
        return outcome
    if outcome is NoReply.FORBIDDEN:
        raise Forbidden
    raise Unavailable


def _deadline(api: JetStream) -> float:
    return api.requests.loop.time() + _STEP
