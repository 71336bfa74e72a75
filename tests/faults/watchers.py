"""Clients that follow a store, and go on where they were when their call breaks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc.aio

from tests.faults.calls import Connection, read_refused
from tests.faults.checks import Violation
from tests.faults.history import Change
from tests.faults.serializable import Version
from tests.faults.subscribers import Target
from tests.support.client import STATE, text_of
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as pb


class Watcher:
    """Follows all keys of a store from its first revision on, on one server after the other.

    Attributes:
        changes: what it was told.
        calls: how many calls it has made.
    """

    def __init__(self, who: str, store: str, targets: Sequence[Target]) -> None:
        self.changes: list[Change] = []
        self.calls = 0
        self._who = who
        self._store = store
        self._targets = targets
        self._next = 1

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            target = self._targets[self.calls % len(self._targets)]
            self.calls += 1
            try:
                await self._follow(target.connection)
            except grpc.aio.AioRpcError as error:
                refused = read_refused("Watch", error)
                target.connection.history.failures.append(refused.failure)
                assert refused.retryable, refused
            await asyncio.sleep(0.05)

    async def _follow(self, connection: Connection) -> None:
        call = connection.channel.unary_stream(
            f"/{STATE.full_name}/Watch",
            request_serializer=pb.WatchRequest.SerializeToString,
            response_deserializer=pb.WatchResponse.FromString,
        )
        async for response in call(pb.WatchRequest(store=self._store, from_revision=self._next)):
            if response.HasField("entry"):
                self._take(connection, response.entry)

    def _take(self, connection: Connection, entry: pb.Entry) -> None:
        value = "" if entry.deleted else text_of(entry.value)
        change = Change(self._who, entry.key, entry.revision, value, time.monotonic())
        self.changes.append(change)
        connection.history.changes.append(change)
        self._next = entry.revision + 1


@asynccontextmanager
async def watching(watchers: Sequence[Watcher]) -> AsyncIterator[None]:
    """Have them follow beside the block."""
    tasks = [asyncio.create_task(watcher.run()) for watcher in watchers]
    try:
        yield
        for task in tasks:
            assert not task.done(), task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def mistold(watcher: Watcher, versions: Sequence[Version]) -> list[Violation]:
    """Find what a watcher was not told, or wrongly, twice or out of order, of all that was ever written."""
    told = [Version(change.revision, change.key, change.value) for change in watcher.changes]
    if told == list(versions):
        return []
    for number, (one, other) in enumerate(zip(told, versions, strict=False)):
        if one != other:
            return [Violation("watch", f"change {number} was told as {one} and is {other}")]
    return [Violation("watch", f"{len(told)} changes were told, and there are {len(versions)}")]
