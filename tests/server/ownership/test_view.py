"""What there is at the broker, by owner, while it is read and changed at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.nats.waiting import eventually
from windshift.nats import Unavailable
from windshift.nats.jetstream.api import JsonObject, Page
from windshift.server.domain.errors import BrokerUnavailable
from windshift.server.ownership import view as view_module
from windshift.server.ownership.amounts import OWNER, Held
from windshift.server.ownership.view import View

STREAM = ("S", "")
CONSUMER = ("S", "c")
ONE_STREAM = {"streams": 1, "reserved_bytes": 0}


class Lists:
    """A broker's lists, which are handed out when the test says so.

    Attributes:
        streams: what it has.
        consumers: of each stream.
        missing: names of streams and consumers for which no server answers.
        read: which lists were asked for.
        may_go_on: holds back what was asked for.
    """

    def __init__(self) -> None:
        self.streams: list[JsonObject] = []
        self.consumers: dict[str, list[JsonObject]] = {}
        self.missing: frozenset[str] = frozenset()
        self.read: list[str] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def pages(self, operation: str, key: str, deadline: float) -> AsyncIterator[Page]:
        """Give a list as it is now, later."""
        del deadline
        self.read.append(operation)
        found = list(self.streams if key == "streams" else self.consumers[operation.rpartition(".")[2]])
        await self.may_go_on.wait()
        yield Page(found, len(found), self.missing)


def stream(name: str, owner: str = "ann", consumers: int = 0, size: int = 0, **config: Any) -> JsonObject:
    """Describe a stream as the broker does."""
    config = {"name": name, "storage": "file", "metadata": {OWNER: owner} if owner else {}, **config}
    return {"config": config, "state": {"bytes": size, "consumer_count": consumers}}


def consumer(name: str, owner: str = "ann") -> JsonObject:
    """Describe a consumer as the broker does."""
    return {"name": name, "config": {"durable_name": name, "metadata": {OWNER: owner}}}


class SlowClock:
    """A clock by which everything takes seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asked = 0

    def time(self) -> float:
        """Go four seconds further than the loop's time each time."""
        self._asked += 1
        return self._loop.time() + 4 * self._asked


@pytest.fixture
async def lists() -> Lists:
    """Give a broker that has nothing."""
    return Lists()


@pytest.fixture
async def view(lists: Lists) -> View:
    """Look at it."""
    return View(lists, lambda: None)  # type: ignore[arg-type] # what it needs of JetStream


def soon() -> float:
    """Return a deadline that is not reached."""
    return asyncio.get_running_loop().time() + 10


def growing(view: View, key: tuple[str, str], owner: str = "ann", **amounts: int) -> dict[str, int]:
    """Say what somebody would have with something more."""
    more = view.growth(key, Held(owner, amounts))
    return {quota: view.total(owner, quota) + amount for quota, amount in more.items()}


async def test_what_lists_have(view: View, lists: Lists) -> None:
    """Everything counts for its owner; what has none for nobody."""
    lists.streams = [
        stream("A", max_bytes=100, num_replicas=3),
        stream("B", storage="memory", size=7, num_replicas=2),
        stream("C", storage="memory", size=7, max_bytes=50),
        stream("KV_s"),
        stream("D", owner="bob"),
        stream("E", owner=""),
    ]
    await view.refresh(STREAM, soon())
    assert growing(view, STREAM, streams=1, reserved_bytes=1, memory_bytes=1) == {
        "streams": 4,
        "reserved_bytes": 301,
        "memory_bytes": 65,
    }
    assert growing(view, STREAM, owner="bob", streams=1) == {"streams": 2}
    assert view.held["KV_s", ""] == Held("ann", {"stores": 1, "stored_bytes": 1})


async def test_what_is_there_already(view: View, lists: Lists) -> None:
    """Only what grows is told, and by how much."""
    lists.streams = [stream("S", max_bytes=100)]
    await view.refresh(STREAM, soon())
    assert growing(view, STREAM, streams=1, reserved_bytes=150) == {"reserved_bytes": 150}
    assert growing(view, STREAM, streams=1, reserved_bytes=100) == {}
    assert growing(view, STREAM, owner="bob", streams=1) == {"streams": 1}


async def test_lists_are_read_once_in_a_while(view: View, lists: Lists) -> None:
    """However many want to know, also at the same time."""
    await asyncio.gather(*(view.refresh(STREAM, soon()) for _ in range(50)))
    await asyncio.gather(*(view.refresh(STREAM, soon(), "ann") for _ in range(50)))
    assert lists.read == ["STREAM.LIST"]


async def test_what_is_made_while_a_list_is_read(view: View, lists: Lists) -> None:
    """The list does not have it yet, or not as it is now: it counts as this server knows it."""
    lists.streams = [stream("old"), stream("changed", max_bytes=5)]
    lists.may_go_on.clear()
    reading = asyncio.create_task(view.refresh(STREAM, soon()))
    await asyncio.sleep(0)
    view.begin(STREAM, Held("ann", ONE_STREAM))
    view.note(("noted", ""), Held("ann", ONE_STREAM))
    view.note(("changed", ""), Held("ann", {"streams": 1, "reserved_bytes": 500}))
    lists.may_go_on.set()
    await reading
    assert growing(view, ("more", ""), streams=1, reserved_bytes=1) == {"streams": 5, "reserved_bytes": 501}
    view.note(STREAM, None)
    assert growing(view, STREAM, streams=1) == {"streams": 4}


async def test_consumers_of_other_streams(view: View, lists: Lists) -> None:
    """All lists are read beside, but those of streams that have none, and of NATS's and Windshift's own."""
    lists.streams = [
        stream("S", consumers=1),
        stream("T", consumers=2),
        stream("U"),
        stream("WS_X", consumers=9),
        stream("KV_X", consumers=9),
    ]
    lists.consumers = {"S": [consumer("a")], "T": [consumer("b"), consumer("c", "bob")]}
    await view.refresh(CONSUMER, soon())
    assert sorted(lists.read) == ["CONSUMER.LIST.S", "CONSUMER.LIST.T", "STREAM.LIST"]
    assert growing(view, CONSUMER, consumers=1) == {"consumers": 3}
    assert growing(view, CONSUMER, owner="bob", consumers=1) == {"consumers": 2}


async def test_a_stream_that_is_gone(view: View, lists: Lists) -> None:
    """Its consumers are gone with it."""
    lists.streams = [stream("T", consumers=1)]
    lists.consumers = {"S": [], "T": [consumer("a")]}
    await view.refresh(CONSUMER, soon())
    assert growing(view, CONSUMER, consumers=1) == {"consumers": 2}
    lists.streams = []
    await view._read("")
    assert growing(view, CONSUMER, consumers=1) == {"consumers": 1}
    assert view.held == {}
    assert view._lists.keys() == {""}


async def test_what_no_server_answers_for(view: View, lists: Lists) -> None:
    """It counts as before, with its consumers, and what a list waited for makes it no older than others."""
    lists.streams = [stream("S", consumers=2), stream("T", consumers=1)]
    lists.consumers = {"S": [consumer("a"), consumer("b")], "T": [consumer("c")]}
    await view.refresh(CONSUMER, soon())
    before = dict(view.held)
    lists.streams, lists.consumers["S"] = [stream("S", consumers=2)], [consumer("a")]
    lists.missing = frozenset({"T", "b", "never seen"})
    view._loop = SlowClock(view._loop)  # type: ignore[assignment] # all that is asked of it is the time
    await view._read("")
    await view._read("S")
    assert view.held == before
    assert max(each.took for each in view._lists.values()) <= 0.2
    await view._read_all()
    assert view._took_all <= 0.2 * len(view._lists)
    lists.missing = frozenset()
    await view._read("")
    await view._read("S")
    assert view.held.keys() == {("S", ""), ("S", "a")}


async def test_a_stream_that_is_deleted_here(view: View, lists: Lists) -> None:
    """It and its consumers make room at once."""
    lists.streams = [stream("S", consumers=2), stream("T", consumers=1)]
    lists.consumers = {"S": [consumer("a"), consumer("b", "bob")], "T": [consumer("c")]}
    await view.refresh(CONSUMER, soon())
    view.stream_gone("S")
    assert view.held.keys() == {("T", ""), ("T", "c")}
    assert (view.total("ann", "streams"), view.total("ann", "consumers")) == (1, 1)
    assert view.total("bob", "consumers") == 0


async def test_a_list_that_cannot_be_read(view: View, lists: Lists) -> None:
    """Who needs it is told so; the lists of others are done without for a while."""

    async def failing(operation: str, key: str, deadline: float) -> AsyncIterator[Page]:
        if operation == "STREAM.LIST":
            raise Unavailable
        async for each in Lists.pages(lists, operation, key, deadline):
            yield each

    lists.pages = failing  # type: ignore[method-assign]
    lists.consumers = {"S": [consumer("a")]}
    with pytest.raises(Unavailable):
        await view.refresh(STREAM, soon())
    await view.refresh(CONSUMER, soon())
    assert growing(view, CONSUMER, consumers=1) == {"consumers": 2}


async def test_a_list_that_takes_too_long(view: View, lists: Lists) -> None:
    """Nobody waits beyond his deadline."""
    lists.may_go_on.clear()
    with pytest.raises(BrokerUnavailable):
        await view.refresh(STREAM, asyncio.get_running_loop().time() + 0.01)


async def test_looking_again(view: View, lists: Lists) -> None:
    """What this server makes for somebody is a reason to look again, once; for others it is none."""
    await view.refresh(STREAM, soon())
    await view.refresh(STREAM, soon(), "ann", again=True)
    assert lists.read == ["STREAM.LIST"]
    view.begin(STREAM, Held("ann", ONE_STREAM))
    view.note(STREAM, Held("ann", ONE_STREAM))
    assert (view.made("ann", "streams"), view.made("bob", "streams")) == (1, 0)
    await view.refresh(STREAM, soon(), "bob", again=True)
    assert lists.read == ["STREAM.LIST"]
    await asyncio.gather(*(view.refresh(STREAM, soon(), "ann", again=True) for _ in range(20)))
    assert lists.read == ["STREAM.LIST", "STREAM.LIST"]
    assert view.made("ann", "streams") == 0


async def test_looking_again_for_consumers(view: View, lists: Lists) -> None:
    """The lists are read in which somebody has something; streams that were made are another matter."""
    lists.consumers = {"S": [], "T": [consumer("a")], "U": [consumer("b", "bob")]}
    lists.streams = [stream(name, consumers=1) for name in lists.consumers]
    await view.refresh(CONSUMER, soon())
    lists.read.clear()
    view.begin(("new", ""), Held("ann", ONE_STREAM))
    await view.refresh(CONSUMER, soon(), "ann", again=True)
    assert lists.read == []
    view.begin(CONSUMER, Held("ann", {"consumers": 1}))
    await view.refresh(CONSUMER, soon(), "ann", again=True)
    assert sorted(lists.read) == ["CONSUMER.LIST.S", "CONSUMER.LIST.T"]
    assert (view.made("ann", "consumers"), view.made("ann", "streams")) == (0, 1)


async def test_looking_again_while_others_read(
    view: View, lists: Lists, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list that somebody began to read before something was made tells too little: it is read once more."""
    lists.consumers = {"S": [consumer("a")], "T": [consumer("b")]}
    lists.streams = [stream(name, consumers=1) for name in lists.consumers]
    await view.refresh(CONSUMER, soon())
    monkeypatch.setattr(view_module, "_SHORTEST_PAUSE", 0.0)
    monkeypatch.setattr(view_module, "_EFFORT_AGAIN", 0)
    monkeypatch.setattr(view_module, "_KEPT", 0.0)
    monkeypatch.setattr(view_module, "_EFFORT", 0)
    lists.may_go_on.clear()
    lists.read.clear()
    reading = asyncio.create_task(view.refresh(("S", "of-bob"), soon()))
    await eventually(lambda: bool(lists.read))
    lists.consumers["S"] = [consumer(name) for name in ("a", "of another server", "and one more")]
    view.begin(CONSUMER, Held("ann", {"consumers": 1}))
    looking = asyncio.create_task(view.refresh(CONSUMER, soon(), "ann", again=True))
    for _ in range(10):  # until it waits for the other
        await asyncio.sleep(0)
    assert lists.read == ["CONSUMER.LIST.S"]
    lists.may_go_on.set()
    await asyncio.gather(reading, looking)
    assert view.total("ann", "consumers") == 5
    assert view.made("ann", "consumers") == 0


async def test_some_lists_are_no_look(view: View, lists: Lists) -> None:
    """What the others have made may be in any list: it is not known when some were passed over."""
    lists.consumers = {"S": [consumer("a")], "T": [consumer("b")]}
    lists.streams = [stream(name, consumers=1) for name in lists.consumers]
    await view.refresh(CONSUMER, soon())
    view.begin(CONSUMER, Held("ann", {"consumers": 1}))
    lists.read.clear()
    view._lists["T"].read_at -= 1_000
    await view.refresh(CONSUMER, soon(), "ann")
    assert lists.read == ["CONSUMER.LIST.T"]
    assert view.made("ann", "consumers") == 1


@pytest.mark.parametrize(("key", "quota"), [(STREAM, "streams"), (CONSUMER, "consumers")])
async def test_a_look_that_is_under_way(view: View, lists: Lists, key: tuple[str, str], quota: str) -> None:
    """What the others have made is not known before the lists are there, nor what is made meanwhile."""
    lists.consumers = {"S": []}
    await view.refresh(key, soon())
    view.begin(key, Held("ann", {quota: 1}))
    lists.may_go_on.clear()
    lists.read.clear()
    looking = asyncio.create_task(view.refresh(key, soon(), "ann", again=True))
    await eventually(lambda: bool(lists.read))
    view.begin((f"{key[0]}2", key[1]), Held("ann", {quota: 1}))
    assert view.made("ann", quota) == 2
    lists.may_go_on.set()
    await looking
    assert view.made("ann", quota) == 1


async def test_a_look_that_fails(view: View, lists: Lists) -> None:
    """Nothing was seen of what the others have made."""
    await view.refresh(STREAM, soon())
    view.begin(STREAM, Held("ann", ONE_STREAM))
    lists.may_go_on.clear()
    with pytest.raises(BrokerUnavailable):
        await view.refresh(STREAM, asyncio.get_running_loop().time() + 0.05, "ann", again=True)
    assert view.made("ann", "streams") == 1


async def test_new_lists_do_not_wait_for_others_reading(view: View, lists: Lists) -> None:
    """Whoever needs no list read goes on while one is."""
    await view.refresh(STREAM, soon())
    view.begin(STREAM, Held("ann", ONE_STREAM))
    lists.may_go_on.clear()
    reading = asyncio.create_task(view.refresh(STREAM, soon(), "ann", again=True))
    await eventually(lambda: len(lists.read) == 2)
    await view.refresh(STREAM, soon())
    assert not reading.done()
    lists.may_go_on.set()
    await reading


async def test_a_pause_before_looking_again_is_one_s_own(
    view: View, lists: Lists, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long somebody has to wait, lists are read for others."""
    lists.consumers = {"S": [consumer("a")], "T": [consumer("b", "bob")]}
    lists.streams = [stream(name, consumers=1) for name in lists.consumers]
    await view.refresh(CONSUMER, soon())
    view.begin(("S", "more"), Held("ann", {"consumers": 1}))
    monkeypatch.setattr(view_module, "_EFFORT_AGAIN", 1e12)
    monkeypatch.setattr(view_module, "_KEPT", 0.0)
    monkeypatch.setattr(view_module, "_EFFORT", 0)
    pausing = asyncio.create_task(view.refresh(CONSUMER, soon() + 1e9, "ann", again=True))
    await asyncio.sleep(0)
    lists.read.clear()
    await view.refresh(("T", "more"), soon())
    assert lists.read[0] == "CONSUMER.LIST.T"
    assert not pausing.done()
    pausing.cancel()


async def test_somebody_s_many_lists_are_not_waited_for(
    view: View, lists: Lists, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others read theirs after one of them."""
    monkeypatch.setattr(view_module, "_KEPT", 0.0)
    monkeypatch.setattr(view_module, "_KEPT_NEAR", 0.0)
    monkeypatch.setattr(view_module, "_EFFORT", 0)
    lists.consumers = {name: [consumer("a")] for name in "ABC"}
    lists.streams = [stream(name, consumers=1) for name in lists.consumers]
    await view.refresh(("A", "more"), soon())
    lists.read.clear()
    lists.may_go_on.clear()
    reading = asyncio.create_task(view.refresh(("A", "more"), soon(), "ann"))
    await eventually(lambda: bool(lists.read))
    other = asyncio.create_task(view.refresh(STREAM, soon()))
    await asyncio.sleep(0)
    lists.may_go_on.set()
    await asyncio.gather(reading, other)
    assert lists.read.index("STREAM.LIST") == 1
    assert len(lists.read) == 4


async def test_what_the_broker_does_not_have(view: View, lists: Lists) -> None:
    """It counts no more, unless it is just being made, and others are looked at before little is left."""
    lists.streams = [stream("S")]
    await view.refresh(STREAM, soon())
    assert view.missing(("T", "")) is None
    assert view.missing(STREAM) == Held("ann", {"streams": 1, "reserved_bytes": 0, "stored_bytes": 1})
    assert (view.total("ann", "streams"), view.made("ann", "streams")) == (0, 1)
    view.begin(STREAM, Held("ann", ONE_STREAM))
    assert view.missing(STREAM) is None
    assert view.total("ann", "streams") == 1


async def test_what_is_kept(view: View, lists: Lists) -> None:
    """It counts, and nothing counts as made, also while the broker does not have it, until it is gone."""
    held = Held("ann", {"consumers": 1})
    lists.consumers = {"S": [consumer("c"), consumer("d")]}
    view.keep(CONSUMER, held)
    await view._read("S")
    assert (view.total("ann", "consumers"), view.made("ann", "consumers")) == (2, 0)
    lists.consumers = {"S": []}
    for _ in range(2):
        await view._read("S")
        assert view.held == {CONSUMER: held}
    view.note_if_counted(CONSUMER, None)
    assert view.total("ann", "consumers") == 0
    await view._read("S")
    assert view.held == {}
    assert not any(each.done for each in view._lists.values())
