"""Deliveries of one consume call, on their way from the broker to the client. No I/O.

They arrive, and pass unless the client is not to have them: an event that is settled or a dead letter, whose
attempts are used up, or that is too large for the client. What passes is held for the client, as soon as
there is room, and handed to it as soon as it reads.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from math import inf
from typing import Final, NamedTuple

from windshift.nats.jetstream.pulling import ACK, PROGRESS, nak
from windshift.nats.times import nanoseconds
from windshift.server.auth.access import AuthorizedCall
from windshift.server.domain.errors import EventTooLarge, WindshiftError
from windshift.server.events.consuming import work as w
from windshift.server.events.consuming.consumer_state import ConsumerSnapshot
from windshift.server.events.consuming.flow import InFlight, PullPacer, Replay
from windshift.server.events.consuming.interfaces import STALLED
from windshift.server.events.consuming.state import CallState
from windshift.server.events.deliveries import Delivery, consumer_sequence, message_size, name_of
from windshift.server.events.model import StreamSeq

_REMEMBERED: Final = 256
"""Subjects that the client may have and that are remembered; with one more, all are forgotten."""
_NOT_KEPT_FOR: Final = timedelta(seconds=1)
"""An event that cannot become a dead letter now comes again no sooner: nobody would slow that down."""


class _Waiting(NamedTuple):
    """A delivery that waits for room: since when it is here, and when the broker sent it at the earliest."""

    delivery: Delivery
    replay: Replay | None
    since: float
    earliest: float


@dataclass(slots=True, eq=False)
class Incoming:
    """Deliveries that have arrived and that the client does not have yet.

    Attributes:
        arrived: what came from the broker, to be looked at with the next `advance`.
        unsent: what is held for the client, which has to read before it is handed more.
        max_message_size: how many bytes a response to the client may have; 0 = any number.
    """

    _state: CallState
    _pacer: PullPacer
    # In the order in which deliveries pass through them
    arrived: list[Delivery] = field(default_factory=list)
    _arrived_since: float = inf
    """When the first of them may have arrived."""
    _undecided: dict[bytes, tuple[Delivery, bool]] = field(default_factory=dict)
    """By reply subject; whether it is a replay."""
    _backlog: OrderedDict[bytes, _Waiting] = field(default_factory=OrderedDict)
    """Those without room, or behind an undecided one."""
    unsent: list[tuple[Delivery, InFlight]] = field(default_factory=list)
    max_message_size: int = 0
    _allowed: frozenset[str] = frozenset()
    """Subjects that the client may have."""

    @property
    def is_empty(self) -> bool:
        """Whether the client has everything that arrived."""
        return not (self.arrived or self._undecided or self._backlog or self.unsent)

    @property
    def is_behind(self) -> bool:
        """Whether deliveries wait for the client's room, or for the client to read."""
        return bool(self._backlog or self.unsent)

    @property
    def is_held_up(self) -> bool:
        """Whether what arrives would have to wait until something is decided about an earlier delivery."""
        return bool(self._undecided) and any(reply in self._undecided for reply in self._backlog)

    @property
    def is_deciding(self) -> bool:
        """Whether it is being decided about an event of the consumer, not of a replay."""
        return any(not is_replay for _, is_replay in self._undecided.values())

    # --- From the broker ----------------------------------------------------------------------------------

    def replayed(self, delivery: Delivery, replay: Replay, now: float) -> None:
        """Take an event that is delivered again though the consumer had given up on it."""
        if self._state.policy.is_beyond(delivery.attempt):
            self._give_up(delivery, replay)
        else:
            self._backlog[delivery.reply] = _Waiting(delivery, replay, now, -inf)

    def take_in(self, now: float) -> None:
        """Hold the deliveries that arrived; those that there is no room for wait: replays took it."""
        state = self._state
        while self._backlog and state.window.can_hold and next(iter(self._backlog)) not in self._undecided:
            _, waiting = self._backlog.popitem(last=False)
            if waiting.since + state.timeout > now:  # it is not with the broker again
                since = waiting.since
                if waiting.replay is None:
                    since = self._prolonged(waiting.delivery, since, now)
                self._hold(waiting.delivery, waiting.replay, since, waiting.earliest)
        if state.still_until < inf:
            self.arrived.clear()
        if self.arrived:
            self._arrived_since = min(self._arrived_since, state.pauses.arrived(now))
            if not state.doubts.counts_anew(consumer_sequence(self.arrived[-1].reply)):
                self._look_at_arrived(now)
        if not self.arrived:
            self._arrived_since = inf
            state.doubts.recency.taken_in()
        state.window.waiting = len(self._backlog)
        if self._undecided:  # some of these are in the backlog
            state.window.waiting = len(self._backlog.keys() | self._undecided.keys())

    def _look_at_arrived(self, now: float) -> None:
        state = self._state
        arrived, self.arrived = self.arrived, []
        since = self._arrived_since
        earliest = state.doubts.recency.earliest(self._pacer.last_heard)
        is_late = now - earliest >= state.window.lifetime
        self._pacer.arrived(arrived, now)
        state.window.forget_requested(len(arrived))
        is_plain = not (state.settled.doubted or state.dead or is_late)  # then first attempts pass
        for delivery in arrived:
            passes = (is_plain and delivery.attempt == 1) or self._passes(
                delivery, now, since, earliest, is_late=is_late
            )
            if passes and (self._backlog or not self._hold(delivery, None, since, earliest)):
                self._backlog[delivery.reply] = _Waiting(delivery, None, since, earliest)

    def _hold(self, delivery: Delivery, replay: Replay | None, since: float, earliest: float) -> bool:
        """Hand a delivery to the client soon, unless it is too large; false when there is no room."""
        state = self._state
        if self.max_message_size and message_size(delivery) > self.max_message_size:
            self._give_up_large(delivery, replay)
            return True
        held = state.window.admit(delivery.id, delivery.reply, delivery.attempt, since, replay)
        if held is None:
            return False
        held.earliest = earliest
        held.stored_ns = delivery.stored_ns
        if replay is None and (
            delivery.attempt == 1 or state.failures.is_first(delivery.id, delivery.reply, delivery.attempt)
        ):
            held.sure_until = earliest + state.window.lifetime
        if state.spans is not None:
            held.span = state.spans.deliver(delivery)
        self.unsent.append((delivery, held))
        return True

    # --- Deliveries that the client is not to have, or not yet ----------------------------------------------

    def _passes(
        self, delivery: Delivery, now: float, since: float, earliest: float, *, is_late: bool
    ) -> bool:
        """Whether the client is to have a delivery. If not, it is taken care of."""
        state, settled, is_again = self._state, self._state.settled, delivery.attempt > 1
        event = delivery.id, delivery.stored_ns
        is_forgotten = settled.doubted and settled.knows(*event, now)  # by the broker
        if is_forgotten or (is_again and settled.lately(*event)):
            state.effects.tells.append((delivery.reply, ACK))
            return False
        if is_late:
            is_old = state.unix_ns() - delivery.stored_ns >= state.timeout * 1e9  # as far as clocks agree
            # What is behind one that is late has to wait, and is not to lose its time meanwhile
            is_late = is_old or (self.is_held_up and not is_again)
        is_dead = state.dead.get(delivery.id) == delivery.stored_ns
        if is_again and not is_dead and state.policy.is_beyond(delivery.attempt):
            self._give_up(delivery, None)
        elif is_dead or is_late or (is_again and state.policy.dead_letters):
            self._undecided[delivery.reply] = delivery, False
            if not is_again:  # those that arrive later are not to overtake it
                self._backlog[delivery.reply] = _Waiting(delivery, None, since, earliest)
            state.effects.work.append(w.Verify(delivery, since, earliest, is_late))
        else:
            return True
        return False

    def _give_up(self, delivery: Delivery, replay: Replay | None) -> None:
        state = self._state
        attempts = state.policy.max_attempts or delivery.attempt - 1
        failure = state.failures.exhausted(delivery, replay, attempts)
        keep = state.policy.dead_letters or replay is not None
        self._begin_to_give_up(w.GiveUp(delivery, failure, keep))

    def _give_up_large(self, delivery: Delivery, replay: Replay | None) -> None:
        """Make a dead letter of an event that would end the call at the client."""
        reason = (
            f"its message of {message_size(delivery):,} bytes is larger than the client takes "
            f"(max_message_size {self.max_message_size:,})"
        )
        failure = self._state.failures.refused(delivery, replay, reason, EventTooLarge.reason)
        self._begin_to_give_up(w.GiveUp(delivery, failure, keep=True))

    def _begin_to_give_up(self, work: w.GiveUp) -> None:
        self._undecided[work.delivery.reply] = work.delivery, work.failure.replay_count > 0
        self._state.effects.work.append(work)

    def gave_up(self, delivery: Delivery, *, done: bool) -> None:
        """Take whether an event whose attempts are used up is taken care of; otherwise it comes again."""
        if not self._is_undecided(delivery):
            return
        if done:
            self._state.failures.settled(delivery.id, delivery.reply)
            self._state.effects.work.append(w.Terminate(delivery.reply))
        else:
            self._return(delivery, _NOT_KEPT_FOR)

    def verified(self, work: w.Verify, begun: float, now: float, *, has_ended: bool | None) -> None:
        """Take whether the event of a delivery has ended; None: that cannot be told now.

        It has where it is settled, or a crash came between its end and that. `begun` is when it was asked.
        """
        delivery = work.delivery
        if not self._is_undecided(delivery):
            return
        if has_ended is None and work.is_late:  # to return it might take it from somebody else
            self._drop(delivery)
        elif has_ended is None:
            self._return(delivery)
        elif has_ended or (work.is_late and self._state.settled.lately(delivery.id, delivery.stored_ns)):
            self._backlog.pop(delivery.reply, None)
            self._state.effects.work.append(w.Terminate(delivery.reply))
        else:
            self._pass_on(work, begun, now)

    def _pass_on(self, work: w.Verify, begun: float, now: float) -> None:
        """Let the client have a delivery, unless its time was over when it came, or while this slept."""
        state = self._state
        delivery = work.delivery
        is_over = max(begun - work.since, now - state.pauses.arrived(now)) >= state.timeout
        if is_over or state.still_until < inf:
            self._drop(delivery)
            return
        del self._undecided[delivery.reply]
        since = self._prolonged(delivery, work.since, now)
        # It was counted all the while, so there is room. A first attempt keeps its place.
        self._backlog[delivery.reply] = _Waiting(delivery, None, since, work.earliest)

    def _prolonged(self, delivery: Delivery, since: float, now: float) -> float:
        """Restart the time of a delivery that waited: the client has all of it. Return when it began."""
        if now - since <= self._state.timeout / 10:
            return since
        self._state.effects.tells.append((delivery.reply, PROGRESS))
        return now

    def _is_undecided(self, delivery: Delivery) -> bool:
        """Whether a delivery that work was done for still counts: the consumer may have been moved."""
        undecided = self._undecided.get(delivery.reply)
        return undecided is not None and undecided[0] is delivery

    def _drop(self, delivery: Delivery) -> None:
        del self._undecided[delivery.reply]
        self._backlog.pop(delivery.reply, None)

    def _return(self, delivery: Delivery, least: timedelta = timedelta()) -> None:
        state = self._state
        self._drop(delivery)
        delay_ns = max(nanoseconds(least), state.policy.backoff_ns(delivery.attempt, state.rand()))
        state.effects.tells.append((delivery.reply, nak(delay_ns)))

    def decided(self, reply: bytes) -> None:
        """Note that an event will not be redelivered."""
        self._undecided.pop(reply, None)

    # --- To the client ------------------------------------------------------------------------------------

    def deliverable(self, queued: int, now: float, most: int = sys.maxsize) -> list[Delivery]:
        """Return what the client is handed now, as long as it reads; it counts as handed over.

        `queued` bytes were sent, and the client has not read them. It is at most `most` deliveries; where
        it is as many, there may be more.
        """
        state, settled, held_by = self._state, self._state.settled, self._state.window.held
        handed: list[Delivery] = []
        first: list[int] = []  # when those were stored that are delivered for the first time
        taken = 0
        for delivery, held in self.unsent:
            if queued > STALLED or state.is_ending or len(handed) == most:
                break
            taken += 1
            if held_by.get(delivery.id) is not held or not held.is_valid(now):
                continue
            is_doubtful = (delivery.attempt > 1 or settled.doubted) and held.replay is None
            if is_doubtful and settled.lately(delivery.id, delivery.stored_ns):  # after this had come
                state.effects.tells.append((delivery.reply, ACK))
                state.window.remove(delivery.id, held)
                continue
            if state.authorizer is not None and not self._is_allowed(state.authorizer, delivery.subject):
                break
            handed.append(delivery)
            if held.span is not None:
                held.span.end()
            if delivery.attempt > 1:
                state.counts.redelivered += 1
            elif held.replay is None:
                first.append(delivery.stored_ns)
            queued += len(delivery.data)
        del self.unsent[:taken]
        if handed:
            self._pacer.delivered(handed)
            self._count(handed, first)
        return handed

    def _count(self, handed: Sequence[Delivery], first: Sequence[int]) -> None:
        """Count deliveries; `first` is when those events were stored that the consumer never had before."""
        state = self._state
        state.counts.delivered += len(handed)
        state.latency.delivery.observe_since(first, state.unix_ns())
        if state.authorizer is not None:
            state.authorizer.delivered(len(handed))

    def check(self, found: ConsumerSnapshot | None = None) -> None:
        """Raise `PermissionDenied` unless the client may have what the consumer chooses."""
        state = self._state
        if state.authorizer is not None:
            found = found or state.found
            self._allowed = frozenset()
            state.authorizer.consume(
                *state.consumer, durable=found.durable, owner=found.owner, subjects=found.subjects
            )
            if self.max_message_size:
                state.authorizer.reject(*state.consumer, found.owner)

    def _is_allowed(self, authorizer: AuthorizedCall, subject: str) -> bool:
        """Whether the client may have an event of this subject; otherwise the call is ended.

        The consumer may have been changed since it was seen last, and what it chose earlier may be replayed.
        """
        if subject not in self._allowed:
            try:
                authorizer.receive(self._state.consumer.stream, subject)
            except WindshiftError as error:
                self._state.end(error)
                return False
            known = self._allowed if len(self._allowed) < _REMEMBERED else ()
            self._allowed = frozenset((*known, subject))
        return True

    # --- Moves and the end --------------------------------------------------------------------------------

    def hold_still(self) -> None:
        """Forget everything but replays: the consumer is about to be moved."""
        self._forget()
        self.arrived.clear()

    def begin_run(self, highest: int) -> bool:
        """Forget everything but replays, and what has come since the consumer counts its deliveries anew.

        `highest` came before, by the old count. Return whether anything has come since.
        """
        self._forget()
        self.arrived = _since_reset(self.arrived, highest)
        self._undecided = {reply: each for reply, each in self._undecided.items() if each[1]}
        return bool(self.arrived)

    def _forget(self) -> None:
        """Forget the deliveries that the client holds, and those that wait for it, but replays."""
        self._state.window.forget()
        replays = [(reply, each) for reply, each in self._backlog.items() if each.replay is not None]
        self._backlog = OrderedDict(replays)
        self.unsent = [each for each in self.unsent if each[1].replay is not None]

    def replies(self, now: float) -> list[bytes]:
        """Return the reply subjects of all deliveries that are not held for the client, and not over."""
        began = now - self._state.timeout
        waiting = [reply for reply, each in self._backlog.items() if each.since > began]
        return [
            *(delivery.reply for delivery in self.arrived),
            *(reply for reply in waiting if reply not in self._undecided),
            *self._undecided,
        ]

    def coming(self) -> dict[StreamSeq, int]:
        """Return the deliveries that may reach the client, with their attempts."""
        replies = {*self._undecided, *self._backlog, *(delivery.reply for delivery in self.arrived)}
        named = [name_of(reply) for reply in replies if reply.startswith(b"$JS.ACK.")]  # others are replays
        return {each.seq: each.attempt for each in named}


def _since_reset(arrived: Sequence[Delivery], highest: int) -> list[Delivery]:
    """Return the deliveries that came after the consumer began to count them anew; `highest` came before."""
    for position, delivery in enumerate(arrived):
        sequence = consumer_sequence(delivery.reply)
        if sequence <= highest:
            return list(arrived[position:])
        highest = sequence
    return []
