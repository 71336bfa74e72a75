"""What is tried again pauses, and ends by its deadline, though the broker fails at once for ever."""

from __future__ import annotations

import asyncio
import importlib
import json
from base64 import b64encode
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from datetime import timedelta
from itertools import count
from math import inf
from typing import Any, cast

import pytest

from tests.nats.fake_server import Operation, Peer, message_frame
from tests.nats.test_fake_server import asking, reply_to
from tests.nats.test_retry import Turns
from tests.nats.waiting import eventually
from tests.server.events.consuming import QUICK, Worker, share
from tests.server.state.test_watching import Watcher
from tests.support.broker import Broker as NatsBroker
from tests.support.broker import in_seconds
from windshift.nats import NatsError, Requests
from windshift.nats.jetstream import codes
from windshift.nats.jetstream.api import JetStream
from windshift.nats.jetstream.kv import Buckets
from windshift.nats.jetstream.writes import Writes
from windshift.server.admin import pausing
from windshift.server.admin.gathering import Gathering
from windshift.server.admin.pausing import ConsumerPause
from windshift.server.admin.seeking import ConsumerSeek
from windshift.server.auth.access import ActivePolicy
from windshift.server.auth.audit import Audit
from windshift.server.auth.authenticate import Authenticator
from windshift.server.auth.policy import Policy
from windshift.server.broker.availability import Availability
from windshift.server.broker.following import Follower
from windshift.server.broker.room import PullRoom
from windshift.server.domain.errors import WindshiftError
from windshift.server.events.atomic import AtomicPublisher
from windshift.server.events.consumers import Consumers
from windshift.server.events.consuming.call import ConsumeCall
from windshift.server.events.copies import Copies
from windshift.server.events.dead_letters import watch as dead_watch
from windshift.server.events.dead_letters.admin import Cursor, DeadLetterAdmin
from windshift.server.events.dead_letters.model import Cause, DeadLetterFilter, DeadLetterId, Failure
from windshift.server.events.dead_letters.replay_queue import ALL, Clock, Lease, Pointer, pointer_subject
from windshift.server.events.dead_letters.stats import DeadLetterStats
from windshift.server.events.dead_letters.upkeep import DeadLetterUpkeep
from windshift.server.events.model import ConsumerKey, PublishRequest, StreamSeq
from windshift.server.events.notes import Notes
from windshift.server.events.publish import Publisher
from windshift.server.events.retries import METADATA_KEY, RetryPolicy, policy_metadata
from windshift.server.events.runs import Run
from windshift.server.events.specs import ConsumerSpec, FromSubjects, StreamSpec
from windshift.server.events.streams import Streams
from windshift.server.events.targets import Targets
from windshift.server.ownership import ownership
from windshift.server.ownership.ownership import Ownership
from windshift.server.state import watching
from windshift.server.state.model import Check, Revision, Write
from windshift.server.state.stores import Stores
from windshift.server.state.watching import Watch, watch_turns

SECONDS = 0.1
"""Until the deadline of what is tried."""
ASKED_AT_ONCE = 24
"""Requests that are made between two pauses at most: some work makes many, none makes them over and over."""

ID = DeadLetterId("S", "c", StreamSeq(7), 1_700_000_000_000_000_000)
FAILURE = Failure(ID, 3, 0, 0, Cause.MAX_ATTEMPTS)
NOBODY = b"NATS/1.0 503\r\n\r\n"

POINTER = Pointer(ID, 1, 0, 7, 0, is_leased=False, is_claimed=False, letter=0)
KEY = ConsumerKey("S", "moved")

STREAM = {
    "ts": "2026-01-01T00:00:00Z",
    "created": "2026-01-01T00:00:00Z",
    "config": {
        "name": "S",
        "subjects": ["s.>"],
        "allow_direct": True,
        "allow_atomic": True,
        "allow_msg_ttl": True,
        "max_msgs_per_subject": 1,
    },
    "state": {"last_seq": 9, "messages": 9, "bytes": 900},
}
CREATED = "2026-01-01T00:00:00Z"
CONFIG = {"ack_policy": "explicit", "ack_wait": 30_000_000_000, "durable_name": "c"}
CONSUMER = {
    "config": CONFIG,
    "created": CREATED,
    "ts": "2026-01-01T00:00:00Z",
    "num_pending": 5,
    "num_ack_pending": 0,
    "ack_floor": {"stream_seq": 0},
    "delivered": {"stream_seq": 0},
}
PAUSED = {"paused": True, "pause_until": "2026-01-01T00:00:00Z"}
NUMBERS = count(8)


def stored(subject: str, body: bytes, seq: int = 7) -> bytes:
    """Return a stored message, as it is read."""
    data = b64encode(body).decode()
    message = {"subject": subject, "seq": seq, "data": data, "time": "2023-11-14T22:13:20Z"}
    return json.dumps({"message": message}).encode()


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
        (b".STREAM.INFO.KV_NEW", error(codes.STREAM_NOT_FOUND, 404)),
        (b".STREAM.INFO.", json.dumps(STREAM).encode()),
        (b".STREAM.NAMES", b'{"streams":["S"]}'),
        (b".STREAM.CREATE.", error(codes.STREAM_NAME_EXISTS)),
        (b".STREAM.UPDATE.", error(codes.STREAM_NOT_FOUND, 404)),
        (b".STREAM.MSG.GET.WS_REPLAYS", stored(pointer_subject(ID), b"1")),
        (b".STREAM.MSG.GET.", stored("s.a", b"x")),
        (b".STREAM.MSG.DELETE.WS_REPLAYS", error(codes.MESSAGE_NOT_FOUND, 404)),
        (b".STREAM.MSG.DELETE.", error(codes.MESSAGE_DELETE_FAILED)),
        (b".CONSUMER.INFO.S.new", error(codes.CONSUMER_NOT_FOUND, 404)),
        (b".CONSUMER.INFO.", json.dumps(CONSUMER).encode()),
        (b".CONSUMER.CREATE.S.new", error(codes.CONSUMER_NAME_EXISTS)),
        (b".CONSUMER.CREATE.S.moved", json.dumps(CONSUMER).encode()),
        (b".CONSUMER.CREATE.", error(codes.CONSUMER_DOES_NOT_EXIST)),
        (b".CONSUMER.PAUSE.", json.dumps(PAUSED).encode()),
        (b".CONSUMER.RESET.", json.dumps(CONSUMER).encode()),
        (b".DIRECT.GET.", NOBODY),
    ):
        if part in subject:
            return answer
    return error(codes.WRONG_LAST_SEQUENCE)  # to everything that is to be stored


def outrun(subject: bytes) -> bytes:
    """Let others write something between any two looks at replays, too."""
    if b".STREAM.MSG.GET.WS_REPLAYS" in subject:
        return stored(pointer_subject(ID), b"1", next(NUMBERS))
    return overtaken(subject)


def unchangeable(subject: bytes) -> bytes:
    """Answer what is read, and have no leader for what is to be changed."""
    is_read = any(part in subject for part in (b".INFO.", b".NAMES", b".MSG.GET.", b".DIRECT.GET."))
    return overtaken(subject) if is_read else no_leader(subject)


ANSWERS = [nobody, no_leader, overtaken, outrun, unchangeable]


# --- What is tried again ----------------------------------------------------------------------------------


class Domain:
    """All that asks the broker."""

    def __init__(self, requests: Requests) -> None:
        connection = requests.connection
        self.api = api = JetStream(requests)
        self.nats = NatsBroker(connection, requests, api)
        self.writes = Writes(requests, api)
        self.dead = share(self.nats)
        self.stores = Stores(Buckets(api, self.writes))
        self.streams = Streams(api, 1)
        self.consumers = Consumers(api, self.dead.store, Notes(connection), self.dead.replays)
        self.publisher = Publisher(api, self.writes)
        self.atomic = AtomicPublisher(self.publisher, api, self.writes, Targets(api))
        self.pauses = ConsumerPause(api, self.dead.notes)
        self.seeks = ConsumerSeek(
            api, self.pauses, Gathering(connection), self.dead.store, self.dead.notes, self.dead.calls
        )
        self.admin = DeadLetterAdmin(self.dead.store, self.dead.replays, api, DeadLetterStats())

    def lease(self) -> Lease:
        """Make a lease of a replay."""
        return Lease(self.dead.replays._stream, POINTER)

    def background(self) -> Iterable[Coroutine[Any, Any, None]]:
        """Begin what goes on for as long as a server runs, or a client watches dead letters."""
        api, dead, stats = self.api, self.dead, DeadLetterStats()
        access, anybody = ActivePolicy(Authenticator(Policy())), cast("Any", Watcher())
        watch = dead_watch.Watch(dead.store, dead.notes, DeadLetterFilter(), anybody, with_data=True)
        yield DeadLetterUpkeep(dead.store, dead.replays, api, dead.notes, stats).run()
        yield watch.run(None, existing=True)
        yield Availability(self.nats.requests, api).watch()
        yield Ownership(api, access).watch()
        yield Copies(api, access, Audit()).watch()

    async def watch(self, _: float) -> None:
        """Watch a store that has lost what was seen of it."""
        buckets, turns = Buckets(self.api, self.writes), watch_turns()
        watch = Watch(self.nats.connection, buckets, PullRoom(), turns, "s", ">", Watcher())
        await watch.run(Revision(1_000), existing=False)


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
    "touch": lambda all_, until: all_.stores.touch("s", "k", 60, until),
    "transact": lambda all_, until: all_.stores.transact(
        "s", [Check("k", Revision(7))], [Write("k", b"v"), Write("l", b"v")], until
    ),
    "watch a store": lambda all_, until: all_.watch(until),
    "publish all or none": lambda all_, until: all_.atomic.publish([_request(), _request()], until),
    "publish all or none, with keys and conditions": lambda all_, until: all_.atomic.publish(
        [_request()._replace(idempotency_key=f"k{id_}", expected_last_id=id_) for id_ in (9, 10)], until
    ),
    "pause a consumer": lambda all_, until: all_.pauses.set(KEY, 1_900_000_000_000_000_000, until),
    "begin to move a consumer": lambda all_, until: all_.seeks._begin(KEY, Run("", 1), until),
    "move a consumer": lambda all_, until: all_.seeks._move_until_it_stands(KEY, 3, Run(CREATED, 1), until),
    "ensure the stream of dead letters": lambda all_, until: all_.dead.store.ensure(None, until),
    "get a dead letter": lambda all_, until: all_.dead.store.get(ID, until),
    "delete a dead letter": lambda all_, until: all_.dead.store.delete(ID, until),
    "read a page of dead letters": lambda all_, until: all_.dead.store.page(
        DeadLetterFilter(), 0, 10, until, max_data=1000
    ),
    "purge dead letters": lambda all_, until: all_.dead.store.purge("S", "c", until),
    "write a dead letter": lambda all_, until: all_.dead.writer.write(FAILURE, until),
    "replay": lambda all_, until: all_.dead.replays.add(ID, 1, until),
    "look for replays": lambda all_, until: all_.dead.replays.outstanding_among([ID], until),
    "read the next replays": lambda all_, until: all_.dead.replays.page(ALL, 0, until),
    "lease a replay": lambda all_, until: all_.lease().prolong(timedelta(seconds=30), until),
    "give a replay back": lambda all_, until: all_.lease().give_back(0, until),
    "claim a replay": lambda all_, until: all_.lease().claim(7, timedelta(seconds=30), until),
    "end a replay": lambda all_, until: all_.lease().end(until),
    "cancel a replay": lambda all_, until: all_.dead.replays.cancel(ID, Clock(2**62, 0, 1), until),
    "cancel all replays": lambda all_, until: all_.admin.cancel_matching(
        DeadLetterFilter(), Cursor(0, 99), until
    ),
}


def _request() -> PublishRequest:
    return PublishRequest("s.a", "t", b"x")


def _stream(name: str) -> StreamSpec:
    return StreamSpec(name, FromSubjects(("other.>",)))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten what has a time of its own."""
    monkeypatch.setattr(watching, "_ASKING", SECONDS)
    monkeypatch.setattr(watching, "_LAGGING", SECONDS)
    monkeypatch.setattr(pausing, "_SOON", SECONDS / 3)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Write down the pauses between attempts."""
    return noted_pauses(monkeypatch)


def noted_pauses(monkeypatch: pytest.MonkeyPatch, longest: float = inf) -> list[float]:
    """Write down the pauses between attempts, which take so many seconds at most."""
    made: list[float] = []
    module = importlib.import_module("windshift.nats.retry")  # by that name the package has the class

    async def pause(seconds: float) -> None:
        made.append(seconds)
        await asyncio.sleep(min(seconds, longest))

    monkeypatch.setattr(module, "sleep", pause)
    return made


def respond(peer: Peer, operation: Operation, answer: Answer) -> None:
    """Answer a request."""
    body, inbox = answer(operation.arguments[0]), reply_to(operation)
    head = body if body.startswith(b"NATS/1.0") else b""
    sid = peer.sid(inbox) if inbox in peer.subscriptions.values() else 1
    peer.say(message_frame(sid, inbox, b"" if head else body, head))


@pytest.mark.parametrize(
    ("what", "answer"),
    [(what, answer) for what in WORK for answer in ANSWERS if answer is not outrun or "replay" in what],
)
async def test_work_ends_by_its_deadline(what: str, answer: Answer, pauses: list[float]) -> None:
    """It succeeds, fails, or is tried again a bearable number of times; others run between any two."""
    asked, turns, seen = 0, Turns(), set[int]()

    def reply(peer: Peer, operation: Operation) -> None:
        nonlocal asked
        if len(operation.arguments) < 3:
            return
        asked += 1
        seen.add(turns.now())
        respond(peer, operation, answer)

    async with asking(reply) as requests:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            async with asyncio.timeout(30):
                await WORK[what](Domain(requests), in_seconds(SECONDS))
        except (WindshiftError, NatsError):
            pass
        assert loop.time() - begun < SECONDS + 10  # long after on a slow machine, but not for ever
        assert asked <= ASKED_AT_ONCE * (1 + len(pauses))
        assert len(seen) >= min(asked, 2)


@pytest.mark.parametrize("answer", ANSWERS)
async def test_background_work_goes_on(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is answered, it asks at a bearable rate, and does not end."""
    monkeypatch.setattr(ownership, "_INTERVAL", 0.01)
    asked, turns, seen = 0, Turns(), set[int]()

    def reply(peer: Peer, operation: Operation) -> None:
        nonlocal asked
        if len(operation.arguments) == 3:
            asked += 1
            seen.add(turns.now())
            respond(peer, operation, answer)

    async with asking(reply) as requests, asyncio.TaskGroup() as group:
        begun = asyncio.get_running_loop().time()
        running = [group.create_task(work) for work in Domain(requests).background()]
        await asyncio.sleep(4 * SECONDS)
        await eventually(lambda: asked >= len(running) and len(seen) > 1)
        assert not any(task.done() for task in running)
        assert asked <= 250 * (asyncio.get_running_loop().time() - begun)
        for task in running:
            task.cancel()


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
        worker = Worker()
        worker.subscribe("S", "c", 8)
        call = asyncio.create_task(ConsumeCall(all_.dead, worker, QUICK).run())
        await asyncio.sleep(1)
        assert not call.done()
        assert pulls <= 60
        assert len(seen) == pulls
        worker.say(None)
        async with asyncio.timeout(30):
            await call


async def test_dead_letters_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that has to know them after a change of leader asks with pauses, and ends as its client does."""
    asked, policy = 0, policy_metadata(RetryPolicy(max_attempts=3, dead_letters=True))
    buries = CONSUMER | {"config": CONFIG | {"metadata": {METADATA_KEY: policy}}}

    def answer(subject: bytes) -> bytes:
        nonlocal asked
        if b".CONSUMER.INFO." in subject:
            return json.dumps(buries).encode()
        if b"WS_REPLAYS" in subject:
            return error(codes.STREAM_NOT_FOUND, 404)
        if b"WS_DEAD_LETTERS" in subject:
            asked += 1
            return error(codes.WRONG_LAST_SEQUENCE)
        return ENDS["the leader changes"] if b".MSG.NEXT." in subject else overtaken(subject)

    def reply(peer: Peer, operation: Operation) -> None:
        if len(operation.arguments) == 3:
            respond(peer, operation, answer)

    pauses = noted_pauses(monkeypatch, longest=0.01)
    async with asking(reply) as requests:
        all_, worker = Domain(requests), Worker()
        worker.subscribe("S", "c", 8)
        call = asyncio.create_task(ConsumeCall(all_.dead, worker, QUICK).run())
        await eventually(lambda: asked >= 5)
        assert not call.done()
        assert len(pauses) >= asked - 1
        worker.say(None)
        async with asyncio.timeout(30):
            await call


# --- Following a stream -----------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ENDS)
async def test_followers_that_get_nothing(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends at once, the consumer or what is asked of it: the pauses before the next one grow."""
    asked, made = 0, 0

    def reply(peer: Peer, operation: Operation) -> None:
        nonlocal asked
        if len(operation.arguments) < 3:
            return
        asked += 1
        inbox = reply_to(operation)
        status = ENDS["there is none" if b"no_wait" in operation.body else end]
        peer.say(message_frame(peer.sid(inbox), inbox, b"", status))

    class Some(Follower):
        async def make(self, _: str) -> None:
            nonlocal made
            made += 1

        async def take(self, *_: object) -> None:
            raise AssertionError

    pauses = noted_pauses(monkeypatch, longest=0.001)
    async with asking(reply) as requests, asyncio.TaskGroup() as group:
        connection = requests.connection
        follower = Some(connection, connection, PullRoom(), "S")
        following = group.create_task(follower.follow(lambda: None))
        await eventually(lambda: len(pauses) >= 8)
        following.cancel()
    assert min(pauses[4:]) >= 0.25
    assert max(asked, made) <= 2 * (1 + len(pauses))
