"""Deliveries of earlier calls that a client goes on with in this one, and those that others take from it.

No I/O. What servers tell each other of that is in `peers`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final

from windshift.nats.jetstream.pulling import ACK, PROGRESS
from windshift.server.events.consuming.flow import InFlight
from windshift.server.events.consuming.incoming import Incoming
from windshift.server.events.consuming.pending_acks import PendingAck, Settlements
from windshift.server.events.consuming.state import CallState
from windshift.server.events.consuming.tokens import Resumed, Tokens
from windshift.server.events.deliveries import Delivery, DeliveryName, name_of, stored_at
from windshift.server.events.model import StreamSeq

OBJECTED_WITHIN: Final = 0.1
"""Seconds that objections may take before a client's commands are carried out. There is no hurry: its
deliveries are prolonged."""
CERTAIN_AFTER: Final = 1.0
"""Seconds that objections may take before a client may give up on an event that it went on with."""


@dataclass(slots=True, eq=False)
class TakeOver:
    """What a call has taken over from earlier ones; without arguments, nothing.

    Attributes:
        number: of the call as one that takes over; 0 = it does not.
        since: when it does, in the loop's time.
        due: when objections have come, as a rule; inf once they have.
        held: what it took over, by event.
        names: what it took over, to be told to other calls.
        pending: the pings of what it took over; none once all are answered and nobody has objected. Until
            then the client's commands wait.
    """

    number: int = 0
    since: float = -inf
    due: float = inf
    held: dict[StreamSeq, InFlight] = field(default_factory=dict)
    names: list[DeliveryName] = field(default_factory=list)
    pending: list[PendingAck] = field(default_factory=list)

    def add(self, held: InFlight, ping: PendingAck) -> None:
        """Note a delivery, and the ping that was sent for it."""
        self.held[ping.seq] = held
        self.pending.append(ping)
        self.names.append(name_of(held.reply))

    def has(self, seq: StreamSeq, held: InFlight | None) -> bool:
        """Whether what the call holds of an event was taken over."""
        return held is not None and self.held.get(seq) is held

    def is_later(self, number: int, now: float) -> bool:
        """Whether the call goes before another that wants the same deliveries, as far as that is open."""
        return self.number > number and now < self.certain_at

    @property
    def certain_at(self) -> float:
        """When nobody will object any more."""
        return self.since + CERTAIN_AFTER

    def advance(self, now: float) -> None:
        """Have the client settle what it goes on with, if nobody has objected and the broker has answered."""
        if now >= self.due:
            self.due = inf
        if self.due == inf and all(ping.answered for ping in self.pending):
            self.pending.clear()

    def forget(self) -> None:
        """Forget the deliveries: the consumer was moved."""
        self.held.clear()


def new_number() -> int:
    """Return a number for a call that takes deliveries over. Later ones are higher, if clocks agree."""
    return time.time_ns() >> 16 << 16 | secrets.randbits(16)


_NOTHING: Final = TakeOver()
"""What a call has taken over that has taken over nothing."""


class Resuming:
    """The deliveries that go from call to call.

    Attributes:
        tokens: writes tokens of what is delivered; None if the client wants none.
        taken_over: deliveries of earlier calls.
    """

    __slots__ = ("_incoming", "_settlements", "_state", "taken_over", "tokens")

    def __init__(self, state: CallState, settlements: Settlements, incoming: Incoming) -> None:
        self._state = state
        self._settlements = settlements
        self._incoming = incoming
        self.tokens: Tokens | None = None
        self.taken_over = _NOTHING

    def token_of(self, delivery: Delivery) -> bytes:
        """Return the token of a delivery that the client is handed; empty = it has none."""
        held = self._state.window.get(delivery.id)
        if self.tokens is None or held is None or held.replay is not None:
            return b""
        return self.tokens.write(delivery.reply)

    # --- Taking over --------------------------------------------------------------------------------------

    def resume(self, resumed: Sequence[Resumed], number: int, now: float) -> None:
        """Go on with deliveries of earlier calls, as far as they are not known to have ended.

        Each is held for as long as a ping of it is not answered, so that its time begins anew.
        """
        self.taken_over = TakeOver(number, now, due=now + OBJECTED_WITHIN)
        for each in sorted(resumed, key=lambda each: -each.attempt):
            if self._state.window.get(each.seq) is None and not self._has_ended(each, now):
                self._take_over(each, now)
        if not self.taken_over.pending:
            self.taken_over.due = inf  # nobody can object

    def _has_ended(self, each: Resumed, now: float) -> bool:
        state, stored_ns = self._state, stored_at(each.reply)
        if state.settled.doubted and state.settled.knows(each.seq, stored_ns, now):
            state.effects.tells.append((each.reply, ACK))  # the broker has forgotten that it is settled
        return (
            state.settled.lately(each.seq, stored_ns)
            or each.seq <= state.found.info.settled_to
            or state.policy.is_beyond(each.attempt)
        )

    def _take_over(self, each: Resumed, now: float) -> None:
        state = self._state
        age = max(0.0, (state.unix_ns() - each.made_ns) / 1e9)
        held = state.window.admit(each.seq, each.reply, each.attempt, now - age)
        if held is None:
            return
        is_remembered = each.is_same_broker or state.found.info.is_replicated
        held.earliest = now if is_remembered else -inf  # see `CallState.is_forgotten`
        held.checked = -inf  # it may have been given up on
        held.stored_ns = stored_at(each.reply)
        held.deadline = now  # unless the broker answers
        pending = self._settlements.prolong(each.seq, held, now)
        state.effects.sends.append(pending)
        self.taken_over.add(held, pending)
        state.counts.resumed += 1

    def advance(self, now: float) -> None:
        """Let the client settle what it goes on with, once that is certain enough.

        All of that is prolonged once more: an earlier call may have given it back before it heard of this
        one, and that may have reached the broker last.
        """
        taken_over, window = self.taken_over, self._state.window
        taken_over.advance(now)
        if not taken_over.pending:
            ours = (held for seq, held in taken_over.held.items() if window.get(seq) is held)
            self._state.effects.tells.extend((held.reply, PROGRESS) for held in ours)

    def objected(self, number: int, seqs: Iterable[StreamSeq]) -> None:
        """Let deliveries go that this call was not to take over."""
        if number != self.taken_over.number:
            return
        for seq in seqs:
            held = self._state.window.get(seq)
            if held is not None and self.taken_over.has(seq, held):
                self._state.window.remove(seq, held)

    def certain_at(self, seq: StreamSeq) -> float:
        """Return from when on nobody will object any more to this call's having an event."""
        is_taken_over = self.taken_over.has(seq, self._state.window.get(seq))
        return self.taken_over.certain_at if is_taken_over else -inf

    # --- Letting go ---------------------------------------------------------------------------------------

    def taken(self, number: int, deliveries: Iterable[DeliveryName], now: float) -> list[StreamSeq]:
        """Let deliveries go that another call takes over; return the events that it is not to have.

        Of two calls that want a delivery at the same time the later one gets it.
        """
        if number == self.taken_over.number:
            return []
        is_later, held = self.taken_over.is_later(number, now), self._state.window.held
        ours = [each for each in deliveries if each.seq in held]
        kept = [each.seq for each in ours if not self._lets_go(each, is_later=is_later)]
        if not self._incoming.is_empty:
            coming = self._incoming.coming()
            kept += (each.seq for each in deliveries if coming.get(each.seq, 0) > each.attempt)
        return kept

    def _lets_go(self, delivery: DeliveryName, *, is_later: bool) -> bool:
        """Let a delivery go if this call has it; false if somebody else is not to have it."""
        held = self._state.window.get(delivery.seq)
        if held is None or held.replay is not None:
            return True
        ours = name_of(held.reply)
        if ours.attempt > delivery.attempt or (ours == delivery and (held.settling or is_later)):
            return False
        if ours == delivery or ours.attempt < delivery.attempt:
            self._state.window.remove(delivery.seq, held)
        return True
