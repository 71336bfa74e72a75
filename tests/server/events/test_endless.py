"""What is tried again pauses, and ends by its deadline, though the broker fails at once for ever."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Awaitable, Callable

import pytest

from tests.nats.fake_server import Operation, Peer, message_frame
from tests.nats.test_fake_server import asking, reply_to
from tests.nats.test_retry import Turns
from tests.server.events.consuming import QUICK, Worker, dead_lettering
from tests.support.broker import Broker as NatsBroker
from tests.support.broker import in_seconds
from windshift.nats import NatsError, Requests
from windshift.nats.jetstream import codes
from windshift.nats.jetstream.api import JetStream
from windshift.nats.jetstream.kv import Buckets
from windshift.nats.jetstream.writes import Writes
from windshift.server.domain.errors import WindshiftError
from windshift.server.events.consumers import Consumers
from windshift.server.events.consuming.call import ConsumeCall
from windshift.server.events.consuming.shared import Broker
from windshift.server.events.dead_letters.model import Cause, DeadLetterFilter, DeadLetterId, Failure
from windshift.server.events.dead_letters.replay_queue import ALL
from windshift.server.events.model import PublishRequest, StreamSeq
from windshift.server.events.notes import Notes
from windshift.server.events.publish import Publisher
from windshift.server.events.specs import ConsumerSpec, FromSubjects, StreamSpec
from windshift.server.events.streams import Streams
from windshift.server.state.stores import Stores

SECONDS = 0.15
"""Until the deadline of what is tried."""

ID = DeadLetterId("S", "c", StreamSeq(7), 1_700_000_000_000_000_000)
FAILURE = Failure(ID, 3, 0, 0, Cause.MAX_ATTEMPTS)
NOBODY = b"NATS/1.0 503\r\n\r\n"

STREAM = {
    "ts": "2026-01-01T00:00:00Z",
    "config": {"name": "S", "subjects": ["s.>"], "allow_direct": True},
    "state": {"last_seq": 9, "messages": 9, "bytes": 900},
}
CONSUMER = {
    "config": {"ack_policy": "explicit", "ack_wait": 30_000_000_000, "durable_name": "c"},
    "created": "2026-01-01T00:00:00Z",
    "ts": "2026-01-01T00:00:00Z",
    "num_pending": 5,
    "num_ack_pending": 0,
    "ack_floor": {"stream_seq": 0},
    "delivered": {"stream_seq": 0},
}
MESSAGE = {
    "message": {"subject": "s.a", "seq": 7, "data": b64encode(b"x").decode(), "time": "2023-11-14T22:13:20Z"}
}


def error(code: int, kind: int = 400) -> bytes:
    """Return an error of JetStream."""
    return json.dumps({"error": {"code": kind, "err_code": code, "description": "no"}}).encode()


# --- Ways to fail -----------------------------------------------------------------------------------------

Answer = Callable[[bytes], bytes]
"""Returns what is answered to a request by its subject: a body, or headers."""


def nobody(_: bytes) -> bytes:
    """Have nobody listen."""
    return NOBODY


def no_leader(_: bytes) -> bytes:
    """Have no leader."""
    return error(codes.CLUSTER_NOT_LEADER, 503)


def overtaken(subject: bytes) -> bytes:
    """Let others be faster, each time: what is read is there or not as it does not fit what is written."""
    for part, answer in (
        (b".STREAM.INFO.NEW", error(codes.STREAM_NOT_FOUND, 404)),
        (b".STREAM.INFO.", json.dumps(STREAM).encode()),
        (b".STREAM.NAMES", b'{"streams":["S"]}'),
        (b".STREAM.CREATE.", error(codes.STREAM_NAME_EXISTS)),
        (b".STREAM.UPDATE.", error(codes.STREAM_NOT_FOUND, 404)),
        (b".STREAM.MSG.GET.", json.dumps(MESSAGE).encode()),
        (b".STREAM.MSG.DELETE.", error(codes.MESSAGE_DELETE_FAILED)),
        (b".CONSUMER.INFO.S.new", error(codes.CONSUMER_NOT_FOUND, 404)),
        (b".CONSUMER.INFO.", json.dumps(CONSUMER).encode()),
        (b".CONSUMER.CREATE.S.new", error(codes.CONSUMER_NAME_EXISTS)),
        (b".CONSUMER.CREATE.", error(codes.CONSUMER_DOES_NOT_EXIST)),
        (b".DIRECT.GET.", NOBODY),
    ):
        if part in subject:
            return answer
    return error(codes.WRONG_LAST_SEQUENCE)  # to everything that is to be stored


# --- What is tried again ----------------------------------------------------------------------------------


class Domain:
    """All that asks the broker."""

    def __init__(self, requests: Requests) -> None:
        connection = requests._connection
        self.api = api = JetStream(connection, requests)
        self.nats = NatsBroker(connection, requests, api)
        self.writes = Writes(connection, requests, api)
        self.dead = dead_lettering(self.nats)
        self.stores = Stores(Buckets(api, self.writes))
        self.streams = Streams(api, 1)
        self.consumers = Consumers(api, self.dead.store, Notes(connection), self.dead.replays)
        self.publisher = Publisher(api, self.writes)


Work = Callable[[Domain, float], Awaitable[object]]

WORK: dict[str, Work] = {
    "publish": lambda all_, until: all_.publisher.publish(_request(), until),
    "publish with a key and a condition": lambda all_, until: all_.publisher.publish(
        _request()._replace(idempotency_key="k", expected_last_id=3), until
    ),
    "ensure a stream": lambda all_, until: all_.streams.ensure(_stream("S"), until),
    "ensure a new stream": lambda all_, until: all_.streams.ensure(_stream("NEW"), until),
    "ensure a consumer": lambda all_, until: all_.consumers.ensure(ConsumerSpec("S", "c", ("s.b",)), until),
    "ensure a new consumer": lambda all_, until: all_.consumers.ensure(ConsumerSpec("S", "new"), until),
    "ensure a store": lambda all_, until: all_.stores.ensure("NEW", until),
    "get": lambda all_, until: all_.stores.get("s", "k", until),
    "set": lambda all_, until: all_.stores.set("s", "k", b"v", until, last_revision=7),
    "delete": lambda all_, until: all_.stores.delete("s", "k", until, last_revision=7),
    "ensure the stream of dead letters": lambda all_, until: all_.dead.store.ensure(None, until),
    "get a dead letter": lambda all_, until: all_.dead.store.get(ID, until),
    "delete a dead letter": lambda all_, until: all_.dead.store.delete(ID, until),
    "read a page of dead letters": lambda all_, until: all_.dead.store.page(
        DeadLetterFilter(), 0, 10, 1000, until
    ),
    "purge dead letters": lambda all_, until: all_.dead.store.purge("S", "c", until),
    "write a dead letter": lambda all_, until: all_.dead.writer.write(FAILURE, until),
    "replay": lambda all_, until: all_.dead.replays.add(ID, 1, until),
    "look for replays": lambda all_, until: all_.dead.replays.outstanding_among([ID], until),
    "read the next replays": lambda all_, until: all_.dead.replays.page(ALL, 0, until),
}


def _request() -> PublishRequest:
    return PublishRequest("s.a", "t", b"x")


def _stream(name: str) -> StreamSpec:
    return StreamSpec(name, FromSubjects(("other.>",)))


@pytest.mark.parametrize("answer", [nobody, no_leader, overtaken])
@pytest.mark.parametrize("what", WORK)
async def test_work_ends_by_its_deadline(what: str, answer: Answer) -> None:
    """It succeeds, fails, or is tried again a bearable number of times; others run between any two."""
    asked, turns, seen = 0, Turns(), set[int]()

    def reply(peer: Peer, operation: Operation) -> None:
        nonlocal asked
        if len(operation.arguments) < 3:
            return
        asked += 1
        seen.add(turns.now())
        body = answer(operation.arguments[0])
        head = body if body.startswith(b"NATS/1.0") else b""
        peer.say(message_frame(1, reply_to(operation), b"" if head else body, head))

    async with asking(reply) as requests:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            async with asyncio.timeout(30):
                await WORK[what](Domain(requests), in_seconds(SECONDS))
        except (WindshiftError, NatsError):
            pass
        assert loop.time() - begun < SECONDS + 10  # long after on a slow machine, but not for ever
        assert asked <= 250
        assert len(seen) >= min(asked, 2)


# --- Consuming --------------------------------------------------------------------------------------------

_LEFT = b"Nats-Pending-Messages: 8\r\nNats-Pending-Bytes: 99999\r\n"

ENDS = {
    name: b"NATS/1.0 %b\r\n%b\r\n" % (status, left)
    for name, status, left in (
        ("nobody takes requests", b"503", b""),
        ("no such request is taken", b"409 Exceeded MaxWaiting", b""),
        ("the leader changes", b"409 Leadership Change", b""),
        ("it lost them", b"408", b""),
        ("nothing came", b"408 Request Timeout", _LEFT),
        ("too large", b"409 Message Size Exceeds MaxBytes", _LEFT),
        ("there is none", b"404 No Messages", b""),
    )
}
"""How a broker can end a pull request."""


@pytest.mark.parametrize("end", ENDS)
async def test_pull_requests_that_end_at_once(end: str) -> None:
    """They are made less and less often; the call goes on, and ends when its client ends it."""
    pulls, turns, seen = 0, Turns(), set[int]()

    def reply(peer: Peer, operation: Operation) -> None:
        nonlocal pulls
        if len(operation.arguments) < 3:
            return
        subject = operation.arguments[0]
        if b".MSG.NEXT." not in subject:
            peer.say(message_frame(1, reply_to(operation), overtaken(subject)))
            return
        pulls += 1
        seen.add(turns.now())
        inbox = reply_to(operation)
        status = ENDS[end]
        if b"no_wait" in operation.body:
            status = ENDS["there is none"]
        peer.say(message_frame(peer.sid(inbox), inbox, b"", status))

    async with asking(reply) as requests:
        all_ = Domain(requests)
        broker = Broker(requests._connection, requests, all_.api, all_.dead)
        worker = Worker()
        worker.subscribe("S", "c", 8)
        call = asyncio.create_task(ConsumeCall(broker, worker, QUICK).run())
        await asyncio.sleep(1)
        assert not call.done()
        assert pulls <= 60
        assert len(seen) == pulls
        worker.say(None)
        async with asyncio.timeout(30):
            await call
