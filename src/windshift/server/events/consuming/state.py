"""What the parts of a consume call share: what is known of it now, and what is to be done next. No I/O."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from datetime import timedelta
from math import inf
from time import time_ns
from typing import Final

from windshift.server.auth.access import AuthorizedCall
from windshift.server.events.consuming.consumer_state import ConsumerSnapshot
from windshift.server.events.consuming.doubt import Doubt, Doubts, Question
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
from windshift.server.events.runs import Run

CLAIMED_FOR: Final = timedelta(minutes=10)
"""How long the claim of an event's end is kept, in addition to the consumer's timeout."""


@dataclass(slots=True, eq=False)
class Effects:
    """What is to be done now. Whoever does it takes it out of here.

    Attributes:
        sends: acknowledgements to send; `Settling` is told what comes of each.
        tells: reply subjects and what to send there, without an answer.
        settled_again: events that others may be about to hand out, though they are settled, and when each was
            stored; to be told before their clients are.
        work: what else is to be done, in this order.
    """

    sends: list[PendingAck] = field(default_factory=list)
    tells: list[tuple[bytes, bytes]] = field(default_factory=list)
    settled_again: dict[StreamSeq, int] = field(default_factory=dict)
    work: list[Work] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class CallState:
    """What is known in one call.

    Args:
        size: how many deliveries the client may hold.

    Attributes:
        consumer: what names the consumer.
        found: the consumer, as it was seen last: its timeout and policy count.
        settled: what was settled lately of the consumer.
        attempts: the failed attempts that this process remembers, of all consumers.
        pauses: since when the process has been awake.
        counts: what happened to events.
        latency: how long they take in this consumer.
        rand: returns random numbers from 0 to 1.
        unix_ns: the wall clock, in nanoseconds since 1970.
        run: the run of the consumer that the call is in.
        window: what the client holds.
        doubts: what cannot be taken for granted at the moment.
        dead: dead letters that the broker may deliver, and when their events were stored.
        failures: remembers there those at this consumer's events, and builds the `Failure` of one that is
            given up on.
        authorizer: what the client may consume; None = everything.
        spans: records deliveries and settlements, if anything is recorded.
        still_until: until when a move of the consumer is waited for; infinite = none is.
        now: the time of the last turn.
        failure: what the call ended with; None is a proper end.
        is_ending: whether the call takes nothing new.
        effects: what is to be done.
    """

    consumer: ConsumerKey
    found: ConsumerSnapshot
    size: InitVar[int]
    settled: Settled
    attempts: FailedAttempts
    pauses: PauseDetector
    counts: Counts
    latency: ConsumerLatency
    rand: Callable[[], float] = random.random
    unix_ns: Callable[[], int] = time_ns
    run: Run = field(init=False)
    window: Window = field(init=False)
    doubts: Doubts = field(init=False)
    dead: dict[StreamSeq, int] = field(default_factory=dict)
    failures: Failures = field(init=False)
    authorizer: AuthorizedCall | None = None
    spans: ConsumeSpans | None = None
    still_until: float = inf
    now: float = 0.0
    failure: Exception | None = None
    is_ending: bool = False
    effects: Effects = field(default_factory=Effects)

    def __post_init__(self, size: int) -> None:
        self.run = self.found.run
        self.window = Window(size, self.timeout, self._expired)
        self.doubts = Doubts(Question.OPEN if self.policy.dead_letters else Question.ANSWERED)
        self.failures = Failures(self.attempts, (self.consumer, self.run.name), self.unix_ns)

    @property
    def policy(self) -> RetryPolicy:
        """The consumer's retry policy."""
        return self.found.policy

    @property
    def timeout(self) -> float:
        """Seconds in which the consumer wants a delivery settled or prolonged."""
        return self.found.timeout.total_seconds()

    @property
    def claimed_for(self) -> timedelta:
        """How long a claim is kept."""
        return self.found.timeout + CLAIMED_FOR

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
