"""The stream of dead letters on a real broker: each exactly once, and nothing lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, NoReturn

import pytest

from tests.server.events.keeping import Keeper, failure, forget_all, keep
from tests.server.events.management import eventually
from tests.support.broker import Broker, connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift.nats.budget import ASKING, Budget
from windshift.nats.jetstream.api import JetStream
from windshift.nats.jetstream.writes import Writes
from windshift.server.auth.quotas import GiveBack, nothing_taken
from windshift.server.broker.asking import asking
from windshift.server.domain.errors import BrokerUnavailable, OutcomeUnknown, QuotaExceeded, StreamFull
from windshift.server.events.dead_letters import writer
from windshift.server.events.dead_letters.codec import entry_subject
from windshift.server.events.dead_letters.model import Cause, DeadLetterFilter, DeadLetterId
from windshift.server.events.dead_letters.store import STREAM, DeadLetterStore, RecordedEnd
from windshift.server.events.dead_letters.writer import Written
from windshift.server.events.managed_stream import Conflict
from windshift.server.events.model import StreamSeq
from windshift.server.events.notes import DEAD
from windshift.server.events.runs import ALWAYS, Run

Unique = Callable[[], str]

LARGE = bytes(2**20)
"""Data of an event that leaves no room for headers: its dead letter is two messages."""


@pytest.fixture
async def keeper(broker: Broker) -> Keeper:
    """Keep dead letters on the shared broker, where there are none yet."""
    await forget_all(broker)
    return await keep(broker)


@pytest.fixture
async def own_keeper(own_broker: Broker) -> Keeper:
    """Keep dead letters on the test's own broker."""
    return await keep(own_broker)


async def test_an_event_is_kept_whole(keeper: Keeper, unique: Unique) -> None:
    """Data, headers and what happened come back as they were; the stream is made when it is missing."""
    stream = await keeper.broker.stream(unique())
    headers = {
        "WS-Data-Type": "acme.v1.Order",
        "WS-Trace-Parent": "00-a-b-01",
        "Nats-Msg-Id": "key",
        "App": "1",
    }
    seq = await keeper.publish(f"{stream}.placed", b"data", headers)
    why = await keeper.failure(stream, seq, cause=Cause.MAX_ATTEMPTS, reason="no stöck\r\n", error_type="E")
    outcome, written = await keeper.writer.write(why, in_seconds(30))
    kept = await keeper.get(why.id)
    assert outcome is Written.WRITTEN
    assert written is not None
    assert written == replace(kept, data=b"", time=written.time)
    assert kept.failure == why
    assert (kept.subject, kept.data, kept.data_size) == (f"{stream}.placed", b"data", 4)
    assert (kept.type_name, kept.idempotency_key, kept.trace_parent) == ("acme.v1.Order", "key", "00-a-b-01")
    assert kept.other_headers == {"App": "1"}
    assert kept.published.seconds * 10**9 + kept.published.nanos == why.id.stored_ns


async def test_a_repeat_finds_it_written(keeper: Keeper, unique: Unique) -> None:
    """Writing the same again, also after its event is gone, changes nothing and says so."""
    stream = await keeper.broker.stream(unique())
    [letter] = await keeper.given_up(stream, 1)
    again = letter.failure._replace(reason="other")
    assert (await keeper.writer.write(again, in_seconds(30)))[0] is Written.ALREADY
    await keeper.broker.api.call(f"STREAM.PURGE.{stream}", None, in_seconds(30))
    outcome, found = await keeper.writer.write(again, in_seconds(30))
    assert outcome is Written.ALREADY
    assert found is not None
    assert found == replace(letter, time=found.time)
    assert await keeper.entries() == 1


async def test_many_writers_at_once(keeper: Keeper, unique: Unique) -> None:
    """Of many that write the same dead letter exactly one has written it, and its word is what is kept."""
    stream = await keeper.broker.stream(unique())
    seq = await keeper.publish(f"{stream}.a", b"data")
    why = await keeper.failure(stream, seq)
    outcomes = await asyncio.gather(
        *(keeper.writer.write(why._replace(attempts=n + 1), in_seconds(20)) for n in range(100))
    )
    assert [outcome for outcome, _ in outcomes].count(Written.WRITTEN) == 1
    assert [outcome for outcome, _ in outcomes].count(Written.ALREADY) == 99
    [winner] = [letter for outcome, letter in outcomes if outcome is Written.WRITTEN]
    assert winner is not None
    assert (await keeper.get(why.id)).failure == winner.failure
    assert await keeper.entries() == 1


async def test_an_answer_that_was_lost(
    keeper: Keeper, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that finds in its way what it stored itself has written it, and leaves it as it is."""
    monkeypatch.setattr("windshift.server.events.dead_letters.writer.secrets.token_hex", lambda _: "same")
    stream = await keeper.broker.stream(unique())
    data = bytes(keeper.broker.connection.max_payload)
    for body, entries in ((b"small", 1), (data, 3)):
        why = await keeper.failure(stream, await keeper.publish(f"{stream}.a", body))
        for _ in range(2):
            assert (await keeper.writer.write(why, in_seconds(30)))[0] is Written.WRITTEN
        assert (await keeper.get(why.id)).data == body
        assert await keeper.entries() == entries


async def test_an_event_that_is_gone(keeper: Keeper, unique: Unique) -> None:
    """What limits removed from its stream before it could be kept is gone, and is not waited for."""
    stream = await keeper.broker.stream(unique())
    seq = await keeper.publish(f"{stream}.a")
    why = await keeper.failure(stream, seq)
    await keeper.broker.api.call(f"STREAM.MSG.DELETE.{stream}", {"seq": seq}, in_seconds(30))
    assert await keeper.writer.write(why, in_seconds(30)) == (Written.GONE, None)
    assert await keeper.writer.write(why._replace(replay_count=1), in_seconds(30)) == (Written.GONE, None)
    assert await keeper.store.get(why.id, in_seconds(30)) is None


async def test_another_event_of_the_same_id(keeper: Keeper, unique: Unique) -> None:
    """An event of a stream that was deleted and made anew is not taken for the one of the same id before."""
    stream = await keeper.broker.stream(unique())
    why = await keeper.failure(stream, await keeper.publish(f"{stream}.a", b"old"))
    await keeper.broker.api.call(f"STREAM.DELETE.{stream}", None, in_seconds(30))
    await keeper.broker.stream(stream)
    await keeper.publish(f"{stream}.a", b"new")
    assert await keeper.writer.write(why, in_seconds(30)) == (Written.GONE, None)


async def test_a_stream_that_is_gone(keeper: Keeper, unique: Unique) -> None:
    """Without the event's stream there is nobody to settle for: the caller is not told to settle."""
    why = failure(DeadLetterId(unique(), "c", StreamSeq(1), 1))
    with pytest.raises(BrokerUnavailable):
        await keeper.writer.write(why, in_seconds(0.5))


async def test_a_replay_that_fails_again(keeper: Keeper, unique: Unique) -> None:
    """It replaces the entry, further on, with the event whole although that is in no stream any more."""
    stream = await keeper.broker.stream(unique())
    [letter] = await keeper.given_up(stream, 1)
    await keeper.broker.api.call(f"STREAM.PURGE.{stream}", None, in_seconds(30))
    for count in (1, 2, 7):
        again = letter.failure._replace(replay_count=count, reason=f"again {count}")
        assert (await keeper.writer.write(again, in_seconds(30)))[0] is Written.WRITTEN
        assert (await keeper.writer.write(again, in_seconds(30)))[0] is Written.ALREADY
        kept = await keeper.get(again.id)
        assert kept.failure == again
        assert kept.data == b"0"
        assert kept.position > letter.position
        assert await keeper.entries() == 1
    late = letter.failure._replace(replay_count=3)
    assert (await keeper.writer.write(late, in_seconds(30)))[0] is Written.ALREADY


async def test_replays_that_fail_again_at_once(keeper: Keeper, unique: Unique) -> None:
    """Of many that write the outcome of the same replay one has written it."""
    stream = await keeper.broker.stream(unique())
    [letter] = await keeper.given_up(stream, 1)
    again = letter.failure._replace(replay_count=1)
    outcomes = await asyncio.gather(*(keeper.writer.write(again, in_seconds(20)) for _ in range(50)))
    assert [outcome for outcome, _ in outcomes].count(Written.WRITTEN) == 1
    assert (await keeper.get(again.id)).failure.replay_count == 1
    assert await keeper.entries() == 1


async def test_purged_while_it_is_replayed(keeper: Keeper, unique: Unique) -> None:
    """A replay that fails after its entry was removed is kept again, as long as the event is there."""
    stream = await keeper.broker.stream(unique())
    [letter] = await keeper.given_up(stream, 1)
    assert await keeper.store.purge(stream, "c", in_seconds(30)) == 1
    again = letter.failure._replace(replay_count=1)
    assert (await keeper.writer.write(again, in_seconds(30)))[0] is Written.WRITTEN
    assert (await keeper.get(again.id)).data == b"0"


@pytest.mark.parametrize("limit", ["max_msgs", "max_bytes"])
async def test_a_full_stream(keeper: Keeper, unique: Unique, limit: str) -> None:
    """A stream of dead letters that is full refuses new ones and keeps what it has; repeats work."""
    stream = await keeper.broker.stream(unique())
    letters = await keeper.given_up(stream, 3)
    info = await keeper.broker.api.stream_info(STREAM, in_seconds(30))
    most = {"max_msgs": 3, "max_bytes": info["state"]["bytes"] + 10}[limit]
    await keeper.broker.api.call(f"STREAM.UPDATE.{STREAM}", info["config"] | {limit: most}, in_seconds(30))
    for _ in range(3):
        with pytest.raises(StreamFull):
            await keeper.given_up(stream, 1)
    assert await keeper.entries() == len(letters)
    assert (await keeper.writer.write(letters[0].failure, in_seconds(30)))[0] is Written.ALREADY
    await keeper.store.delete(letters[0].failure.id, in_seconds(30))
    assert await keeper.given_up(stream, 1)


async def test_what_others_configured_stays(keeper: Keeper, unique: Unique) -> None:
    """Ensuring again changes no limit, and gives back what reading and writing need."""
    await keeper.store.ensure(None, in_seconds(30))
    before = (await keeper.broker.api.stream_info(STREAM, in_seconds(30)))["config"]
    others = {"max_age": 3_600_000_000_000, "max_bytes": 10**6, "discard": "old", "description": "mine"}
    spoilt = {"allow_direct": False, "allow_rollup_hdrs": False, "max_msgs_per_subject": 2}
    config = before | others | spoilt
    await keeper.broker.api.call(f"STREAM.UPDATE.{STREAM}", config, in_seconds(30))
    await keeper.store.ensure(1, in_seconds(30))
    after = (await keeper.broker.api.stream_info(STREAM, in_seconds(30)))["config"]
    assert after == before | others


async def test_what_was_removed_stays_so(
    own_keeper: Keeper, own_nats_server: NatsServer, unique: Unique
) -> None:
    """A dead letter of several replays that was removed does not come back with a broker that was killed."""
    stream = await own_keeper.broker.stream(unique(), storage="file")
    letters = await own_keeper.given_up(stream, 20)
    for count in (1, 2):
        for letter in letters:
            await own_keeper.writer.write(letter.failure._replace(replay_count=count), in_seconds(30))
    for letter in letters[:10]:
        assert await own_keeper.store.delete(letter.failure.id, in_seconds(30))
    own_nats_server.kill()
    own_nats_server.start()
    async with connect(own_nats_server.url) as broker:
        keeper = await keep(broker)
        assert await keeper.entries() == 10
        for letter in letters[10:]:
            assert (await keeper.get(letter.failure.id)).failure.replay_count == 2


async def test_a_stream_that_takes_no_more_replays(keeper: Keeper, unique: Unique) -> None:
    """What another replay needs of the stream is given back to it."""
    stream = await keeper.broker.stream(unique())
    (letter,) = await keeper.given_up(stream, 1)
    config = (await keeper.broker.api.stream_info(STREAM, in_seconds(30)))["config"]
    await keeper.broker.api.call(
        f"STREAM.UPDATE.{STREAM}", config | {"allow_rollup_hdrs": False}, in_seconds(30)
    )
    outcome, _ = await keeper.writer.write(letter.failure._replace(replay_count=1), in_seconds(30))
    assert outcome is Written.WRITTEN
    assert await keeper.entries() == 1


async def test_made_again_when_it_is_missing(keeper: Keeper, unique: Unique) -> None:
    """A stream of dead letters that somebody deleted is made again by whoever writes."""
    stream = await keeper.broker.stream(unique())
    await keeper.given_up(stream, 2)
    await forget_all(keeper.broker)
    assert await keeper.store.count("", "", in_seconds(30)) == 0
    written = await asyncio.gather(*(keeper.given_up(stream, 1) for _ in range(20)))
    assert len(written) == 20
    assert await keeper.entries() == 20


async def test_a_claim_that_is_kept_for_very_long(keeper: Keeper, unique: Unique) -> None:
    """That of a consumer with a timeout near the longest is there when one of a second is over."""
    stream = await keeper.broker.stream(unique())
    (letter,) = await keeper.given_up(stream, 1)
    long, short = (letter.failure.id._replace(seq=StreamSeq(seq)) for seq in (2, 3))
    assert await keeper.store.claim(long, b"us", timedelta(days=290 * 365), Run(), in_seconds(30))
    assert await keeper.store.claim(short, b"us", timedelta(seconds=1), Run(), in_seconds(30))

    await eventually(lambda: keeper.store.end(short, in_seconds(30)), RecordedEnd())
    assert (await keeper.store.end(long, in_seconds(30))).claimant == b"us"


async def test_what_is_charged(keeper: Keeper, unique: Unique) -> None:
    """All that a dead letter takes, before it is written; of a claim, for as long as it is kept."""
    charges: list[tuple[int, int | None]] = []

    def charge(size: int, left: int | None, _: float) -> GiveBack:
        charges.append((size, left))
        return nothing_taken

    stream = await keeper.broker.stream(unique())
    await keeper.given_up(stream, 1)
    for number, (body, headers) in enumerate(((b"", {}), (b"x" * 9_000, {"App": "y" * 5_000}), (LARGE, {}))):
        seq = await keeper.publish(f"{stream}.a", body, headers)
        why = await keeper.failure(stream, seq, reason="r" * 500)
        before = await keeper.store.look_at_usage(in_seconds(30))
        await keeper.writer.write(why, in_seconds(30), charge=charge)
        after = await keeper.store.look_at_usage(in_seconds(30))
        assert charges[2 * number :] == [(0, None), (pytest.approx(after.size - before.size, abs=300), None)]
    for days, times in ((0, 1), (30, 4320), (99, 4320)):
        id_ = DeadLetterId(stream, "c", StreamSeq(1_000 + days), 1)
        kept_for = timedelta(days=days) or timedelta(minutes=10)
        assert await keeper.store.claim(id_, b"me", kept_for, ALWAYS, in_seconds(30), charge)
        assert 200 < charges[-1][0] / times < 600


async def test_what_is_left_is_told_once_it_is_little(keeper: Keeper, unique: Unique) -> None:
    """That is when more than half of the limit is used; claims may use all of it."""
    told: list[int | None] = []

    def charge(_: int, left: int | None, __: float) -> GiveBack:
        told.append(left)
        return nothing_taken

    stream = await keeper.broker.stream(unique())
    why = await keeper.failure(stream, await keeper.publish(f"{stream}.a", b"x" * 100_000))
    await keeper.writer.write(why, in_seconds(30))
    stored = await keeper.broker.api.find_stream(STREAM, in_seconds(30))
    assert stored is not None
    for limit, is_little in ((300_000, False), (150_000, True)):
        await keeper.broker.api.update_stream(stored.config | {"max_bytes": limit}, in_seconds(30))
        store = (await keep(keeper.broker)).store
        await store.require_room(0, in_seconds(30), charge)
        left = limit - store.usage.size
        id_ = why.id._replace(seq=StreamSeq(limit))
        assert await store.claim(id_, b"me", timedelta(minutes=10), ALWAYS, in_seconds(30), charge)
        assert told == ([left - limit // 50, left] if is_little else [None, None])
        told.clear()


async def test_what_may_not_be_charged(keeper: Keeper, unique: Unique) -> None:
    """It is not written; what is being written counts as used before the broker has it."""
    stream = await keeper.broker.stream(unique())
    await keeper.given_up(stream, 1)
    why = await keeper.failure(stream, await keeper.publish(f"{stream}.a"))

    def refuse(*_: object) -> GiveBack:
        raise QuotaExceeded("dead_letter_bytes", 1)

    with pytest.raises(QuotaExceeded):
        await keeper.writer.write(why, in_seconds(30), charge=refuse)
    with pytest.raises(QuotaExceeded):
        await keeper.store.claim(why.id, b"me", timedelta(1), ALWAYS, in_seconds(30), refuse)
    assert await keeper.store.end(why.id, in_seconds(30)) == RecordedEnd()

    used = (await keeper.store.look_at_usage(in_seconds(30))).size
    async with keeper.store.room(5_000, in_seconds(30)):
        assert (await keeper.store.look_at_usage(in_seconds(30))).size == used + 5_000
    assert (await keeper.store.look_at_usage(in_seconds(30))).size == used


class Account:
    """Counts bytes that are charged and not given back; calls something when there are more."""

    def __init__(self, on_charge: Callable[[], None] = lambda: None) -> None:
        self.bytes = self.most = 0
        self._on_charge = on_charge

    def charge(self, size: int, _: int | None, __: float) -> GiveBack:
        """Count them."""
        self._add(size)
        self.most = max(self.most, self.bytes)
        if size:
            self._on_charge()
        return partial(self._add, -size)

    def _add(self, size: int) -> None:
        self.bytes += size


@pytest.mark.parametrize(("body", "most"), [(b"small", 1), (LARGE, 1), (LARGE, 2)])
async def test_what_is_refused_is_not_charged(keeper: Keeper, unique: Unique, body: bytes, most: int) -> None:
    """The broker takes no more: what was charged before it said so is given back, an overflow message too."""
    stream, account = await keeper.broker.stream(unique()), Account()
    await keeper.given_up(stream, 1)
    config = (await keeper.broker.api.stream_info(STREAM, in_seconds(30)))["config"]
    await keeper.broker.api.update_stream(config | {"max_msgs": most}, in_seconds(30))
    why = await keeper.failure(stream, await keeper.publish(f"{stream}.a", body))
    with pytest.raises(StreamFull):
        await keeper.writer.write(why, in_seconds(30), charge=account.charge)
    assert (account.bytes, account.most > len(body)) == (0, True)
    assert await keeper.entries() == 1


async def test_a_claim_that_is_not_stored_is_not_charged(keeper: Keeper, unique: Unique) -> None:
    """There is no room or no time for it, or the event ended before."""
    stream, account = await keeper.broker.stream(unique()), Account()
    [letter] = await keeper.given_up(stream, 1)
    claim = partial(keeper.store.claim, claimant=b"me", kept_for=timedelta(1), run=ALWAYS)
    assert not await claim(letter.failure.id, deadline=in_seconds(30), charge=account.charge)
    config = (await keeper.broker.api.stream_info(STREAM, in_seconds(30)))["config"]
    await keeper.broker.api.update_stream(config | {"max_msgs": 1}, in_seconds(30))
    other = letter.failure.id._replace(seq=StreamSeq(99))
    with pytest.raises(StreamFull):
        await claim(other, deadline=in_seconds(30), charge=account.charge)
    with pytest.raises(BrokerUnavailable):
        await claim(other, deadline=in_seconds(-1), charge=account.charge)
    assert account.bytes == 0 < account.most


@pytest.mark.parametrize("body", [b"small", LARGE], ids=["small", "large"])
async def test_who_writes_a_dead_letter_is_charged_for_it_once(
    keeper: Keeper, unique: Unique, body: bytes
) -> None:
    """Of many that write the same one, or something else in its place, nobody else is."""
    stream = await keeper.broker.stream(unique())
    why = await keeper.failure(stream, await keeper.publish(f"{stream}.a", body))
    accounts = [Account() for _ in range(10)]
    outcomes = await asyncio.gather(
        *(keeper.writer.write(why, in_seconds(60), charge=each.charge) for each in accounts)
    )
    for account, (outcome, _) in zip(accounts, outcomes, strict=True):
        assert account.bytes == (account.most if outcome is Written.WRITTEN else 0)

    seq = await keeper.publish(f"{stream}.a", body)
    acknowledged = await keeper.failure(stream, seq)
    assert await keeper.store.claim(acknowledged.id, b"other", timedelta(1), ALWAYS, in_seconds(30))
    before, account = await keeper.entries(), Account()
    outcome, _ = await keeper.writer.write(acknowledged, in_seconds(60), charge=account.charge)
    assert (outcome, account.bytes) == (Written.ENDED, 0)
    assert account.most > len(body)
    assert await keeper.entries() == before


async def test_what_may_be_stored_stays_charged(
    own_keeper: Keeper, own_nats_server: NatsServer, unique: Unique
) -> None:
    """The broker does not say whether it has it."""
    stream = await own_keeper.broker.stream(unique())
    await own_keeper.given_up(stream, 1)
    why = await own_keeper.failure(stream, await own_keeper.publish(f"{stream}.a"))
    for write in (
        partial(own_keeper.writer.write, why),
        partial(own_keeper.store.claim, why.id._replace(seq=StreamSeq(99)), b"me", timedelta(1)),
    ):
        account = Account(own_nats_server.freeze)
        with pytest.raises(OutcomeUnknown):
            await write(deadline=in_seconds(4), run=ALWAYS, charge=account.charge)
        own_nats_server.thaw()
        assert account.bytes == account.most > 0


async def test_what_is_seen_to_be_stored_at_the_last_moment(
    keeper: Keeper, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no time for another attempt, and what was in the way is this one's: it counts as written."""
    stream, account = await keeper.broker.stream(unique()), Account()
    await keeper.given_up(stream, 1)
    why = await keeper.failure(stream, await keeper.publish(f"{stream}.a"))
    put = keeper.store.stream.put

    async def in_vain(*arguments: Any) -> NoReturn:
        await put(*arguments)
        raise Conflict(is_certain=True)

    async def once(_: float) -> AsyncIterator[int]:
        yield 1

    monkeypatch.setattr(keeper.store.stream, "put", in_vain)
    monkeypatch.setattr(writer, "retry", once)
    outcome, _ = await keeper.writer.write(why, in_seconds(30), charge=account.charge)
    assert outcome is Written.WRITTEN
    assert account.bytes == account.most > 0
    assert await keeper.entries() == 2


async def test_a_look_at_the_room_is_nobodys(broker: Broker) -> None:
    """It does not wait behind what whoever is charged asked the broker before: others wait for it."""
    budget = Budget(asker=asking.get)
    api = JetStream(broker.requests, budget=budget)
    store = DeadLetterStore(api, Writes(broker.requests, api), 1)
    share = budget.take_now(ASKING // 2, "floods")
    assert share is not None
    asking.set("floods")
    await store.require_room(0, in_seconds(5), lambda *_: nothing_taken)
    assert asking.get() == "floods"
    share.give_back()


async def test_a_look_at_the_room_that_failed_is_repeated(keeper: Keeper, unique: Unique) -> None:
    """Who comes next does not take the stream for empty."""
    stream = await keeper.broker.stream(unique())
    await keeper.given_up(stream, 1)
    store = (await keep(keeper.broker)).store
    with pytest.raises(BrokerUnavailable):
        await store.require_room(0, in_seconds(-1), lambda *_: nothing_taken)
    assert store.usage.size == 0
    await store.require_room(0, in_seconds(30), lambda *_: nothing_taken)
    assert store.usage.size > 0


async def test_another_stream_in_its_place(keeper: Keeper, unique: Unique) -> None:
    """A stream of somebody else that takes the subjects of dead letters does not get them."""
    other = await keeper.broker.stream(unique(), "_WS.>")
    try:
        stream = await keeper.broker.stream(unique())
        with pytest.raises(BrokerUnavailable, match="another stream"):
            await keeper.given_up(stream, 1)
        assert await keeper.broker.messages(other) == 0
    finally:
        await keeper.broker.api.call(f"STREAM.DELETE.{other}", None, in_seconds(30))


@pytest.mark.parametrize("headers", [0, 1000, 60_000])
async def test_as_large_as_the_broker_allows(keeper: Keeper, unique: Unique, headers: int) -> None:
    """An event that leaves no room for a single header comes back whole, also after a replay."""
    stream = await keeper.broker.stream(unique(), max_bytes=-1)
    limit = keeper.broker.connection.max_payload
    data = bytes(range(256)) * (limit // 256)
    lines = {"A": "a" * (headers - len("NATS/1.0\r\nA: \r\n\r\n"))} if headers else None
    seq = await keeper.publish(f"{stream}.a", data[headers:], lines)
    why = await keeper.failure(stream, seq, reason="é" * 1024)
    assert (await keeper.writer.write(why, in_seconds(30)))[0] is Written.WRITTEN
    assert (await keeper.writer.write(why, in_seconds(30)))[0] is Written.ALREADY
    await keeper.broker.api.call(f"STREAM.PURGE.{stream}", None, in_seconds(30))
    for count in (0, 1):
        why = why._replace(replay_count=count)
        await keeper.writer.write(why, in_seconds(30))
        kept = await keeper.get(why.id)
        assert (kept.data, kept.failure) == (data[headers:], why)
        assert kept.other_headers == (lines or {})
        assert await keeper.entries() == 2
    assert await keeper.store.delete(why.id, in_seconds(30))
    assert await keeper.entries() == 0


async def test_many_writers_of_a_large_event(keeper: Keeper, unique: Unique) -> None:
    """Also where a dead letter takes two messages there is one in the end, and nothing else."""
    stream = await keeper.broker.stream(unique())
    data = bytes(keeper.broker.connection.max_payload)
    why = await keeper.failure(stream, await keeper.publish(f"{stream}.a", data))
    outcomes = await asyncio.gather(*(keeper.writer.write(why, in_seconds(20)) for _ in range(10)))
    assert [outcome for outcome, _ in outcomes].count(Written.WRITTEN) == 1
    assert (await keeper.get(why.id)).data == data
    assert await keeper.entries() == 2
    assert await keeper.store.purge("", "", in_seconds(30)) == 1
    assert await keeper.entries() == 0


async def test_an_overflow_that_waits_for_its_entry_survives_a_purge(keeper: Keeper, unique: Unique) -> None:
    """What a writer stored just before its entry is not taken away from it."""
    stream = await keeper.broker.stream(unique())
    [letter] = await keeper.given_up(stream, 1)
    await keeper.publish(f"_WS.rest.{entry_subject(letter.failure.id).removeprefix('_WS.dead.')}.writer")
    await keeper.store.purge(stream, "", in_seconds(30))
    assert await keeper.entries() == 1


async def test_headers_of_other_programs(keeper: Keeper, unique: Unique) -> None:
    """Headers that control NATS are not applied to the entry; bytes that are no text do no harm."""
    stream = await keeper.broker.stream(unique(), allow_msg_ttl=True, allow_rollup_hdrs=True)
    control = b"Nats-TTL: 1h\r\nNats-Msg-Id: k\r\nNats-Rollup: sub\r\n"
    block = b"NATS/1.0\r\n%bBad: \xff\xfe\r\nOk: 1\r\nOk: 2\r\n\r\n" % control
    keeper.broker.connection.publish(f"{stream}.a".encode(), b"x", block)
    await eventually(lambda: keeper.broker.messages(stream), 1)
    why = await keeper.failure(stream, 1)
    second = await keeper.failure(stream, 1, "other")
    for one in (why, second):  # the same idempotency key twice is no duplicate here
        assert (await keeper.writer.write(one, in_seconds(30)))[0] is Written.WRITTEN
        kept = await keeper.get(one.id)
        assert (kept.data, kept.idempotency_key) == (b"x", "k")
        assert kept.other_headers == {"Bad": "\N{REPLACEMENT CHARACTER}" * 2, "Ok": "1, 2"}
    stored = await keeper.broker.api.message(STREAM, {"last_by_subj": entry_subject(why.id)}, in_seconds(30))
    assert stored is not None
    assert {name for name, _ in stored.headers if name.startswith(b"Nats-")} == {
        b"Nats-Expected-Stream",
        b"Nats-Expected-Last-Subject-Sequence",
        b"Nats-Expected-Last-Subject-Sequence-Subject",
    }


@pytest.mark.parametrize("retention", ["workqueue", "interest"])
async def test_streams_that_remove_what_is_settled(keeper: Keeper, unique: Unique, retention: str) -> None:
    """The event can be read before it is settled, and its dead letter has it when its stream has not."""
    stream = await keeper.broker.stream(unique(), retention=retention)
    config = {"durable_name": "c", "name": "c", "ack_policy": "explicit"}
    await keeper.broker.api.call(
        f"CONSUMER.CREATE.{stream}.c", {"stream_name": stream, "config": config}, in_seconds(30)
    )
    why = await keeper.failure(stream, await keeper.publish(f"{stream}.a", b"data"))
    delivery = await keeper.next(stream, "c")
    assert int(delivery.reply.split(b".")[7]) == why.id.stored_ns
    await keeper.writer.write(why, in_seconds(30))
    await keeper.settle(delivery, b"+TERM")
    await eventually(lambda: keeper.broker.messages(stream), 0)
    assert (await keeper.get(why.id)).data == b"data"
    assert (await keeper.writer.write(why, in_seconds(30)))[0] is Written.ALREADY


async def test_the_longest_names(keeper: Keeper, unique: Unique) -> None:
    """A stream and a consumer with names of 255 characters have dead letters like others."""
    stream = await keeper.broker.stream(unique().ljust(255, "s"), "long.>")
    why = await keeper.failure(stream, await keeper.publish("long.a"), "c" * 255)
    await keeper.writer.write(why, in_seconds(30))
    assert (await keeper.get(why.id)).failure == why
    assert await keeper.store.recall(stream, "c" * 255, in_seconds(30)) == {1: why.id.stored_ns}
    await keeper.broker.api.call(f"STREAM.DELETE.{stream}", None, in_seconds(30))


async def test_removing_one(keeper: Keeper, unique: Unique) -> None:
    """A dead letter is removed once, and then not there; it can be written again."""
    stream = await keeper.broker.stream(unique())
    one, other = await keeper.given_up(stream, 2)
    assert await keeper.store.delete(one.failure.id, in_seconds(30))
    assert not await keeper.store.delete(one.failure.id, in_seconds(30))
    assert await keeper.store.get(one.failure.id, in_seconds(30)) is None
    assert (await keeper.get(other.failure.id)).data == b"1"
    assert (await keeper.writer.write(one.failure, in_seconds(30)))[0] is Written.WRITTEN


async def test_what_a_consumer_has_given_up_on(keeper: Keeper, unique: Unique) -> None:
    """Recall and purge are of one consumer, one stream, or all."""
    first, second = [await keeper.broker.stream(unique()) for _ in range(2)]
    letters = await keeper.given_up(first, 3)
    await keeper.given_up(first, 2, "other")
    await keeper.given_up(second, 1)
    store = keeper.store
    expected = {letter.failure.id.seq: letter.failure.id.stored_ns for letter in letters}
    assert await store.recall(first, "c", in_seconds(30)) == expected
    assert await store.recall(first, "c", in_seconds(30), 2) == {3: expected[StreamSeq(3)]}
    assert await store.recall(first, "none", in_seconds(30)) == {}
    counts = [
        await store.count(*which, in_seconds(30))
        for which in ((first, "c"), (first, ""), ("", ""), ("", "c"))
    ]
    assert counts == [3, 5, 6, 4]
    assert await store.purge(first, "c", in_seconds(30)) == 3
    assert await store.recall(first, "c", in_seconds(30)) == {}
    assert await store.purge(first, "", in_seconds(30)) == 2
    assert await store.purge("", "", in_seconds(30)) == 1
    assert await store.purge("", "", in_seconds(30)) == 0


async def test_a_stream_that_was_made_anew_has_the_ids_of_another(keeper: Keeper, unique: Unique) -> None:
    """What is recalled of an id is what was stored last under it, be it a dead letter or a claim."""
    stream = await keeper.broker.stream(unique())
    (letter,) = await keeper.given_up(stream, 1)
    now, day = letter.failure.id.stored_ns, timedelta(days=1)
    for stored_ns in (now - 1, now + 1, now - 2):
        id_ = letter.failure.id._replace(stored_ns=stored_ns)
        assert await keeper.store.claim(id_, b"me", day, ALWAYS, in_seconds(30))
    assert await keeper.store.recall(stream, "c", in_seconds(30)) == {1: now + 1}


async def test_nothing_is_there(keeper: Keeper, unique: Unique) -> None:
    """Without a stream of dead letters there are none, and none is made by looking."""
    store, gone = keeper.store, DeadLetterId(unique(), "c", StreamSeq(1), 1)
    assert await store.recall("s", "c", in_seconds(30)) == {}
    assert await store.get(gone, in_seconds(30)) is None
    assert not await store.delete(gone, in_seconds(30))
    assert await store.purge("", "", in_seconds(30)) == 0
    assert await store.count("", "", in_seconds(30)) == 0
    assert await store.last_position(in_seconds(30)) == 0
    names = await keeper.broker.api.stream_names("_WS.dead.a", in_seconds(30))
    assert names == []


@pytest.mark.parametrize(
    ("stream", "consumer"), [(">", ""), ("*", "c"), ("a.b", ""), ("a", "*"), ("a", "b.>")]
)
async def test_wildcards_are_no_names(keeper: Keeper, stream: str, consumer: str) -> None:
    """Whatever a caller forgot to check, no more is removed than it may name."""
    with pytest.raises(ValueError):
        await keeper.store.purge(stream, consumer, in_seconds(30))


async def test_entries_that_cannot_be_read(keeper: Keeper, unique: Unique) -> None:
    """What another version wrote in place of a dead letter is left alone."""
    stream = await keeper.broker.stream(unique())
    why = await keeper.failure(stream, await keeper.publish(f"{stream}.a"))
    await keeper.store.ensure(None, in_seconds(30))
    await keeper.publish(entry_subject(why.id), b"what?")
    assert await keeper.writer.write(why, in_seconds(30)) == (Written.ALREADY, None)
    assert await keeper.store.get(why.id, in_seconds(30)) is None
    assert await keeper.entries() == 1


async def test_others_are_told(keeper: Keeper, unique: Unique) -> None:
    """Each new dead letter is announced once to whoever listens, a repeat is not."""
    stream = await keeper.broker.stream(unique())
    heard: list[int] = []
    keeper.notes.listen(DEAD, stream, "c", lambda: heard.append(1))
    [letter] = await keeper.given_up(stream, 1)
    await keeper.writer.write(letter.failure, in_seconds(30))
    await keeper.given_up(stream, 1)
    await keeper.broker.requests.round_trip(in_seconds(30))
    assert len(heard) == 2


async def test_the_broker_is_killed_again_and_again(own_keeper: Keeper, own_nats_server: NatsServer) -> None:
    """Whatever is under way when the broker dies, each event ends as one dead letter."""
    keeper, count = own_keeper, 300
    stream = await keeper.broker.stream("S", storage="file")
    for number in range(count):
        await keeper.publish(f"{stream}.{number}", b"%d" % number)
    failures = [await keeper.failure(stream, number + 1) for number in range(count)]
    reached = [asyncio.Event() for _ in range(4)]

    async def kill() -> None:
        for share in (1, 2, 3):
            await reached[share].wait()
            own_nats_server.kill()
            await keeper.broker.lost()
            own_nats_server.start()

    async def all_twice() -> list[Written]:
        gate = asyncio.Semaphore(20)

        async def one(each: int) -> Written:
            async with gate:
                outcome, _ = await keeper.writer.write(failures[each], in_seconds(40))
            reached[each * 4 // count].set()
            return outcome

        return await asyncio.gather(*(one(each) for each in range(count) for _ in range(2)))

    outcomes, _ = await asyncio.gather(all_twice(), kill())
    assert set(outcomes) == {Written.WRITTEN, Written.ALREADY}
    assert outcomes.count(Written.WRITTEN) == count
    assert await keeper.entries() == count
    page = await keeper.store.page(DeadLetterFilter(), 0, count, in_seconds(30), max_data=10**6)
    assert sorted(int(letter.data) for letter in page.dead_letters) == list(range(count))


async def test_the_broker_is_away(own_keeper: Keeper, own_nats_server: NatsServer) -> None:
    """Without a broker a write fails by its deadline as one that was not stored, and later succeeds."""
    stream = await own_keeper.broker.stream("S", storage="file")
    why = await own_keeper.failure(stream, await own_keeper.publish(f"{stream}.a"))
    own_nats_server.kill()
    await own_keeper.broker.lost()
    with pytest.raises(BrokerUnavailable):
        await own_keeper.writer.write(why, in_seconds(0.3))
    own_nats_server.start()
    assert (await own_keeper.writer.write(why, in_seconds(20)))[0] is Written.WRITTEN


@pytest.mark.timeout(120)
async def test_two_servers_on_a_cluster(cluster: list[NatsServer], unique: Unique) -> None:
    """By way of all members of a cluster, too, each dead letter is written by one. Replicas are raised."""
    async with AsyncExitStack() as stack:
        brokers = [await stack.enter_async_context(connect(server.url)) for server in cluster]
        await brokers[0].api.call("INFO", None, in_seconds(60))
        await forget_all(brokers[0])
        keepers = [await keep(broker) for broker in brokers]
        await keepers[0].store.ensure(None, in_seconds(20))
        await keepers[0].store.ensure(3, in_seconds(20))
        await keepers[1].store.ensure(1, in_seconds(20))
        info = await brokers[0].api.stream_info(STREAM, in_seconds(20))
        assert info["config"]["num_replicas"] == 3
        stream = await brokers[0].stream(unique(), num_replicas=3)
        for number in range(10):
            seq = await keepers[0].publish(f"{stream}.{number}", b"%d" % number)
            why = await keepers[0].failure(stream, seq)
            for count in (0, 1):
                again = why._replace(replay_count=count)
                outcomes = await asyncio.gather(
                    *(keepers[n % 3].writer.write(again, in_seconds(30)) for n in range(12))
                )
                assert [outcome for outcome, _ in outcomes].count(Written.WRITTEN) == 1
                for keeper in keepers:
                    assert (await keeper.get(why.id)).failure == again
            assert len(await keepers[2].store.recall(stream, "c", in_seconds(20))) == number + 1
        for keeper in keepers:  # some replica may be a little behind
            await eventually(partial(keeper.store.count, stream, "c", in_seconds(20)), 10)
