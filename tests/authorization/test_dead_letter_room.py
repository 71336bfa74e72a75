"""One principal cannot take all the room for dead letters, at the wire."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.authorization.callers import Caller
from tests.authorization.policies import ALL, principal
from tests.authorization.served import Served, served
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import wait_for
from tests.wire.burying import DEAD_LETTER, ask, consumer, jetstream, listed
from tests.wire.consuming import Call, subscribed
from tests.wire.management import ensure_consumer
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as pb

RULES = (
    ALL
    + principal("all")
    + principal("floods", "all")
    + principal("unlimited", "all", more='quotas = { dead_letter_bytes = "off" }')
)
DATA = "x" * 100_000
HALF = 10
"""Dead letters of that size with which more than half of 2 MB is used. A principal gets one more."""
ALL_OF_IT = 19
MANY = 120
"""Events with more claims than a principal may leave in what remains."""


@pytest.fixture
def server(own_nats_server: NatsServer, tmp_path: Path) -> Iterator[Served]:
    """Run a server that keeps 2 MB of dead letters."""
    environment = {"NATS_URL": own_nats_server.url, "WINDSHIFT_DEAD_LETTERS_MAX_MB": "2"}
    with served(tmp_path, RULES, **environment) as server:
        server.caller("all").ensure_stream("S")
        yield server


def publish(server: Served, number: int) -> list[int]:
    """Publish large events; give their ids."""
    return [server.caller("all").publish("S.x", DATA) for _ in range(number)]


@contextmanager
def holding(caller: Caller, name: str, number: int) -> Iterator[tuple[Call, list[int]]]:
    """Hold events of a consumer for the length of a block."""
    consumer(caller, "S", name, attempts=99)
    with subscribed(caller, "S", consumer=name) as call:
        yield call, sorted(event.id for event in call.events(number))


def is_buried(call: Call, seq: int) -> bool:
    """Reject an event; tell whether it became a dead letter. Otherwise it stays."""
    call.reject(seq, action=DEAD_LETTER)
    told = call.told()
    assert told in (("reject", [seq], [], []), ("reject", [], [], [seq])), told
    return told[1] == [seq]


def fill(server: Served) -> None:
    """Use more than half of the room."""
    publish(server, HALF)
    with holding(server.caller("unlimited"), "fills", HALF) as (call, seqs):
        assert all(is_buried(call, seq) for seq in seqs)


def purge(server: Served) -> None:
    """Remove all dead letters."""
    ask(server.caller("all"), "Purge", pb.PurgeRequest(filter=pb.Filter(stream="S")))


def test_a_flood(server: Served, own_nats_server: NatsServer) -> None:
    """Who floods is refused long before there is no room, others are not, and no event is lost."""
    ids = publish(server, HALF + 5)
    with holding(server.caller("floods"), "flood", len(ids)) as (call, seqs):
        assert [is_buried(call, seq) for seq in seqs] == [True] * (HALF + 1) + [False] * 4
        refused = seqs[HALF + 1 :]
        call.reject(*refused, action=DEAD_LETTER)
        assert call.told() == ("reject", [], [], refused)
        (record, *_) = server.records(event="denied", quota="dead_letter_bytes", principal="floods")
        assert record["limit"] < len(DATA)
        assert server.seen().value("windshift_auth_quotas_exceeded_total", quota="dead_letter_bytes") >= 5
        with holding(server.caller("all"), "other", 1) as (others_call, (first, *_)):
            assert is_buried(others_call, first)
    state = jetstream(own_nats_server, "STREAM.INFO.WS_DEAD_LETTERS")["state"]
    assert state["bytes"] < 1_300_000
    kept = {letter.event.id for letter in listed(server.caller("all"), "S", consumer="flood")}
    assert kept == set(seqs) - set(refused)
    purge(server)
    with holding(server.caller("floods"), "flood", len(refused)) as (call, seqs):
        assert seqs == refused
        wait_for(lambda: is_buried(call, refused[0]))
        assert [is_buried(call, seq) for seq in refused[1:]] == [True] * 3


def test_what_the_broker_refuses(server: Served, own_nats_server: NatsServer) -> None:
    """It does not count, however often it was tried: there was nothing left of it."""
    fill(server)
    before = jetstream(own_nats_server, "STREAM.INFO.WS_DEAD_LETTERS")["config"]
    with holding(server.caller("floods"), "flood", 3) as (call, (first, second, *_)):
        jetstream(own_nats_server, "STREAM.UPDATE.WS_DEAD_LETTERS", before | {"max_msgs": HALF})
        assert not any(is_buried(call, seq) for seq in (first, second, first))
        jetstream(own_nats_server, "STREAM.UPDATE.WS_DEAD_LETTERS", before)
        assert is_buried(call, first)
        assert not is_buried(call, second)


def test_last_attempts(server: Served) -> None:
    """An event whose attempts are used up stays as well, and becomes a dead letter when there is room."""
    caller, ids = server.caller("floods"), publish(server, HALF + 3)
    consumer(caller, "S", attempts=1, processing_timeout="0.3s")
    with subscribed(caller, "S") as call:
        assert sorted(event.id for event in call.events(len(ids))) == ids
        wait_for(lambda: len(listed(caller, "S")) > HALF)
        call.nothing(1.0)
        assert len(listed(caller, "S")) == HALF + 1
        purge(server)
        wait_for(lambda: len(listed(caller, "S")) == 2)
        call.nothing()


def test_an_unlimited_principal(server: Served) -> None:
    """Whoever may leave any number of bytes by the rules takes all the room."""
    ids = publish(server, ALL_OF_IT)
    with holding(server.caller("unlimited"), "one", len(ids)) as (call, seqs):
        assert all(is_buried(call, seq) for seq in seqs)


def test_claims(server: Served) -> None:
    """Who claims the ends of many events is told that it failed for now, and another one is not."""
    fill(server)
    caller = server.caller("all")
    for _ in range(MANY):
        caller.publish("S.y")

    def acknowledged(who: str, name: str) -> tuple[list[int], list[int]]:
        """Acknowledge events that another call held before; give those that were, and those that failed."""
        ensured = {"subjects": ["S.y"], "from": {"start": True}, "retry_policy": {"max_attempts": 99}}
        ensure_consumer(caller, "S", name=name, **ensured)
        with subscribed(server.caller(who), "S", MANY, name) as call:
            call.events(MANY)
        with subscribed(server.caller(who), "S", MANY, name) as call:
            ids = sorted(event.id for event in call.events(MANY))
            call.ack(*ids)
            _, done, invalid, failed = call.told()
            assert (invalid, sorted(done + failed)) == ([], ids)
            return done, failed

    done, failed = acknowledged("floods", "flood")
    assert done
    assert failed
    records = server.records(event="denied", quota="dead_letter_bytes", principal="floods")
    assert records
    done, _ = acknowledged("all", "other")
    assert done
    assert acknowledged("unlimited", "more")[1] == []
