"""The user of docs/nats.md, taken out of the document, and a walk through the whole API with it."""

from __future__ import annotations

import re
import shlex
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from tests.support.client import Client, refused
from tests.wire.burying import ack, ask, consumer, listed, reject, replay, watching
from tests.wire.consuming import Call, subscribed
from tests.wire.looking import ask as ask_admin
from tests.wire.management import delete_consumer, ensure_consumer, ensure_stream, get_consumer
from tests.wire.storing import absent, put, shown, transact, watch
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as dl

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "nats.md"
PASSWORD = "s3cret-of-windshift"

# What the document says


def blocks(language: str = "") -> list[str]:
    """Return the document's blocks of a language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    return [text for fence, text in found if fence == language]


def write_configuration(directory: Path, form: int = 0) -> Path:
    """Write the files that the document shows, and return the server's in one of its forms."""
    named = [(re.match(r"# ([\w-]+\.conf)\n", block), block) for block in blocks()]
    files = [(name[1], text) for name, text in named if name]
    for name, text in files:
        if name != "nats-server.conf":
            (directory / name).write_text(text)
    config = directory / "nats-server.conf"
    config.write_text([text for name, text in files if name == config.name][form])
    return config


def allowed(name: str = "WINDSHIFT") -> tuple[list[str], list[str]]:
    """Return what a user of the document may publish, and subscribe to."""
    (text,) = [block for block in blocks() if f"\n{name} = {{" in block]
    publish, subscribe = (re.findall(r'^\s*"(.*)"$', part, re.MULTILINE) for part in text.split("subscribe:"))
    return publish, subscribe


def allowed_by_nsc() -> tuple[list[str], list[str]]:
    """Return what the command of the document allows."""
    (text,) = [block for block in blocks("sh") if "nsc add user" in block]
    words = shlex.split(text)
    lists: dict[str, list[str]] = {"--allow-pub": [], "--allow-sub": []}
    for option, value in pairwise(words):
        if option in lists:
            lists[option] += value.split(",")
    return lists["--allow-pub"], lists["--allow-sub"]


def matches(pattern: str, subject: str) -> bool:
    """Tell whether a subject is one of a pattern's."""
    wanted, tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted, tokens = wanted[:-1], tokens[: len(wanted) - 1] if len(tokens) >= len(wanted) else []
    return len(wanted) == len(tokens) and all(a in ("*", b) for a, b in zip(wanted, tokens, strict=True))


# The walk


def walk(client: Client, *, replicas: int = 1) -> None:
    """Make every kind of call that reaches NATS, and see each succeed."""
    manage(client, replicas)
    publish(client)
    consume(client)
    bury(client)
    keep(client)
    look(client)


def look(client: Client) -> None:
    """Read streams, events and consumers, and ask the other servers: there are none."""
    assert ask_admin(client, "ListStreams").total == 3
    assert ask_admin(client, "ReadEvents", stream="ORDERS", limit=1).events
    ask_admin(client, "ListConsumers")
    assert ask_admin(client, "ExplainEvent", stream="ORDERS", id=1).presence
    assert not ask_admin(client, "GetHistory", streams=["ORDERS"]).missing
    assert len(ask_admin(client, "ListServers").servers) == 1


def manage(client: Client, replicas: int) -> None:
    """Ensure streams of all sources, change one, and ensure and delete consumers."""
    storage = {"replicas": replicas}
    with refused("FAILED_PRECONDITION", "UNBOUND_SUBJECT"):
        client.publish("orders.early", timeout=30)  # a cluster that has just begun finds out slowly
    ensure_stream(client, "ORDERS", subjects={"subjects": ["orders.>"]}, storage=storage)
    ensure_stream(client, "ORDERS", subjects={"subjects": ["orders.>"]}, storage=storage, max_event_size=1000)
    with refused("INVALID_ARGUMENT", "EVENT_TOO_LARGE"):
        client.publish("orders.early", "x" * 2000)
    ensure_stream(client, "ORDERS", subjects={"subjects": ["orders.>"]}, storage=storage)
    ensure_stream(client, "COPY", mirror={"name": "ORDERS"}, storage=storage)
    ensure_stream(client, "ALL", aggregate={"sources": [{"name": "ORDERS"}]}, storage=storage)
    work_with_consumers(client)


def work_with_consumers(client: Client) -> None:
    """Ensure consumers with a name and without, change one, look at them and delete them."""
    start: Any = {"from": {"start": True}}
    ensure_consumer(client, "ORDERS", name="billing", **start)
    ensure_consumer(client, "ORDERS", name="billing", subjects=["orders.>"], **start)
    ephemeral = ensure_consumer(client, "ORDERS", **start)
    assert get_consumer(client, "ORDERS", ephemeral).pending == 0
    delete_consumer(client, "ORDERS", ephemeral)
    with refused("NOT_FOUND", "CONSUMER_NOT_FOUND"):
        get_consumer(client, "ORDERS", ephemeral)


def publish(client: Client) -> None:
    """Publish with a key, again, under a condition that holds, and under one that does not."""
    first = client.publish("orders.a", idempotency_key="k")
    assert client.publish("orders.a", idempotency_key="k") == first
    second = client.publish("orders.a", idempotency_key="c", expected_last_id=first)
    assert client.publish("orders.a", idempotency_key="c", expected_last_id=first) == second
    with refused("ABORTED", "WRONG_LAST_ID"):
        client.publish("orders.a", expected_last_id=first)


def consume(client: Client) -> None:
    """Take events, acknowledge, prolong and reject them."""
    with subscribed(client, "ORDERS", consumer="billing") as call:
        one, two = call.events(2)
        call.ping(one.id)
        assert call.told()[1] == [one.id]
        ack(call, one.id)
        reject(call, two.id)
        assert call.event().delivery_attempt == 2
        ack(call, two.id)


def bury(client: Client) -> None:
    """Have events given up on, in both ways, look at the dead letters, send back and remove them."""
    consumer(client, "ORDERS", "fragile", attempts=2)
    with watching(client, "ORDERS", without_data=True) as watch:
        with subscribed(client, "ORDERS", consumer="fragile") as call:
            given_up(client, call)
            assert len(watch.ids(4)) == 4
        handle_dead_letters(client)


def given_up(client: Client, call: Call) -> None:
    """Give up on the events there are, and on one that fills a message alone."""
    one, two = call.events(2)
    reject(call, one.id, permanently=True, reason="bad")
    reject(call, two.id)
    assert call.event().id == two.id
    reject(call, two.id)
    large = client.publish("orders.large", "x" * LARGEST)
    poison = client.publish("orders.a", "poison")
    for _ in range(2):
        event = call.event()
        assert event.id in (large, poison)
        reject(call, event.id, permanently=True)


LARGEST = 1024 * 1024 - 300
"""Bytes of an event that leave no room for what a dead letter has beside it."""


def handle_dead_letters(client: Client) -> None:
    """List, get, replay and purge, by id and by filter."""
    letters = listed(client, "ORDERS", consumer="fragile")
    assert len(letters) == 4
    assert ask(client, "Get", dl.GetRequest(id=letters[0].id)).dead_letter.event.id == letters[0].event.id
    replay(client, letters[0].id)
    assert listed(client, "ORDERS")[0].replaying
    with subscribed(client, "ORDERS", consumer="fragile") as call:
        ack(call, call.event(20).id)
        some = dl.ReplayRequest(filter=dl.Filter(stream="ORDERS"), limit=1)
        assert ask(client, "Replay", some).replayed == 1
        reject(call, call.event(20).id, permanently=True)
    replay(client, letters[1].id)
    by = [dl.SummarizeRequest.BY_CONSUMER]
    assert ask(client, "Summarize", dl.SummarizeRequest(by=by)).groups[0].keys == ["fragile"]
    assert ask(client, "List", dl.ListRequest(newest_first=True)).total == 3
    of_event = dl.Filter(stream="ORDERS", event_ids=[letters[1].event.id])
    assert [each.replaying for each in ask(client, "List", dl.ListRequest(filter=of_event)).dead_letters] == [
        True
    ]
    assert ask(client, "CancelReplay", dl.CancelReplayRequest(filter=of_event)).cancelled == 1
    assert not any(letter.replaying for letter in listed(client, "ORDERS"))
    replay(client, letters[1].id)
    delete_consumer(client, "ORDERS", "fragile")
    assert not any(letter.replaying for letter in listed(client, "ORDERS"))
    assert ask(client, "Purge", dl.PurgeRequest(ids=[letters[1].id])).purged == 1
    purged = ask(client, "Purge", dl.PurgeRequest(filter=dl.Filter(stream="ORDERS"))).purged
    assert purged == 2
    assert listed(client, "ORDERS") == []


def keep(client: Client) -> None:
    """Write, compare and swap, read and delete in a store."""
    client.ensure_store("settings")
    client.ensure_store("settings")
    first = client.set("settings", "a.b", create_only=True)
    with refused("ALREADY_EXISTS", "KEY_EXISTS"):
        client.set("settings", "a.b", create_only=True)
    second = client.set("settings", "a.b", "more", last_revision=first)
    with refused("ABORTED", "REVISION_MISMATCH"):
        client.set("settings", "a.b", last_revision=first)
    assert client.get("settings", "a.b").revision == second
    client.delete("settings", "a.b", last_revision=second)
    assert client.get("settings", "a.b").revision == 0
    transact(client, "settings", absent("a.b"), put("c"), put("d"))
    seen = (each.entry for each in watch(client, "settings", existing=True) if each.HasField("entry"))
    assert [shown(entry) for entry in islice(seen, 3)] == ["a.b deleted", "c=text", "d=text"]
