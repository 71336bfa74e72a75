"""Pages of dead letters: what passes the filter, in order, within bounds."""

from __future__ import annotations

from collections.abc import Callable
from time import time_ns
from typing import Any

import pytest

from tests.server.events.keeping import Keeper, failure, forget_all, keep
from tests.server.events.management import eventually
from tests.support.broker import Broker, in_seconds
from windshift.nats.jetstream.api import StoredMessage
from windshift.nats.times import Time, from_unix_ns
from windshift.server.background.batches import spread
from windshift.server.events.dead_letters.codec import EventCopy, StoredDeadLetter, dead_letter
from windshift.server.events.dead_letters.model import Cause, DeadLetter, DeadLetterFilter, DeadLetterId
from windshift.server.events.dead_letters.store import STREAM, Chosen, Found, choose, scan_query
from windshift.server.events.model import StreamSeq

Unique = Callable[[], str]

ALL = DeadLetterFilter()
LONG_AGO = Time(1_000, 0)
MINUTE = 60 * 10**9


def entry(position: int, size: int = 10, time: Time = LONG_AGO, cause: Cause = Cause.REJECTED) -> Found:
    """Make an entry as a scan finds it."""
    why = failure(DeadLetterId("s", "c", StreamSeq(position), 1), cause=cause)
    event = EventCopy("a", (), bytes(size))
    made = StoredDeadLetter(why, position, time, "w", event, size, has_overflow=False)
    return Found(made, dead_letter(made, event, with_data=False))


def positions(chosen: Chosen) -> tuple[list[int], int]:
    """Say which entries were chosen, and where to go on."""
    return [each.entry.position for each in chosen.found], chosen.seen if chosen.more else 0


def test_the_last_page_says_so() -> None:
    """When nothing is left the page is the last one."""
    assert positions(choose([entry(3), entry(7)], 0, ALL, 5, 100)) == ([3, 7], 0)


def test_more_is_left() -> None:
    """What was not scanned comes after the last entry that was, whether that passed or not."""
    some = DeadLetterFilter(causes=frozenset({Cause.REJECTED}))
    scanned: list[Found | int] = [entry(3), entry(7, cause=Cause.MAX_ATTEMPTS), 9]
    assert positions(choose(scanned, 1, some, 5, 100)) == ([3], 9)


def test_a_full_page_goes_on_after_its_last_entry() -> None:
    """What was scanned beyond the page comes with the next."""
    scanned: list[Found | int] = [entry(3), entry(7), 8, entry(9), entry(11)]
    assert positions(choose(scanned, 0, ALL, 2, 100)) == ([3, 7], 8)


def test_data_is_bounded() -> None:
    """A page ends before the entry that would be too much, but has one at least."""
    scanned: list[Found | int] = [entry(3, 60), entry(7, 60), entry(9)]
    assert positions(choose(scanned, 0, ALL, 9, 100)) == ([3], 3)
    assert positions(choose(scanned[1:], 0, ALL, 9, 50)) == ([7], 7)
    assert positions(choose(scanned, 0, ALL, 9, 1_000)) == ([3, 7, 9], 0)


def test_nothing_that_passes() -> None:
    """A page may be empty and still not be the last."""
    none = DeadLetterFilter(type_name="acme.v1.Order")
    assert positions(choose([entry(3), entry(7)], 5, none, 9, 100)) == ([], 7)
    assert positions(choose([], 0, none, 9, 100)) == ([], 0)


def test_times_end_the_scan() -> None:
    """Entries well after the end are not looked for, those just after it are only left out."""
    until = DeadLetterFilter(until_ns=1_000 * 10**9)
    scanned: list[Found | int] = [entry(3, time=Time(999, 0)), entry(4, time=Time(1_000, 0))]
    assert positions(choose(scanned, 9, until, 9, 100)) == ([3], 4)
    late = [*scanned, entry(5, time=Time(1_100, 0))]
    assert positions(choose(late, 9, until, 9, 100)) == ([3], 0)


def test_where_a_scan_begins() -> None:
    """The first page of those since a time begins there, with a minute for clocks; others by position."""
    since = DeadLetterFilter("s", "c", since_ns=1_000 * 10**9)
    query = scan_query(since, 0, 10, 100)
    assert query["start_time"] == "1970-01-01T00:15:40.000000000Z"
    assert since.pattern == "s.c.>"
    assert scan_query(since, 5, 10, 100)["seq"] == 6
    assert scan_query(ALL, 0, 10, 100)["seq"] == 1


@pytest.fixture
async def keeper(broker: Broker) -> Keeper:
    """Keep dead letters on the shared broker, where there are none yet."""
    await forget_all(broker)
    return await keep(broker)


async def all_pages(
    keeper: Keeper, which: DeadLetterFilter, most: int, most_bytes: int | None
) -> list[list[DeadLetter]]:
    """Read page after page, to the last."""
    pages, after = [], 0
    while True:
        page = await keeper.store.page(which, after, most, in_seconds(30), max_data=most_bytes)
        pages.append(page.dead_letters)
        if not page.more:
            return pages
        after = page.after


async def test_page_after_page(keeper: Keeper, unique: Unique) -> None:
    """All dead letters come once, in order, however small the pages are."""
    stream = await keeper.broker.stream(unique())
    written = await keeper.given_up(stream, 25)
    pages: list[list[DeadLetter]] = []
    for most, most_bytes in ((10, 10**6), (1, 10**6), (25, 10**6), (25, 1), (25, 3), (100, 2_000)):
        pages = await all_pages(keeper, ALL, most, most_bytes)
        assert all(len(page) <= most for page in pages)
        assert [int(letter.data) for page in pages for letter in page] == list(range(25))
    found = [letter.failure for page in pages for letter in page]
    assert found == [letter.failure for letter in written]


async def test_filters(keeper: Keeper, unique: Unique) -> None:
    """Stream, consumer, cause, type and time each restrict, and all that is set must hold."""
    first, second = [await keeper.broker.stream(unique()) for _ in range(2)]
    begun = time_ns()
    await keeper.given_up(first, 2)
    await keeper.given_up(first, 2, "other", cause=Cause.MAX_ATTEMPTS)
    await keeper.given_up(second, 2, cause=Cause.MAX_ATTEMPTS)
    seq = await keeper.publish(f"{second}.a", b"9", {"WS-Data-Type": "acme.v1.Order"})
    await keeper.writer.write(await keeper.failure(second, seq), in_seconds(30))

    async def found(which: DeadLetterFilter) -> list[tuple[str, str]]:
        pages = await all_pages(keeper, which, 3, 10**6)
        ids = [letter.failure.id for page in pages for letter in page]
        return [(id.stream, id.consumer) for id in ids]  # noqa: A001 - as the field is called

    assert await found(ALL) == [(first, "c")] * 2 + [(first, "other")] * 2 + [(second, "c")] * 3
    assert await found(DeadLetterFilter(first)) == [(first, "c")] * 2 + [(first, "other")] * 2
    assert await found(DeadLetterFilter(first, "other")) == [(first, "other")] * 2
    causes = frozenset({Cause.MAX_ATTEMPTS})
    assert await found(DeadLetterFilter(causes=causes)) == [(first, "other")] * 2 + [(second, "c")] * 2
    assert await found(DeadLetterFilter(type_name="acme.v1.Order")) == [(second, "c")]
    assert await found(DeadLetterFilter(first, "c", causes=frozenset({Cause.MAX_ATTEMPTS}))) == []
    assert len(await found(DeadLetterFilter(since_ns=begun))) == 7
    assert await found(DeadLetterFilter(since_ns=begun + 10 * MINUTE)) == []
    assert await found(DeadLetterFilter(until_ns=begun)) == []
    assert len(await found(DeadLetterFilter(until_ns=begun + MINUTE))) == 7
    middle = (await all_pages(keeper, DeadLetterFilter(first, "other"), 9, 100))[0][0].time
    middle_ns = middle.seconds * 10**9 + middle.nanos
    assert from_unix_ns(middle_ns) == middle
    assert len(await found(DeadLetterFilter(since_ns=middle_ns))) == 5
    assert len(await found(DeadLetterFilter(until_ns=middle_ns))) == 2


async def test_a_scan_is_bounded(keeper: Keeper, unique: Unique) -> None:
    """Where little passes a page looks at some entries only, and says where to go on."""
    stream = await keeper.broker.stream(unique())
    await keeper.store.ensure(None, in_seconds(30))
    [sample] = await keeper.given_up(stream, 1)
    for number in range(1_250):  # entries that cannot be read count, too
        keeper.broker.connection.publish(f"_WS.dead.{stream}.c.{number + 10}.1".encode())
    await eventually(keeper.entries, 1_251)
    await keeper.given_up(stream, 1, cause=Cause.MAX_ATTEMPTS)
    pages = await all_pages(keeper, DeadLetterFilter(causes=frozenset({Cause.MAX_ATTEMPTS})), 10, 1000)
    assert [len(page) for page in pages] == [0, 0, 1]
    assert await keeper.store.count(stream, "c", in_seconds(30)) == 1_252
    assert len(await keeper.store.recall(stream, "c", in_seconds(30))) == 1_252
    assert sample.position == 1


async def test_a_scan_backwards_is_bounded(
    keeper: Keeper, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its windows together hold no more bytes than two of them may, and nothing is left out."""
    sizes: list[int] = []

    async def noted(function: Callable[[StoredMessage], Any], items: list[StoredMessage]) -> list[Any]:
        sizes.append(sum(len(each.body) for each in items))
        return await spread(function, items)

    monkeypatch.setattr("windshift.server.events.dead_letters.store.spread", noted)
    stream = await keeper.broker.stream(unique())
    await keeper.given_up(stream, 3)
    for number in range(60):
        await keeper.publish(f"_WS.dead.{stream}.c.{number + 10}.1", bytes(400_000))
    which, after, found = DeadLetterFilter(causes=frozenset({Cause.REJECTED})), 0, []
    more = True
    while more:
        page = await keeper.store.page(which, after, 10, in_seconds(30), max_data=10**6, newest_first=True)
        after, more = page.after, page.more
        found += [int(letter.data) for letter in page.dead_letters]
    assert found == [2, 1, 0]
    assert max(sizes) < 8 * 1024 * 1024


async def test_without_data(keeper: Keeper, unique: Unique) -> None:
    """Data can be left out; how much there is, is still told."""
    stream = await keeper.broker.stream(unique())
    limit = keeper.broker.connection.max_payload
    for size in (3, limit):
        why = await keeper.failure(stream, await keeper.publish(f"{stream}.a", bytes(size)))
        await keeper.writer.write(why, in_seconds(30))
    [page] = await all_pages(keeper, ALL, 10, None)
    assert [(letter.data, letter.data_size) for letter in page] == [(b"", 3), (b"", limit)]
    pages = await all_pages(keeper, ALL, 10, 100)
    assert [[len(letter.data) for letter in page] for page in pages] == [[3], [limit]]


async def test_written_anew_comes_again(keeper: Keeper, unique: Unique) -> None:
    """A dead letter whose replay failed is listed once, at its new place."""
    stream = await keeper.broker.stream(unique())
    first, _ = await keeper.given_up(stream, 2)
    before = await keeper.store.last_position(in_seconds(30))
    await keeper.writer.write(first.failure._replace(replay_count=1), in_seconds(30))
    [page] = await all_pages(keeper, ALL, 10, 100)
    assert [letter.data for letter in page] == [b"1", b"0"]
    after = await keeper.store.page(ALL, before, 10, in_seconds(30), max_data=100)
    assert [letter.failure.replay_count for letter in after.dead_letters] == [1]
    assert await keeper.store.last_position(in_seconds(30)) == after.dead_letters[0].position


async def test_direct_reads_are_switched_on_again(keeper: Keeper, unique: Unique) -> None:
    """Somebody who forbids direct reads of the stream does not stop lists for good."""
    stream = await keeper.broker.stream(unique())
    await keeper.given_up(stream, 1)
    config = (await keeper.broker.api.stream_info(STREAM, in_seconds(30)))["config"]
    await keeper.broker.api.call(f"STREAM.UPDATE.{STREAM}", config | {"allow_direct": False}, in_seconds(30))
    assert len((await all_pages(keeper, ALL, 10, 100))[0]) == 1
