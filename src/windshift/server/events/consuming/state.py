"""What the parts of a consume call share: what is known of it now, and what is to be done next. No I/O."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import inf
from time import time_ns
from typing import NamedTuple

from windshift.server.auth.access import AuthorizedStream
from windshift.server.events.consuming.consumer_state import ConsumerSnapshot
from windshift.server.events.consuming.doubt import Doubt, Doubts
from windshift.server.events.consuming.flow import InFlight, Window
from windshift.server.events.consuming.pauses import PauseDetector
from windshift.server.events.consuming.pending_acks import PendingAck
from windshift.server.events.consuming.redelivery import FailedAttempts, Failures, Settled
from windshift.server.events.consuming.spans import ConsumeSpans
from windshift.server.events.consuming.work import Work
from windshift.server.events.counts import Counts
from windshift.server.events.latencies import ConsumerLatency
from windshift.server.events.model import ConsumerKey, StreamSeq
from windshift.server.events.retries import RetryPolicy


class Memory(NamedTuple):
    """What the calls of one process remember together, and this one needs.

    Attributes:
        settled: what was settled lately of the consumer.
        attempts: what is known of failed attempts.
        pauses: since when the process has been awake.
        counts: what happened to events.
        latency: how long they take in this consumer.
    """

    settled: Settled
    attempts: FailedAttempts
    pauses: PauseDetector
    counts: Counts
    latency: ConsumerLatency


class Effects:
    """What is to be done now. Whoever does it takes it out of here.

    Attributes:
        sends: acknowledgements to send; `Settling` is told what comes of each.
        tells: reply subjects and what to send there, without an answer.
        settled_again: events that others may be about to hand out, though they are settled, and when each was
            stored; to be told before their clients are.
        work: what else is to be done, in this order.
    """

    __slots__ = ("sends", "settled_again", "tells", "work")

    def __init__(self) -> None:
        self.sends: list[PendingAck] = []
        self.tells: list[tuple[bytes, bytes]] = []
        self.settled_again: dict[StreamSeq, int] = {}
        self.work: list[Work] = []


class CallState:
    """What is known in one call.

    Args:
        consumer: what names the consumer.
        found: the consumer, as it was found just now.
        size: how many deliveries the client may hold.
        memory: what is remembered beyond this call.
        rand: returns random numbers from 0 to 1.
        unix_ns: the wall clock, in nanoseconds since 1970.

    Attributes:
        consumer: what names the consumer.
        found: the consumer, as it was seen last: its timeout and policy count.
        run: the run of the consumer that the call is in.
        window: what the client holds.
        doubts: what cannot be taken for granted at the moment.
        dead: dead letters that the broker may deliver, and when their events were stored.
        failures: what is known of failed attempts at the consumer's events.
        authorizer: what the client may consume; None = everything.
        spans: records deliveries and settlements, if anything is recorded.
        still_until: until when a move of the consumer is waited for; infinite = none is.
        now: the time of the last turn.
        failure: what the call ended with; None is a proper end.
        is_ending: whether the call takes nothing new.
        effects: what is to be done.

    The others are those of `Memory`.
    """

    __slots__ = (
        "attempts",
        "authorizer",
        "consumer",
        "counts",
        "dead",
        "doubts",
        "effects",
        "failure",
        "failures",
        "found",
        "is_ending",
        "latency",
        "now",
        "pauses",
        "rand",
        "run",
        "settled",
        "spans",
        "still_until",
        "unix_ns",
        "window",
    )

    def __init__(
        self,
        consumer: ConsumerKey,
        found: ConsumerSnapshot,
        size: int,
        memory: Memory,
        rand: Callable[[], float] = random.random,
        unix_ns: Callable[[], int] = time_ns,
    ) -> None:
        self.consumer = consumer
        self.found, self.run = found, found.run
        self.settled, self.attempts, self.pauses, self.counts, self.latency = memory
        self.rand, self.unix_ns = rand, unix_ns
        self.failures = Failures(memory.attempts, consumer, self.run.name, unix_ns)
        self.window = Window(size, self.timeout, self._expired)
        self.doubts = Doubts(knows_dead_letters=not found.policy.dead_letters)
        self.dead: dict[StreamSeq, int] = {}
        self.authorizer: AuthorizedStream | None = None
        self.spans: ConsumeSpans | None = None
        self.still_until = inf
        self.now = 0.0
        self.is_ending = False
        self.failure: Exception | None = None
        self.effects = Effects()

    @property
    def policy(self) -> RetryPolicy:
        """The consumer's retry policy."""
        return self.found.policy

    @property
    def timeout(self) -> float:
        """Seconds in which the consumer wants a delivery settled or prolonged."""
        return self.found.timeout.total_seconds()

    def end(self, failure: Exception | None) -> None:
        """Take nothing new, and end once everything that the client asked for is confirmed.

        The first end counts.
        """
        if not self.is_ending:
            self.is_ending = True
            self.failure = failure

    def doubt(self) -> None:
        """Look the consumer up: it may be gone, or another."""
        self.doubts.add(Doubt.CONSUMER, self.now)

    def is_forgotten(self, held: InFlight) -> bool:
        """Whether the broker may have forgotten a delivery: then it may count others as this one.

        A reject could hit another delivery of the event, or contradict an ack of it.
        """
        is_known = held.earliest > self.doubts.forgetful_until or held.replay is not None
        return self.policy.dead_letters and not is_known

    def _expired(self, seq: StreamSeq, held: InFlight) -> None:
        self.latency.expired += 1
        self.failures.failed(seq, held, self.now)
