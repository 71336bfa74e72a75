"""Rejects that give events up at once: of one's own consumers, and of those that somebody else made."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from tests.authorization.policies import ALL, principal
from tests.authorization.served import Served, served
from tests.support.broker import connect, in_seconds
from tests.support.client import Refusal, refused
from tests.support.nats_server import NatsServer
from tests.wire.burying import listed
from tests.wire.consuming import Call, calling, subscribed
from tests.wire.management import ensure_consumer, stored_consumer

POLICY = (
    ALL
    + """
[role.user]
streams = { consume = ["GIVEN"], ephemeral = ["GIVEN"], subjects = [">"] }
consumers.use = ["*"]
[role.judge]
streams = { consume = ["GIVEN"], subjects = [">"] }
consumers = { use = ["c-*"], reject = ["c-*"] }
"""
    + '[role.guest]\nstreams = { consume = ["GIVEN"], subjects = ["given.x.a"] }\nconsumers.use = ["c-*"]\n'
    + principal("guest")
    + principal("all")
    + principal("ann", "user")
    + principal("bob", "user")
    + principal("eve", "judge")
)
FINAL: list[dict[str, Any]] = [
    {"permanently": True},
    {"action": "REJECT_ACTION_DROP"},
    {"action": "REJECT_ACTION_DEAD_LETTER"},
]
LIMIT = 20.0
NUMBERS = count()


@pytest.fixture(scope="module")
def server(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Run a process with these rules."""
    with served(tmp_path_factory.mktemp("given"), POLICY, NATS_URL=nats_server.url) as server:
        server.caller("all").ensure_stream("GIVEN", "given.>")
        yield server


def rejected(server: Served, who: str, name: str, event: int, fields: dict[str, Any]) -> Refusal | None:
    """Reject an event for good; give what ended the call, or nothing when it was confirmed."""
    with subscribed(server.caller(who), "GIVEN", consumer=name) as call:
        assert [each.id for each in call.events(1)] == [event]
        call.say(reject={"ids": [event], **fields})
        if who == "bob":
            return call.end(LIMIT)
        confirmed(call, event)
        return None


def confirmed(call: Call, event: int) -> None:
    """See that a reject was confirmed."""
    assert call.told() == ("reject", [event], [], [])


def made(server: Served, owner: str, **fields: Any) -> tuple[str, int]:
    """Make a consumer with one event; give its id, and that of the event."""
    subject = f"given.{next(NUMBERS)}"
    name = ensure_consumer(server.caller(owner), "GIVEN", subjects=[subject], **fields)
    return name, server.caller("all").publish(subject)


@pytest.mark.parametrize("fields", FINAL, ids=str)
@pytest.mark.parametrize("named", [True, False])
def test_of_somebody_elses_consumer(server: Served, fields: dict[str, Any], named: bool) -> None:
    """It is denied, and names the right; the event is as it was, and its owner may give it up."""
    given = {"name": f"c-{next(NUMBERS)}", "retry_policy": {}} if named else {}
    name, event = made(server, "ann", **given)
    refusal = rejected(server, "bob", name, event, fields)
    assert refusal is not None
    assert (refusal.code, refusal.reason) == ("PERMISSION_DENIED", "PERMISSION_DENIED")
    assert refusal.message == (
        f"'bob' may not reject events of consumer {name!r} of stream 'GIVEN' for good, which somebody else "
        "made (consumers.reject)"
    )
    assert not [letter for letter in listed(server.caller("all"), "GIVEN") if letter.consumer == name]
    assert rejected(server, "ann", name, event, fields) is None


def test_with_the_right(server: Served) -> None:
    """Whoever has the right to reject of that consumer may do it, whoever made that."""
    for fields in FINAL:
        name, event = made(server, "ann", name=f"c-{next(NUMBERS)}")
        assert rejected(server, "eve", name, event, fields) is None


def test_changes_of_somebody_elses_consumer(nats_server: NatsServer, server: Served) -> None:
    """Neither another retry policy nor a filter less is a way around: they take the rights to that."""
    ann, bob, eve = (server.caller(who) for who in ("ann", "bob", "eve"))
    name, filters = f"c-{next(NUMBERS)}", ["given.x.a", "given.x.b"]
    ensure_consumer(ann, "GIVEN", name=name, subjects=filters, retryPolicy={"maxAttempts": 3})
    ensure_consumer(bob, "GIVEN", name=name, subjects=filters)
    ensure_consumer(bob, "GIVEN", name=name, subjects=filters, retryPolicy={"maxAttempts": 3})
    before = asyncio.run(stored_consumer(nats_server, "GIVEN", name))["config"]
    with refused("PERMISSION_DENIED", "PERMISSION_DENIED") as caught:
        ensure_consumer(bob, "GIVEN", name=name, subjects=filters, retryPolicy={"maxAttempts": 1})
    assert caught[0].message == (
        f"'bob' may not change the retry policy of consumer {name!r}, which somebody else made "
        "(consumers.reject)"
    )
    with refused("PERMISSION_DENIED", "PERMISSION_DENIED") as caught:
        ensure_consumer(server.caller("guest"), "GIVEN", name=name, subjects=filters[:1])
    assert caught[0].message == (
        f"'guest' may not have consumer {name!r}, which somebody else made, choose 'given.x.b' no longer"
    )
    assert asyncio.run(stored_consumer(nats_server, "GIVEN", name))["config"] == before
    ensure_consumer(eve, "GIVEN", name=name, subjects=filters[:1], retryPolicy={"maxAttempts": 1})
    ensure_consumer(ann, "GIVEN", name=name, subjects=filters, retryPolicy={"maxAttempts": 2})


def test_plain_rejects(server: Served) -> None:
    """Whoever may use a consumer may have its events delivered again."""
    name, event = made(server, "ann", name=f"c-{next(NUMBERS)}")
    with subscribed(server.caller("bob"), "GIVEN", consumer=name) as call:
        call.events(1)
        call.say(reject={"ids": [event], "delay": {"seconds": 0}})
        assert call.told() == ("reject", [event], [], [])
        (again,) = call.events(1)
        assert (again.id, again.delivery_attempt) == (event, 2)


def test_a_consumer_without_an_owner(nats_server: NatsServer, server: Served) -> None:
    """One that was made without rules is nobody's, and belongs to whoever ensures it next."""
    name, event = made(server, "ann", name=f"c-{next(NUMBERS)}")
    asyncio.run(forget_owner(nats_server, name))
    refusal = rejected(server, "bob", name, event, FINAL[0])
    assert refusal is not None
    subjects = asyncio.run(stored_consumer(nats_server, "GIVEN", name))["config"]["filter_subject"]
    for who in ("bob", "ann"):
        ensure_consumer(server.caller(who), "GIVEN", name=name, subjects=[subjects])
    stored = asyncio.run(stored_consumer(nats_server, "GIVEN", name))
    assert stored["config"]["metadata"]["windshift.owner"] == "bob"
    with subscribed(server.caller("bob"), "GIVEN", consumer=name) as call:
        call.events(1)
        call.say(reject={"ids": [event], "permanently": True})
        assert call.told() == ("reject", [event], [], [])


async def forget_owner(nats_server: NatsServer, name: str) -> None:
    """Take the owner of a consumer from its metadata, with NATS's own means."""
    async with connect(nats_server.url) as broker:
        state = await broker.api.consumer("GIVEN", name, in_seconds(30))
        assert state is not None
        config = state.config | {"metadata": {}}
        await broker.api.update_consumer("GIVEN", name, config, in_seconds(30))


def test_a_message_size_gives_events_up(server: Served) -> None:
    """Who says what it takes has what is larger given up: of its own consumers, or with the right to that."""
    name, event = made(server, "ann", name=f"c-{next(NUMBERS)}")

    def subscribe(who: str) -> Refusal | None:
        with calling(server.caller(who)) as call:
            call.say(subscribe={"stream": "GIVEN", "consumer": name, "max_message_size": 16_384})
            if who == "bob":
                return call.end(LIMIT)
            assert call.event(LIMIT).id == event
            return None

    for who in ("ann", "eve"):
        assert subscribe(who) is None
    refusal = subscribe("bob")
    assert refusal is not None
    assert (refusal.code, refusal.reason) == ("PERMISSION_DENIED", "PERMISSION_DENIED")
