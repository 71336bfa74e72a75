"""What the consume calls of one process share: the broker, dead letters, and what is remembered of events.

`Shared` makes dead letters for them and says what came of it, and reads those that there are: once for all
calls that ask at about the same time.

An event is copied to the dead letters first, and settled only after the copy is stored. If that fails, the
event stays with the broker and is redelivered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias

from windshift.nats import Requests
from windshift.nats.jetstream.api import ConsumerState, JetStream
from windshift.server.background.pacing import paced
from windshift.server.broker.room import PullRoom
from windshift.server.domain.errors import BrokerUnavailable, QuotaExceeded, StreamFull, WindshiftError
from windshift.server.events.consuming.calls import Calls
from windshift.server.events.consuming.pauses import PauseDetector
from windshift.server.events.consuming.peers import Peers
from windshift.server.events.consuming.redelivery import FailedAttempts, RunKey, SettledByConsumer
from windshift.server.events.consuming.work import EndOutcome
from windshift.server.events.counts import Counts
from windshift.server.events.dead_letters.model import Failure
from windshift.server.events.dead_letters.replay_queue import ReplayQueue
from windshift.server.events.dead_letters.stats import DeadLetterStats
from windshift.server.events.dead_letters.store import Charge, DeadLetterStore
from windshift.server.events.dead_letters.writer import DeadLetterWriter, Written
from windshift.server.events.model import ConsumerKey, StreamSeq
from windshift.server.events.notes import Notes
from windshift.server.events.runs import Run
from windshift.server.telemetry.tracer import Tracer

log = logging.getLogger(__name__)

Letters: TypeAlias = Mapping[StreamSeq, int]
"""Events that are dead letters, by id, and when their stream stored them in nanoseconds since 1970."""

RECALLED_FOR: Final = 5.0
"""Seconds for which an answer counts, while nothing happens to the broker."""


@dataclass(eq=False)
class Shared:
    """What the consume calls of one process share.

    Attributes:
        requests: sends acknowledgements.
        connection: brings deliveries.
        api: JetStream.
        store: reads and removes dead letters.
        writer: writes them.
        replays: has events delivered again.
        notes: what servers tell each other.
        room: what all calls together may have on its way from the broker.
        tracer: records spans, if anything is recorded.
        stats: logs and counts the events that were given up on.
        counts: what happened to events.
        attempts: the failed attempts that this process remembers.
        settled: what was settled lately.
        pauses: since when this process has been awake.
        calls: those of this process.
        peers: the servers beside this one.
    """

    requests: Requests
    api: JetStream
    store: DeadLetterStore
    replays: ReplayQueue
    notes: Notes
    room: PullRoom
    tracer: Tracer | None = None
    stats: DeadLetterStats = field(default_factory=DeadLetterStats)
    counts: Counts = field(default_factory=Counts)
    attempts: FailedAttempts = field(default_factory=FailedAttempts)
    settled: SettledByConsumer = field(default_factory=SettledByConsumer)
    pauses: PauseDetector = field(default_factory=PauseDetector)
    calls: Calls = field(default_factory=Calls)
    _recalls: dict[RunKey, asyncio.Task[Letters]] = field(default_factory=dict)
    _until_lost: set[asyncio.Task[EndOutcome]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.connection = self.requests.connection
        self.writer = DeadLetterWriter(self.connection, self.api, self.store, self.notes)
        self.peers = Peers(self.notes, self.settled, self.calls)

    def follow(self) -> None:
        """Follow what happens to the connection, and hear what servers tell each other."""
        self.connection.on_lost.append(self._lost)
        self.connection.on_connected.append(self.peers.connected)
        self.calls.follow(self.connection, self.notes)
        self.peers.start()

    def _lost(self) -> None:
        for task in self._until_lost:
            task.cancel()
        self.settled.lose()
        self.forget_recalls()
        self.attempts.trusted_since = asyncio.get_running_loop().time()

    async def recall(self, consumer: ConsumerKey, state: ConsumerState, deadline: float) -> Letters:
        """Say which events of a consumer have ended though the broker thinks it never delivered them.

        They are dead letters, or their end was claimed.

        There are few. Others come as another attempt, if they come at all, and are looked up then.
        Calls that begin at about the same time, as after a reconnect, are answered by one request. Raise
        `BrokerUnavailable` or `NatsError`.
        """
        key = consumer, Run.of(state).name
        recall = self._recalls.get(key)
        if recall is None:
            reading = self.store.recall(*consumer, deadline, state.delivered_to)
            recall = self._recalls[key] = asyncio.create_task(reading)
            recall.add_done_callback(partial(self._recalled, key))
        return await asyncio.shield(recall)

    def _recalled(self, key: RunKey, recall: asyncio.Task[Letters]) -> None:
        if recall.cancelled() or recall.exception() is not None:
            self._forget(key, recall)
        else:
            recall.get_loop().call_later(RECALLED_FOR, self._forget, key, recall)

    def _forget(self, key: RunKey, recall: asyncio.Task[Letters]) -> None:
        if self._recalls.get(key) is recall:  # and no later one
            del self._recalls[key]

    def forget_recalls(self) -> None:
        """Ask the broker again: it may have forgotten something."""
        self._recalls.clear()

    async def keep(self, failure: Failure, run: Run, deadline: float, charge: Charge | None) -> EndOutcome:
        """Make a dead letter of an event, so that it ends as that; `charge` counts its bytes. Never fails."""
        try:
            async with asyncio.timeout_at(deadline):
                written, letter = await self.writer.write(failure, deadline, run, charge)
        except TimeoutError:
            self.stats.not_kept(failure, BrokerUnavailable())
            return EndOutcome.UNKNOWN
        except Exception as error:
            if not isinstance(error, WindshiftError):
                log.exception("a dead letter cannot be written")
            self.stats.not_kept(failure, error)
            is_certain = isinstance(error, (BrokerUnavailable, StreamFull, QuotaExceeded))
            return EndOutcome.NOT_NOW if is_certain else EndOutcome.UNKNOWN
        if written is Written.ENDED:
            return EndOutcome.OTHERWISE
        if written is Written.GONE:
            self.stats.gone(failure)
        elif written is Written.WRITTEN and letter is not None:
            self.stats.kept(letter)
        return EndOutcome.DECIDED

    async def unless_lost(self, keeping: Coroutine[Any, Any, EndOutcome]) -> EndOutcome:
        """Make a dead letter, but give up on that when the connection ends.

        A broker without replicas that was killed may have forgotten the delivery, and count another one as
        the first: a dead letter that comes only then would contradict how that one ends.
        """
        task = asyncio.get_running_loop().create_task(paced(keeping))
        self._until_lost.add(task)
        try:
            await asyncio.wait([task])
        finally:
            self._until_lost.discard(task)
            task.cancel()
        return EndOutcome.UNKNOWN if task.cancelled() else task.result()
