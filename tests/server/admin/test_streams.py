"""Lists of streams, without a broker, and what is removed of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.broker import Broker, in_seconds, no_consumers
from windshift.nats import JetStreamError, Message
from windshift.nats.jetstream import codes
from windshift.nats.jetstream.api import JetStream, read_answer
from windshift.server.admin.dead_letter_counts import DeadLetterCounts, Whose
from windshift.server.admin.look import Look, StreamRow, StreamsSeen
from windshift.server.admin.streams import StreamAdmin, StreamOrder, StreamQuery
from windshift.server.auth.policy import Principal
from windshift.server.domain.errors import OutcomeUnknown

Unique = Callable[[], str]

ROWS = [StreamRow(f"s{n:03}", (), "", n, n, n, n, 0, True, 0.0, 0.0) for n in range(600)]
SEEN = StreamsSeen(0.0, ROWS, {row.name: row for row in ROWS}, frozenset())


class Gone:
    """A broker whose streams were deleted meanwhile."""

    async def stream_info(self, name: str, deadline: float) -> dict[str, Any]:
        raise JetStreamError(codes.STREAM_NOT_FOUND, 404, "gone", name)


class Counting:
    """Notes what is counted."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    async def of(self, whose: list[Whose], deadline: float) -> dict[Whose, int]:
        self.asked.append([stream for stream, _ in whose])
        return dict.fromkeys(whose, 0)


async def seen(deadline: float) -> StreamsSeen:
    """Return all streams, as a look does."""
    return SEEN


@pytest.mark.parametrize("order", [StreamOrder.NAME, StreamOrder.EVENTS, StreamOrder.DEAD_LETTERS])
async def test_a_page_looks_at_each_row_once(order: StreamOrder) -> None:
    """It is asked once of each stream whether the caller sees it, and nothing is counted of the others."""
    views: list[str] = []

    def sees(name: str) -> bool:
        views.append(name)
        return name != "s100"

    letters, caller = Counting(), cast("Principal", SimpleNamespace(sees=sees))
    admin = StreamAdmin(
        cast("Any", Gone()), cast("Look", SimpleNamespace(seen=seen)), cast("DeadLetterCounts", letters)
    )
    page = await admin.page(StreamQuery(find="s1", order=order), caller, 10, None, 1e9)
    assert (page.total, page.after) == (99, (110 if order is StreamOrder.EVENTS else 0, "s110"))
    assert len(views) == 100
    assert ("s100" in letters.asked[0]) is False


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("subject", [{}, {"filter": ">"}])
async def test_a_purge_up_to_the_first_event(
    broker: Broker, unique: Unique, subject: dict[str, str], dry_run: bool
) -> None:
    """It removes nothing, and is not put to the broker: nats-server 2.14.1 would remove everything."""
    stream, asked = await broker.stream(unique()), list[Message]()
    await broker.publish(f"{stream}.a")
    broker.connection.subscribe(b"$JS.API.STREAM.PURGE.>", asked.append)
    admin = StreamAdmin(broker.api, cast("Look", None), cast("DeadLetterCounts", None))
    assert await admin.purge(stream, {"seq": 1} | subject, in_seconds(30), dry_run=dry_run) == 0
    await broker.requests.round_trip(in_seconds(30))
    assert not asked
    assert await broker.messages(stream) == 1


async def test_counting_changes_nothing(broker: Broker, unique: Unique) -> None:
    """Lists that are shared are as good after a dry run of a purge; what it made to count is gone soon."""
    stream = await broker.stream(unique())
    for _ in range(3):
        await broker.publish(f"{stream}.a")
    admin = StreamAdmin(broker.api, cast("Look", None), cast("DeadLetterCounts", None))
    before = broker.api.changes
    assert await admin.purge(stream, {"seq": 3}, in_seconds(30), dry_run=True) == 2
    assert broker.api.changes == before
    await no_consumers(broker, stream)


@pytest.mark.parametrize("code", [codes.SEQUENCE_NOT_FOUND, codes.MESSAGE_DELETE_FAILED])
@pytest.mark.parametrize("is_there", [False, True])
async def test_deleting_an_event_takes_long(code: int, is_there: bool) -> None:
    """That a further attempt does not find it means success, if it is really gone."""

    class Slow:
        """A broker that answers the second attempt."""

        async def change(self, *_: object, gone: frozenset[int]) -> dict[str, Any]:
            assert code in gone
            return {}

        delete_message = JetStream.delete_message
        _require_gone = JetStream._require_gone

        async def message(self, *_: object) -> object:
            return object() if is_there else None

    admin = StreamAdmin(cast("Any", Slow()), cast("Look", None), cast("DeadLetterCounts", None))
    with pytest.raises(OutcomeUnknown) if is_there else nullcontext():
        await admin.delete_event("s", 1, 1e9, erase=False)


class Answering:
    """A broker that has a stream of many subjects."""

    def __init__(self, subjects: int) -> None:
        counts = {f"s.{number:05}": number + 1 for number in reversed(range(subjects))}
        answer = {"total": subjects, "state": {"messages": subjects, "subjects": counts}}
        self._body = json.dumps(answer, separators=(",", ":")).encode()

    async def call(self, _operation: str, _request: Any, _deadline: float, read: Any = read_answer) -> Any:
        return read(self._body)


async def test_many_subjects_are_read_some_at_a_time() -> None:
    """Others run while a page of them is cut, and each page goes on behind the one before."""
    admin = StreamAdmin(cast("Any", Answering(20_000)), cast("Look", None), cast("DeadLetterCounts", None))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    running = asyncio.create_task(others())
    assert await admin.subjects("S", "", 2, None, 1e9) == ([("s.00000", 1), ("s.00001", 2)], "s.00001")
    running.cancel()
    assert turns >= 19
    assert await admin.subjects("S", "", 2, "s.19996", 1e9) == (
        [("s.19997", 19_998), ("s.19998", 19_999)],
        "s.19998",
    )
    assert await admin.subjects("S", "", 2, "s.19998", 1e9) == ([("s.19999", 20_000)], None)
