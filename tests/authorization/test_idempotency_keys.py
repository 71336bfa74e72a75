"""Idempotency keys of several principals that publish to one stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.authorization.callers import Caller, callers_with_rules
from tests.authorization.policies import ALL, principal, put, token_of
from tests.support.client import EVENTS, any_of, refused
from tests.support.nats_server import NatsServer
from tests.wire.burying import ask
from tests.wire.consuming import subscribed
from tests.wire.management import ensure_consumer
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as dead_letters_pb
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

POLICY = (
    ALL
    + """
[publishing]
shared_keys = ["keys.shared.>"]
[role.one]
publish = ["keys.one.>", "keys.shared.>"]
[role.two]
publish = ["keys.two.>", "keys.shared.>"]
streams = { consume = ["KEYS"], subjects = ["keys.two.>"] }
"""
    + principal("all")
    + principal("one")
    + principal("two")
)


class Served(NamedTuple):
    """Clients of a server."""

    admin: Caller
    one: Caller
    two: Caller


@pytest.fixture(scope="module")
def served(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Run a server whose principals publish to one stream."""
    file = put(tmp_path_factory.mktemp("keys") / "auth.toml", POLICY)
    with callers_with_rules(nats_server, file) as callers:
        served = Served(*(callers.with_token(token_of(name)) for name in ("all", "one", "two")))
        served.admin.ensure_stream("KEYS", "keys.>")
        yield served


def publish(caller: Caller, subject: str, key: str, expected: int | None = None) -> tuple[int, bool]:
    """Publish with a key; give the id, and whether it is a duplicate."""
    request = pb.PublishEventRequest(
        subject=subject, data=any_of("x"), idempotency_key=key, expected_last_id=expected
    )
    response: pb.PublishEventResponse = caller.call(EVENTS.methods_by_name["PublishEvent"], request)
    return response.id, response.duplicate


def test_nobody_takes_anothers_key(served: Served) -> None:
    """The same key of two principals is two events; its own key of each is told as a duplicate."""
    first = publish(served.one, "keys.one.a", "order-42")
    second = publish(served.two, "keys.two.a", "order-42")
    assert not first[1]
    assert second == (first[0] + 1, False)
    assert publish(served.one, "keys.one.b", "order-42") == (first[0], True)
    assert publish(served.two, "keys.two.b", "order-42") == (second[0], True)


def test_nobody_finds_out_anothers_key(served: Served) -> None:
    """A key that somebody else uses is answered as one that nobody does, without the last id."""
    publish(served.two, "keys.two.a", "invoice-7")
    told = []
    for key in ("invoice-7", "invoice-8", "ws:two:invoice-7"):
        with refused("ABORTED", "WRONG_LAST_ID") as caught:
            publish(served.one, "keys.one.a", key, expected=10**12)
        told.append(caught[0])
    assert len({(each.message, tuple(each.metadata.items())) for each in told}) == 1
    assert told[0].metadata == {"expected": str(10**12)}
    with refused("ABORTED", "WRONG_LAST_ID") as caught:
        publish(served.two, "keys.two.a", "invoice-9", expected=10**12)
    assert int(caught[0].metadata["actual"]) > 0


def test_keys_that_are_shared(served: Served) -> None:
    """The rules may say so; the id of what another published is for those who see the stream."""
    seq, _ = publish(served.one, "keys.shared.a", "together")
    assert publish(served.two, "keys.shared.b", "together") == (seq, True)
    assert publish(served.one, "keys.shared.a", "together") == (0, True)


def test_subscribers_get_the_key_as_given(nats_server: NatsServer, served: Served) -> None:
    """Delivered, as a dead letter, and delivered again after a replay."""
    seq, _ = publish(served.one, "keys.one.told", "as given")
    ensure_consumer(
        served.admin, "KEYS", name="told", subjects=["keys.one.told"], **{"from": {"start": True}}
    )
    with subscribed(served.admin, "KEYS", consumer="told") as call:
        (event,) = call.events(1)
        assert (event.id, event.headers.idempotency_key) == (seq, "as given")
        call.say(reject={"ids": [seq], "action": "REJECT_ACTION_DEAD_LETTER"})
        call.told()
        listed: dead_letters_pb.ListResponse = ask(
            served.admin, "List", dead_letters_pb.ListRequest(filter={"stream": "KEYS", "consumer": "told"})
        )
        (letter,) = listed.dead_letters
        assert letter.event.headers.idempotency_key == "as given"
        assert not letter.other_headers
        ask(served.admin, "Replay", dead_letters_pb.ReplayRequest(ids=[letter.id]))
        (event,) = call.events(1)
        assert (event.id, event.headers.idempotency_key) == (seq, "as given")
        call.ack(seq)
        call.told()
