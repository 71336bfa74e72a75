"""Reading several events of one request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.client import any_of
from tests.support.freed import alive, without_collector
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift.server.api import publishing
from windshift.server.api.publishing import publish_atomic, publish_stream, read_events, write_results
from windshift.server.auth.access import AuthorizedCall
from windshift.server.background.pacing import Pacing
from windshift.server.domain.errors import (
    EventTooLarge,
    InvalidField,
    PermissionDenied,
    UnboundSubject,
    WindshiftError,
    WrongLastId,
)
from windshift.server.events.model import Results

METHOD = "/windshift.events.v1alpha1.EventsService/PublishBatch"


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


async def test_a_denied_event_of_many_leaves_nothing_behind() -> None:
    """The error that ends the call does not keep all events until the garbage collector comes."""
    call: Any = SimpleNamespace(state=Denying(), peer="p")
    publisher: Any = SimpleNamespace(failed=lambda *_: None)
    with without_collector():
        with pytest.raises(PermissionDenied):
            await publish_atomic([pb.PublishEventRequest(subject="a.b")] * 10, None, call, publisher)
        assert alive(PermissionDenied) == []


@pytest.mark.parametrize(("malformed", "is_bulk"), [(0, False), (400, False), (600, True), (1000, True)])
async def test_events_most_of_which_are_malformed_are_bulk_work(malformed: int, is_bulk: bool) -> None:
    """The call waits as such from when that is known, before it has any results."""
    call: Any = SimpleNamespace(state=None, peer="p")
    good = pb.PublishEventRequest(subject="a.b", data=any_of("x"))
    events = [good] * (1000 - malformed) + [pb.PublishEventRequest()] * malformed
    pacing = Pacing()

    async def read() -> None:
        await read_events(events, None, call, goes_on=True)
        await asyncio.sleep(0)

    await pacing.run(read(), bulk=False)
    assert pacing.is_bulky() is is_bulk


async def write(errors: Sequence[Exception]) -> list[pb.PublishError]:
    """Write what became of events that all failed."""
    call: Any = SimpleNamespace(method=METHOD)
    response = pb.PublishBatchResponse()
    await write_results(response, Results(7, [0] * len(errors), [], dict(enumerate(errors, 7))), call)
    return list(response.errors)


async def test_errors_that_say_the_same_are_worded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many events are malformed in the same way: to word an error takes long."""
    worded: list[Exception] = []
    word = publishing._publish_error

    def count(error: Exception, call: Any) -> pb.PublishError:
        worded.append(error)
        return word(error, call)

    monkeypatch.setattr(publishing, "_publish_error", count)
    told = await write([InvalidField("data", "is missing") for _ in range(1000)])
    assert len(worded) == 1
    assert [each.index for each in told] == list(range(7, 1007))
    assert {each.message for each in told} == {"data: is missing"}


async def test_no_two_errors_are_taken_for_the_same() -> None:
    """Each is told in its own words, whatever others there are."""
    errors: list[WindshiftError] = [
        InvalidField("data", "is missing"),
        InvalidField("subject", "is missing"),
        InvalidField("data", "is too long"),
        UnboundSubject("a.b"),
        UnboundSubject("a.c"),
        WrongLastId(1, 2),
        WrongLastId(1, None),
        WrongLastId(2, 1),
        EventTooLarge(1, "A"),
        EventTooLarge(1),
        PermissionDenied("p", "publish to 'a'", "publish", "a", ""),
    ]
    alone = [(await write([each]))[0] for each in errors]
    together = await write(errors * 3)
    for place, (told, one) in enumerate(zip(together, alone * 3, strict=True), 7):
        one.index = place
        assert told == one
