"""Reading several events of one request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift.server.api.publishing import publish_stream, read_events
from windshift.server.auth.access import AuthorizedCall
from windshift.server.domain.errors import InvalidField, PermissionDenied


async def turns_of(work: Coroutine[Any, Any, object]) -> int:
    """Count the turns of the event loop that something takes."""
    working, turns = asyncio.ensure_future(work), 0
    while not working.done():
        await asyncio.sleep(0)
        turns += 1
    await working
    return turns


class Call(SimpleNamespace):
    """A call of a client that has sent many requests without events."""

    left = 1000
    deadline = state = None

    async def receive_kept(self) -> tuple[list[pb.PublishStreamRequest], int]:
        """Return one that is there already."""
        self.left -= 1
        return [pb.PublishStreamRequest()] if self.left >= 0 else [], 0

    def begin_response(self) -> None:
        """Do nothing."""

    def let_go(self, size: int) -> None:
        """Do nothing."""


class Pipeline:
    """Publishes what comes."""

    async def publish(self, feed: AsyncIterator[object], *_: object, **__: object) -> None:
        """Take it."""
        async for _events in feed:
            raise AssertionError("there are no events")


async def test_others_run_while_many_events_are_read() -> None:
    """It takes several turns of the event loop, however many events there are."""
    call: Any = SimpleNamespace(state=None, peer="p")
    reading = asyncio.ensure_future(read_events([pb.PublishEventRequest()] * 1000, None, call, goes_on=False))
    assert await turns_of(asyncio.wait_for(reading, None)) > 10
    items = reading.result()
    assert len(items) == 1000
    assert all(isinstance(item, InvalidField) for item in items)


async def test_others_run_while_requests_without_events_come() -> None:
    """Nothing that is done with them waits for anybody."""
    call: Any = Call()
    pipeline: Any = Pipeline()
    assert await turns_of(publish_stream(call, lambda _: None, pipeline)) > 500


class Denying(AuthorizedCall):
    """Whoever may publish nothing."""

    def __init__(self) -> None:
        self.identity: Any = SimpleNamespace(principal=SimpleNamespace(name="p"))

    def may_publish(self, _: str) -> bool:
        """Return that it may not."""
        return False

    def publish(self, _: str) -> None:
        """Say why not."""
        raise PermissionDenied("p", "publish", "publish", "a", "")


@pytest.mark.parametrize(("subject", "kind"), [("a.b", PermissionDenied), ("a..b", InvalidField)])
async def test_a_denial_keeps_no_events(subject: str, kind: type[Exception]) -> None:
    """No error has a frame that has them, and what is malformed is refused as that."""
    call: Any = SimpleNamespace(state=Denying(), peer="p")
    (error,) = await read_events([pb.PublishEventRequest(subject=subject)], None, call, goes_on=False)
    assert isinstance(error, kind)
    assert (error.__traceback__, error.__context__) == (None, None)
