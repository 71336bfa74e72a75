"""Which deliveries reach the client: the others are settled, given up on, or wait until that is known.

Most pass at the cost of three comparisons. Those that do not are:

* events of which this process knows that they were settled, though the broker has forgotten it;
* events that are dead letters already, of whose settlement a crash has left nothing;
* events that were delivered as often as the consumer's policy allows.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

from windshift.nats import Backoff, NatsError, NotConnected, Requests, retry
from windshift.nats.jetstream import ACK, PROGRESS, TERMINATE, ConsumerState, Puller
from windshift.nats.times import Time, parse_rfc3339
from windshift.server.errors import BrokerUnavailable, WindshiftError
from windshift.server.events.consuming.dead_lettering import DeadLettering, Failures
from windshift.server.events.consuming.window import Replay
from windshift.server.events.dead_letters.letters import LetterId
from windshift.server.events.deliveries import Delivery, stored_at
from windshift.server.events.model import ConsumerKey, StreamSeq
from windshift.server.events.retries import RetryPolicy

EPOCH: Final = Time(0, 0)

_ELECTION: Final = 20.0
"""Seconds that a cluster may take to find another leader, and in which an answer is waited for."""
_PAUSES: Final = Backoff(timedelta(milliseconds=250), timedelta(milliseconds=500))
"""Pauses before the broker is asked again."""
_SHORTEST_PAUSE: Final = 0.03
"""Seconds between two messages that prolong a delivery."""


class Triage:
    """Decides about the deliveries of one attachment.

    Attributes:
        shared: where dead letters go.
        failures: words the consumer's failures.
        policy: the consumer's.
        timeout: the consumer's.
        undecided: reply subjects of deliveries that are neither with the client nor settled yet.

    Args:
        shared: where dead letters go.
        requests: where settlements are sent.
        puller: the attachment's.
        consumer: the consumer.
        created: when it was made, as the broker writes times.
        patience: seconds that a decision may take.
        start: runs something beside the attachment.
        admit: called with each delivery that reaches the client after all, and since when it is here; or with
            nothing when one does not.
    """

    __slots__ = (
        "_admit",
        "_consumer",
        "_created",
        "_dead",
        "_made",
        "_patience",
        "_puller",
        "_requests",
        "_settled",
        "_start",
        "failures",
        "policy",
        "shared",
        "timeout",
        "undecided",
    )

    def __init__(
        self,
        shared: DeadLettering,
        requests: Requests,
        puller: Puller,
        consumer: ConsumerKey,
        created: str,
        patience: float,
        start: Callable[[Coroutine[Any, Any, None]], None],
        admit: Callable[[Delivery | None, float], None],
    ) -> None:
        self.shared = shared
        self._requests = requests
        self._puller = puller
        self._consumer = consumer
        self.failures = Failures(shared.attempts, consumer, requests.loop.time)
        self._patience = patience
        self._start = start
        self._admit = admit
        self._made = created
        self._settled = shared.settled.attach(consumer, created, requests.loop.time())
        self._created = parse_rfc3339(created) or EPOCH
        self._dead: dict[StreamSeq, int] = {}
        self.policy = RetryPolicy()
        self.timeout = timedelta(seconds=30)
        self.undecided: set[bytes] = set()

    # -- what is known -------------------------------------------------------------------------------

    async def recall(self, state: ConsumerState, deadline: float) -> None:
        """Learn which events are dead letters that the broker may deliver nevertheless.

        A dead letter that is older than the consumer is of an earlier one with its name, and counts for
        nothing.

        Raise `BrokerUnavailable` or `NatsError` when that cannot be told now.
        """
        self._dead = {}
        if self.policy.dead_letters:
            self._dead = dict(await self.shared.recall(self._consumer, state, deadline))

    def settle(self, seq: StreamSeq, now: float) -> None:
        """Note that the broker has confirmed a settlement."""
        self._settled.add(seq, now)
        if self._dead:
            self._dead.pop(seq, None)

    @contextmanager
    def prolonged(self, reply: bytes, *, at_once: bool = False) -> Iterator[None]:
        """Have a delivery not made again while its event is dealt with, however long that takes."""
        loop, pause = self._requests.loop, max(self.timeout.total_seconds() / 3, _SHORTEST_PAUSE)
        timer: asyncio.TimerHandle

        def prolong() -> None:
            nonlocal timer
            self._puller.tell(reply, PROGRESS)
            timer = loop.call_later(pause, prolong)

        if at_once:
            prolong()
        else:
            timer = loop.call_later(pause, prolong)
        try:
            yield
        finally:
            timer.cancel()

    def lose(self, under_way: Iterable[StreamSeq]) -> None:
        """Note that the broker may forget what was settled just now, and what is being acknowledged."""
        self._settled.lose(under_way)
        self.shared.forget_recalls()

    def recover(self, now: float, timeout: float) -> None:
        """Note that the broker is back; `timeout` is the consumer's, in seconds."""
        self._settled.recover(now, timeout)

    def close(self) -> None:
        """Share nothing any more."""
        self.shared.settled.detach(self._consumer, self._made, self._requests.loop.time())

    # -- deciding ------------------------------------------------------------------------------------

    def passes(self, delivery: Delivery, now: float) -> bool:
        """Whether the client is to have a delivery. If not, it is taken care of."""
        if self._settled.doubted and self._settled.knows(delivery.id, now):
            self._puller.tell(delivery.reply, ACK)
            return False
        if delivery.attempt == 1 and not self._dead:
            return True
        if delivery.attempt > 1 and self._settled.lately(delivery.id):
            self._puller.tell(delivery.reply, ACK)
            return False
        dead = self._dead.get(delivery.id)
        is_dead = dead is not None and dead == stored_at(delivery.reply)
        if self.policy.is_beyond(delivery.attempt) and not is_dead:
            self.give_up(delivery, None)
        elif is_dead or (self.policy.dead_letters and delivery.attempt > 1):
            self._divert(delivery.reply, self._verify(delivery))
        else:
            return True
        return False

    def is_stale(self, delivery: Delivery) -> bool:
        """Whether an event was settled after this delivery of it had come. If so, it is settled as well."""
        stale = (delivery.attempt > 1 or self._settled.doubted) and self._settled.lately(delivery.id)
        if stale:
            self._puller.tell(delivery.reply, ACK)
        return stale

    def give_up(self, delivery: Delivery, replay: Replay | None) -> None:
        """Make no further attempt at an event."""
        self._divert(delivery.reply, self._give_up(delivery, replay))

    def dead_letter(self, seq: StreamSeq, reply: bytes) -> None:
        """Remember that an event is a dead letter and yet may be delivered."""
        self._dead[seq] = stored_at(reply)

    def _divert(self, reply: bytes, work: Coroutine[Any, Any, None]) -> None:
        self.undecided.add(reply)
        self._start(work)

    def _decided(self, reply: bytes) -> None:
        self.undecided.discard(reply)
        self._admit(None, 0.0)

    async def is_dead(self, seq: StreamSeq, reply: bytes) -> bool:
        """Whether an event is a dead letter of this consumer.

        Raise `BrokerUnavailable` or `NatsError` when that cannot be told now.
        """
        letter = await self.shared.store.get(
            self._id(seq, reply), self._requests.loop.time() + self._patience
        )
        return letter is not None and letter.time >= self._created

    async def _verify(self, delivery: Delivery) -> None:
        """Pass on another attempt, unless a crash came between a dead letter and the end of its event."""
        begun = self._requests.loop.time()
        since = self.shared.alertness.arrived(begun)
        try:
            with self.prolonged(delivery.reply):
                is_dead = await self._look_up(delivery, begun + _ELECTION)
        except (WindshiftError, NatsError):
            self._return(delivery)  # it cannot be told now
            return
        if is_dead:
            await self._terminate(delivery.reply)
        else:
            self._pass_on(delivery, since, begun)

    def _pass_on(self, delivery: Delivery, since: float, begun: float) -> None:
        """Let the client have a delivery, unless its time was over when it came, or while this slept."""
        now, timeout = self._requests.loop.time(), self.timeout.total_seconds()
        if max(begun - since, now - self.shared.alertness.arrived(now)) >= timeout:
            self._decided(delivery.reply)
            return
        if now - since > timeout / 10:  # the client is to have all of it
            self._puller.tell(delivery.reply, PROGRESS)
            since = now
        self.undecided.discard(delivery.reply)
        self._admit(delivery, since)

    async def _look_up(self, delivery: Delivery, deadline: float) -> bool:
        """Ask `is_dead`, again if need be: to return the delivery would cost its event an attempt."""
        async for _ in retry(deadline, _PAUSES):
            try:
                return await self.is_dead(delivery.id, delivery.reply)
            except (WindshiftError, NatsError):
                continue
        raise BrokerUnavailable

    async def _give_up(self, delivery: Delivery, replay: Replay | None) -> None:
        letter_id = self._id(delivery.id, delivery.reply) if replay is None else replay.id
        attempts = self.policy.max_attempts or delivery.attempt - 1
        failure = self.failures.exhausted(letter_id, attempts, replay.number if replay else 0)
        deadline = self._requests.loop.time() + self._patience
        if not self.policy.dead_letters and replay is None:
            self.shared.told.dropped(failure, delivery.subject, delivery.type_name, delivery.trace_parent)
        else:
            with self.prolonged(delivery.reply):
                kept = await self.shared.keep(failure, deadline)
            if not kept:
                self._return(delivery)
                return
        self.failures.settled(delivery.id)
        await self._terminate(delivery.reply)

    def _return(self, delivery: Delivery) -> None:
        self._puller.hand_back(delivery.reply, self.policy.backoff_ns(delivery.attempt, random.random()))
        self._decided(delivery.reply)

    async def _terminate(self, reply: bytes) -> None:
        """Have a delivery never made again. If that does not arrive, it is made, and comes here again."""
        try:
            deadline = self._requests.loop.time() + self._patience
            await self._requests.request(reply, TERMINATE, b"", deadline)
        except NotConnected:
            pass
        self._decided(reply)

    def _id(self, seq: StreamSeq, reply: bytes) -> LetterId:
        return LetterId(*self._consumer, seq, stored_at(reply))
