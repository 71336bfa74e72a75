"""Stores, as a client sees them: those of a server, and those in memory that stand for them in tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

import windshift as ws
from windshift.protos import state, test
from windshift.sdk.fakes import FakeCaller

SetResponse = state.SetResponse
StringValue = test.StringValue


@dataclass
class Lines:
    """A value that is false when it is empty."""

    lines: list[str]

    def __len__(self) -> int:
        return len(self.lines)


@pytest.fixture(params=["server", "memory"])
def client(request: pytest.FixtureRequest) -> ws.Client:
    """Give a client of a server, then one whose stores are in memory."""
    if request.param == "memory":
        return ws.Client(FakeCaller())
    connected: ws.Client = request.getfixturevalue("client")
    return connected


def text(value: str) -> StringValue:
    """Return a message."""
    return StringValue(value=value)


async def test_values_are_compared_and_swapped(client: ws.Client) -> None:
    """`create`, `update` and `delete` hold to revisions and say what is there."""
    store = await client.stores.ensure("s", StringValue)
    assert await store.get("k") is None
    first = await store.create("k", text("1"))
    with pytest.raises(ws.KeyExists) as exists:
        await store.create("k", text("2"))
    assert (exists.value.key, exists.value.revision) == ("k", first)
    second = await store.update("k", text("2"), revision=first)
    with pytest.raises(ws.RevisionMismatch) as mismatch:
        await store.update("k", text("3"), revision=first)
    assert (mismatch.value.expected, mismatch.value.actual) == (first, second)
    with pytest.raises(ws.RevisionMismatch):
        await store.delete("k", revision=first)
    entry = await store.get("k")
    assert entry is not None
    assert (entry.value, entry.revision) == (text("2"), second)
    await store.delete("k", revision=second)
    assert await store.get("k") is None
    await store.delete("k")


async def test_modify_loses_no_change(client: ws.Client) -> None:
    """Eight workers that count together count to what they should."""
    store = await client.stores.ensure("s", StringValue)

    def add(value: StringValue) -> None:
        value.value = str(int(value.value or 0) + 1)

    async def work() -> None:
        for _ in range(5):
            await store.modify("n", add, attempts=100)

    await asyncio.gather(*(work() for _ in range(8)))
    entry = await store.get("n")
    assert entry is not None
    assert entry.value == text("40")
    replaced = await store.modify("n", lambda value: text(value.value + "!"))
    assert replaced.value == text("40!")


async def test_modify_takes_whatever_is_returned(server: str, unique: Callable[[], str]) -> None:
    """Objects that count as false are values, too."""
    codecs = [ws.codecs.Dataclasses()]
    async with ws.connect(server, namespace=unique(), codecs=codecs) as client:
        store = await client.stores.ensure("s", Lines)
        await store.set("k", Lines(["a"]))
        assert (await store.modify("k", lambda _: Lines([]))).value == Lines([])
        entry = await store.get("k")
        assert entry is not None
        assert entry.value == Lines([])


async def test_changes_of_one_client_take_turns(client: ws.Client) -> None:
    """None of many needs a second attempt, also on different objects for the same store."""
    await client.stores.ensure("s", StringValue)

    def add(value: StringValue) -> None:
        value.value = str(int(value.value or 0) + 1)

    stores = [client.store("s", StringValue) for _ in range(32)]
    entries = await asyncio.gather(*(store.modify("n", add, attempts=1) for store in stores))
    assert sorted(int(entry.value.value) for entry in entries) == list(range(1, 33))


async def test_a_store_holds_one_type(client: ws.Client) -> None:
    """A value of another type is refused both ways; a store without a type takes any."""
    store = await client.stores.ensure("s", StringValue)
    with pytest.raises(TypeError, match="holds StringValue, not SetResponse"):
        await store.set("k", SetResponse())  # type: ignore[arg-type] # that is what is tested
    other = client.store("s")
    await other.set("k", SetResponse(revision=7))
    entry = await other.get("k")
    assert entry is not None
    assert entry.value == SetResponse(revision=7)
    with pytest.raises(ws.Undecodable) as caught:
        await store.get("k")
    assert caught.value.type_name == "windshift.state.v1alpha1.SetResponse"
    with pytest.raises(TypeError, match="has no type"):
        await other.modify("new", lambda _: None)


async def test_keys_values_and_history(client: ws.Client) -> None:
    """Lists have what is there; the history has deletions too."""
    store = await client.stores.ensure("s", StringValue, history=5)
    await store.set("a.1", text("1"))
    await store.set("a.2", text("2"))
    await store.set("b", text("3"))
    await store.delete("b")
    keys = [entry.key async for entry in store.keys()]  # noqa: SIM118 -- it is no dict
    assert sorted(keys) == ["a.1", "a.2"]
    assert [entry.value async for entry in store.list("*.2")] == [text("2")]
    history = await store.history("b")
    assert [(revision.value, revision.deleted) for revision in history] == [(text("3"), False), (None, True)]


async def test_a_history_of_several_pages(client: ws.Client) -> None:
    """Nothing is left out."""
    store = await client.stores.ensure("s", StringValue, history=10)
    values = [text(str(number) * 600_000) for number in range(4)]
    for value in values:
        await store.set("k", value)
    assert [revision.value for revision in await store.history("k")] == values


async def test_values_expire(client: ws.Client) -> None:
    """A value has the time to live that it was given, and another one after a touch."""
    store = await client.stores.ensure("s", StringValue)
    await store.set("k", text(""), ttl=timedelta(minutes=1))
    (entry,) = [entry async for entry in store.list()]
    assert entry.expires is not None
    assert entry.expires - datetime.now(UTC) < timedelta(minutes=2)
    await store.touch("k", timedelta(hours=1))
    (entry,) = [entry async for entry in store.list()]
    assert entry.expires is not None
    assert entry.expires - datetime.now(UTC) > timedelta(minutes=30)
    with pytest.raises(ws.KeyNotFound):
        await store.touch("none", 5)


async def test_a_value_lives_no_longer_than_its_store_says(client: ws.Client) -> None:
    """One that is given longer has no end of its own."""
    store = await client.stores.ensure("s", StringValue, ttl=60)
    for ttl in (30, 60, 3600):
        await store.set(f"for-{ttl}", text(""), ttl=ttl)
    assert [entry.key for entry in [entry async for entry in store.list()] if entry.expires] == [
        "for-30",
        "for-60",
    ]


async def test_no_value_expires_beside_a_history(client: ws.Client) -> None:
    """That is refused first, whatever else a write expects."""
    store = await client.stores.ensure("s", StringValue, history=3)
    await store.set("k", text(""))
    with pytest.raises(ws.TtlNotSupported):
        await store.touch("none", 5)
    with pytest.raises(ws.TtlNotSupported):
        await store.create("k", text(""), ttl=5)
    with pytest.raises(ws.TtlNotSupported):
        await store.transact({"k": text("")}, checks={"k": 0}, ttl=5)


async def test_stores_are_listed_and_deleted(client: ws.Client) -> None:
    """A client sees the stores of its namespace; a deleted one is gone."""
    await client.stores.ensure("s", StringValue, history=3)
    await client.stores.ensure("t", StringValue, ttl=60)
    assert [(info.name, info.history, info.ttl) async for info in client.stores.list()] == [
        ("s", 3, None),
        ("t", 1, timedelta(seconds=60)),
    ]
    await client.stores.delete("s")
    assert [info.name async for info in client.stores.list()] == ["t"]
    with pytest.raises(ws.StoreNotFound):
        await client.store("s").get("k")


async def test_several_keys_all_or_none(client: ws.Client) -> None:
    """Sets and deletions land together, with their revisions, or a check that does not hold is named."""
    store = await client.stores.ensure("s", StringValue)
    old = await store.set("old", text("x"))
    made = await store.transact(
        {"a": text("1"), "b": text("2")}, deletes=["old"], checks={"old": old, "a": 0}
    )
    assert list(made) == ["a", "b", "old"]
    entry = await store.get("b")
    assert entry is not None
    assert (entry.value, entry.revision) == (text("2"), made["b"])
    assert await store.get("old") is None
    with pytest.raises(ws.RevisionMismatch) as mismatch:
        await store.transact({"c": text("3")}, checks={"a": old})
    assert (mismatch.value.key, mismatch.value.actual) == ("a", made["a"])
    assert await store.get("c") is None
    with pytest.raises(ws.UnsupportedCombination):
        await store.transact({"c": text("3")}, checks={"a": made["a"], "b": made["b"]})
    with pytest.raises(TypeError, match="holds StringValue"):
        await store.transact({"c": SetResponse()})  # type: ignore[dict-item] # that is what is tested
    await store.transact({"c": text("3")}, ttl=60)
    (history,) = await store.history("c")
    assert history.expires is not None


async def test_a_transaction_without_an_end(client: ws.Client) -> None:
    """No more keys are taken than show that they are too many; nothing is written."""
    store = await client.stores.ensure("s", StringValue)
    left = iter(range(10_000))
    with pytest.raises(ws.InvalidField, match="at most 100 keys") as refused:
        await store.transact({"k": text("")}, deletes=(f"k.{number}" for number in left))
    assert refused.value.field == "writes"
    assert len(list(left)) == 10_000 - 101
    assert await store.get("k") is None


async def test_changes_are_watched(client: ws.Client) -> None:
    """What there is comes first, if wanted; then every change in order, with deletions and expiries."""
    store = await client.stores.ensure("s", StringValue)
    await store.set("a", text("1"))
    last = await store.set("b", text("2"))
    told: list[str] = []
    async for change in store.watch(existing=True):
        if isinstance(change, ws.CaughtUp):
            await store.delete("a")
            await store.set("c", text("3"), ttl=1)
            told.append("caught up")
            continue
        told.append(f"{change.key} {'-' if change.value is None else change.value.value}")
        if len(told) == 6:
            break
    assert told == ["a 1", "b 2", "caught up", "a -", "c 3", "c -"]
    async for change in store.watch("a", from_revision=last + 1):
        assert isinstance(change, ws.Revision)
        assert (change.key, change.deleted) == ("a", True)
        break
    told.clear()
    async for change in store.watch(existing=True):
        if isinstance(change, ws.CaughtUp):
            break
        told.append(f"{change.key} {'-' if change.value is None else change.value.value}")
    assert told == ["b 2", "a -", "c -"]
    with pytest.raises(ws.InvalidField):
        async for _ in store.watch(from_revision=10**6):
            pass
    with pytest.raises(ws.StoreNotFound):
        async for _ in client.store("none").watch():
            pass


async def test_a_fake_store_is_a_store_of_its_own() -> None:
    """`FakeStore` needs neither a client nor `ensure`."""
    store = ws.testing.FakeStore(StringValue, "s", history=2)
    await store.set("k", text("1"))
    await store.set("k", text("2"))
    await store.set("k", text("3"))
    assert [revision.value for revision in await store.history("k")] == [text("2"), text("3")]
    assert (store.name, store.kind) == ("s", StringValue)
    with pytest.raises(ws.TtlNotSupported):
        await store.set("k", text("4"), ttl=5)
    short = ws.testing.FakeStore(StringValue, ttl=timedelta(0))
    await short.set("k", text("1"))
    assert await short.get("k") is None
