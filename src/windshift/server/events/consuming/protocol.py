"""One consume call as a protocol without I/O: what happens goes in, what to do comes out.

In: the client's commands, the broker's deliveries, statuses and answers to acknowledgements, the results of
work, and the time. Out: `Effects`, deliveries and confirmations for the client, and pull requests. The shell
around it (`call`) does these things and reports back; it decides nothing.

What is known is in `CallState`, which the parts of a call share: `incoming` has the deliveries on their way
to the client, `settling` the client's acknowledgements, `resuming` the deliveries that go from call to call.
Here are the rest: when to pull, the consumer and its moves, the connection, the time, and the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from math import inf
from typing import Final, NamedTuple

from windshift.nats.jetstream.pulling import ACK, NAK, Notice, PullEnded, nak, next_subject
from windshift.server.broker.room import PullRoom
from windshift.server.domain.errors import (
    AlreadySubscribed,
    ConsumerNotFound,
    ForbiddenByBroker,
    ShuttingDown,
    Unauthenticated,
    WindshiftError,
)
from windshift.server.events.consuming import doubt
from windshift.server.events.consuming import work as w
from windshift.server.events.consuming.commands import (
    Ack,
    Command,
    Limit,
    Ping,
    Reject,
    Subscribe,
    check_limit,
)
from windshift.server.events.consuming.consumer_state import ConsumerSnapshot, largest_pull, raised_limit
from windshift.server.events.consuming.doubt import Doubt, Question
from windshift.server.events.consuming.flow import Pull, PullPacer
from windshift.server.events.consuming.incoming import Incoming
from windshift.server.events.consuming.interfaces import MOST_UNSENT, STALLED, ConsumeOptions
from windshift.server.events.consuming.pending_acks import MOST_UNCONFIRMED, CommandKind
from windshift.server.events.consuming.redelivery import Settled
from windshift.server.events.consuming.resuming import Resuming
from windshift.server.events.consuming.settling import Settling
from windshift.server.events.consuming.state import CallState
from windshift.server.events.model import StreamSeq
from windshift.server.events.runs import Run
from windshift.server.events.token_key import key_of

LIMITED_WITHIN: Final = 2.0
"""Seconds that commands wait, at most, until another size of the window applies."""


class Released(NamedTuple):
    """Reply subjects of deliveries that a call lets go at its end: now, or when they have lingered."""

    now: list[bytes]
    later: list[bytes]


_NOT: Final = timedelta()


class ConsumeProtocol:
    """A client attached to a consumer. Without a `room` that calls share, this one has it for itself.

    Attributes:
        state: what is known in the call, and what is to be done.
        incoming: deliveries on their way to the client.
        settling: the client's acknowledgements.
        resuming: deliveries that go from call to call.
        linger: how long the client's deliveries are kept for it when the call is cut off.
        pacer: counts what the broker has of this call's pull requests.
    """

    __slots__ = (
        "_drain_at",
        "_is_stalled",
        "_limited_until",
        "_stall_timeout",
        "_wants_drain",
        "_wants_inbox",
        "incoming",
        "linger",
        "pacer",
        "resuming",
        "settling",
        "state",
    )

    def __init__(self, state: CallState, options: ConsumeOptions, room: PullRoom | None = None) -> None:
        self.state = state
        largest = largest_pull(state.found.info.config)
        self.pacer = PullPacer(state.window, options.pull.silence, room, largest)
        self.incoming = Incoming(state, self.pacer)
        self.settling = Settling(state, options.confirm_timeout.total_seconds())
        self.resuming = Resuming(state, self.settling.settlements, self.incoming)
        self.linger = _NOT
        self._stall_timeout = options.stall_timeout
        self._wants_inbox, self._wants_drain, self._is_stalled = True, False, False
        self._drain_at = inf  # what was asked for is taken back from a client that does not read
        self._limited_until = inf  # the window has another size, and perhaps more is on its way

    # --- The client ---------------------------------------------------------------------------------------

    def command(self, command: Command, now: float) -> None:
        """Carry out a command; raise what is wrong with it."""
        match command:
            case Ack():
                self.settling.acknowledge(CommandKind.ACK, command.ids, now)
            case Ping():
                self.settling.acknowledge(CommandKind.PING, command.ids, now)
            case Reject():
                self.settling.reject(command, now)
            case Limit():
                self._limit(check_limit(command), now)
            case Subscribe():
                raise AlreadySubscribed

    def _limit(self, size: int, now: float) -> None:
        """Change the size of the window, and take back what was asked for beyond it."""
        state = self.state
        if size > state.window.largest:
            state.doubt()  # the consumer may refuse to be asked for so many
        self._wants_drain |= state.window.resize(size)
        self._limited_until = now + LIMITED_WITHIN

    @property
    def is_over(self) -> bool:
        """Whether the call has come to its end."""
        return self.state.is_ending and self.settling.settlements.confirmed

    @property
    def holds_back(self) -> bool:
        """Whether no more commands should be read now.

        Too many wait for the broker, or what they are about is not certain yet: the client goes on with
        deliveries that others may object to, or has another window since the last turn, or has not got all of
        what was on its way when that was made smaller.
        """
        is_limited = self._limited_until < inf
        is_saturated = self.settling.settlements.load >= MOST_UNCONFIRMED
        return is_saturated or is_limited or bool(self.resuming.taken_over.pending)

    def read_so_far(self, unread: int, now: float) -> bool:
        """Note how much the client had left unread before; return whether it is to be handed more soon."""
        if self._limited_until < inf and (now >= self._limited_until or self._has_handed_over):
            self._limited_until = inf
        if unread > STALLED and not self._is_stalled:
            self._is_stalled = True
            self.state.latency.stalls += 1
            self._drain_at = now + self._stall_timeout.total_seconds()
            self.pacer.stalled()
            self.state.effects.work.append(w.AwaitReader())
        return bool(self.incoming.unsent) and not self._is_stalled

    @property
    def _has_handed_over(self) -> bool:
        """Whether the client has everything that arrived, and nothing is on its way beyond its window."""
        return not self._wants_drain and self.incoming.is_empty

    def reader_ready(self) -> None:
        """Note that the client reads again."""
        self._is_stalled = False
        self._drain_at = inf

    @property
    def has_room_for_replays(self) -> bool:
        """Whether a replayed event would reach the client now."""
        return self.state.window.has_room and not (self._is_stalled or self.incoming.is_behind)

    # --- Time ---------------------------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """Begin."""
        state = self.state
        state.doubts.asked_at = now
        state.settled.begin(now, state.timeout)
        if self.linger:  # what lingers of earlier calls takes places of the consumer
            self.settling.delayed.add(self._linger_ns, now)

    def advance(self, now: float) -> None:
        """Let time pass, and take in what arrived."""
        state = self.state
        state.now = now
        if self.settling.settlements.due <= now:
            self.settling.tick(now)
        if state.still_until <= now:
            state.still_until = inf  # nobody has moved the consumer
            state.doubt()
        if self.pacer.due <= now:
            is_asked = state.window.requested > 0  # then it should have shown a sign of life
            if self.pacer.tick(now):
                if is_asked:
                    self._doubt(doubt.UNHEARD, now)
                else:
                    state.doubt()
                    state.settled.wait(now, state.timeout)
        state.doubts.forget_vouched(now)
        self._wants_drain |= self.pacer.stuck(now)
        if self._drain_at <= now:
            self._drain_at = inf
            self._wants_drain |= state.window.requested > 0
        if self.resuming.taken_over.pending:
            self.resuming.advance(now)
        if not state.is_ending or state.doubts.withheld:
            self._ask(now)
        if state.is_ending:
            self._limited_until = self.settling.delayed.due = inf
        else:
            self.incoming.take_in(now)

    def _ask(self, now: float) -> None:
        state = self.state
        if self.settling.delayed.due <= now and self.settling.delayed.look(now):
            state.doubt()
        doubts = state.doubts
        if self.incoming.arrived and state.pauses.has_missed(doubts.asked_at, now):
            doubts.add(doubt.MISSED, now)  # what has come may be of another run, in which nothing has ended
        if doubts.consumer is Question.OPEN:
            doubts.consumer, doubts.asked_at = Question.ASKED, now
            state.effects.work.append(w.LookUp())
        if doubts.dead_letters is Question.OPEN:
            doubts.dead_letters, doubts.asked_at = Question.ASKED, now
            state.effects.work.append(w.Learn())

    @property
    def due(self) -> float:
        """When `advance` is to be called at the latest."""
        return min(
            self.settling.settlements.due,
            self.pacer.due,
            self._drain_at,
            self.settling.delayed.due,
            self.state.still_until,
            self._limited_until,
            self.resuming.taken_over.due,
        )

    # --- Pulling ------------------------------------------------------------------------------------------

    def takes_inbox(self, now: float) -> bool:
        """Whether a fresh inbox is to be opened now, for the requests from now on."""
        state = self.state
        knows = state.doubts.dead_letters is Question.ANSWERED and state.still_until == inf
        if not (self._wants_inbox and knows) or state.is_ending or self._is_stalled:
            return False
        if self.incoming.is_held_up:  # what came meanwhile would lose time
            return False
        if self.incoming.arrived:  # what was asked for earlier would count as asked for from now on
            return False
        self._wants_inbox = False
        self.pacer.lose()
        state.doubts.opened(now)
        return True

    def takes_drain(self) -> bool:
        """Whether the inbox is to be closed now, with what is on its way; then another one is opened."""
        if not self._wants_drain:
            return False
        self._wants_drain, self._wants_inbox = False, True
        self.pacer.lose()
        return True

    def next_pull(self, now: float) -> Pull | None:
        """Return the pull request to send now, if any; it counts as sent."""
        state = self.state
        pacer = self.pacer
        is_behind = pacer.bytes_of(len(self.incoming.unsent)) > MOST_UNSENT
        if state.is_ending or is_behind or self._is_stalled or self._wants_inbox:
            pacer.pause()
            return None
        waits, is_first = pacer.wants_room, not state.window.requested
        pull = pacer.next(now, busy=self.settling.settlements.busy)
        if pacer.wants_room and not waits:
            state.effects.work.append(w.AwaitRoom())
        if pull is not None and is_first:
            state.doubts.recency.asked(now)
        return pull

    def pull_status(self, status: PullEnded | Notice, now: float) -> None:
        """Take what the broker says of pull requests."""
        state = self.state
        self.pacer.heard(now)
        match status:
            case PullEnded():
                self.pacer.ended(status)
            case Notice.ALIVE:
                pass
            case Notice.LOST:
                self.pacer.fruitless()
                self._doubt(doubt.ANOTHER_LEADER, now)
            case Notice.FORBIDDEN:
                state.end(ForbiddenByBroker(next_subject(*state.consumer)))
            case _:
                self.pacer.refused(now)
                state.doubts.refused(now)
                if status is not Notice.REFUSED:
                    state.doubts.is_deleted |= status is Notice.DELETED
                    self._doubt(doubt.UNHEARD, now)

    # --- The connection -----------------------------------------------------------------------------------

    def lost(self, now: float) -> None:
        """Note that the connection ended: the broker may forget what was settled just now."""
        self._doubt(Doubt.DELIVERIES, now)
        self.pacer.lose()
        self.settling.lose()

    def connected(self, now: float, *, is_same: bool = False) -> None:
        """Note that there is another connection: pull anew, and send again what may be.

        `is_same` says that it is to the process that the one before was to: that has forgotten nothing.
        """
        state = self.state
        is_known = is_same or state.found.info.is_replicated
        self._doubt(doubt.ANOTHER_CONNECTION if is_known else doubt.ANOTHER_PROCESS, now)
        state.settled.recover(now, state.timeout)
        self.settling.send_again()

    def replaced(self, now: float) -> None:
        """Note that another connection took over: ask by way of it, once what is on its way has arrived."""
        self._doubt(Doubt.DELIVERIES, now)
        self._wants_drain = True

    def elected(self, now: float) -> None:
        """Note that the consumer has another leader, which may deliver again what is held.

        It takes events that were stored long ago for delivered then.
        """
        self._doubt(doubt.ANOTHER_LEADER if self.state.found.info.is_replicated else doubt.RESTARTED, now)

    def _doubt(self, what: Doubt, now: float) -> None:
        """Have things in doubt, and do what cannot wait until that is cleared up."""
        state = self.state
        state.doubts.add(what, now)
        if Doubt.DELIVERIES in what:
            state.attempts.trusted_since = now
        if Doubt.SETTLEMENTS in what:
            self.settling.lose()
            state.settled.recover(now, state.timeout)
            if state.policy.dead_letters:
                state.doubts.add(Doubt.DEAD_LETTERS, now)
        self._wants_inbox |= Doubt.REQUESTS in what

    # --- The consumer -------------------------------------------------------------------------------------

    def consumer_seen(self, found: ConsumerSnapshot) -> None:
        """Follow what was changed; raise why the call is to end."""
        state = self.state
        doubts = state.doubts
        doubts.consumer = doubts.consumer.answered()
        if found.info.created != state.found.info.created:
            raise ConsumerNotFound(state.consumer.name)
        self.incoming.check(found)
        if found.policy.dead_letters and not state.policy.dead_letters:
            doubts.add(Doubt.DEAD_LETTERS, state.now)
        is_shorter = found.timeout < state.found.timeout
        if is_shorter:  # what is held, and on its way, may be delivered again sooner
            doubts.trusted_since = inf
        # The broker does not serve requests that waited through a pause, but those that came later
        self._wants_drain |= is_shorter or _pause(state.found) != _pause(found)
        state.found = found
        if self.resuming.tokens is not None:
            self.resuming.tokens.use(key_of(found.info.config))
        state.window.set_timeout(state.timeout)
        limit = raised_limit(found.info)
        if limit is not None:
            state.effects.work.append(w.RaiseLimit(found.info.config | {"max_ack_pending": limit}))
        if doubts.is_deleted:  # and made again since
            raise ConsumerNotFound(state.consumer.name)
        withheld, lost = doubts.seen(state.now)
        state.effects.sends += (pending for pending in withheld if not pending.answered)
        state.effects.tells += ((reply, ACK) for reply in lost)

    def learned(self, dead: Mapping[StreamSeq, int] | None) -> None:
        """Take which events are dead letters that the broker may deliver nevertheless; None: not known.

        A dead letter that is older than the consumer is of an earlier one with its name, and counts for
        nothing.
        """
        state = self.state
        state.doubts.dead_letters = state.doubts.dead_letters.answered()
        if dead is None:
            state.doubts.add(Doubt.DEAD_LETTERS, state.now)
        else:
            state.dead = dict(dead)

    # --- Moves of the consumer ----------------------------------------------------------------------------

    def hold_still(self, run: Run, until: float) -> None:
        """Drop what the client holds, and take nothing before the consumer is in this run.

        Somebody is about to move it. If that is not done by `until`, go on as before: what was held comes
        again after its timeout.
        """
        state = self.state
        if not run.follows(state.run) or state.still_until == until:
            return
        state.still_until = until
        self.incoming.hold_still()
        self._wants_drain = True

    @property
    def is_busy(self) -> bool:
        """Whether something about an event of the consumer is under way to the broker."""
        return self.incoming.is_deciding or bool(self.settling.settlements.unanswered())

    def begin_run(self, run: Run, settled: Settled, now: float) -> None:
        """Go on with a consumer that was moved: nothing that was known of its events counts any more."""
        state = self.state
        has_arrived = self.incoming.begin_run(state.doubts.highest)
        self.settling.refuse_unanswered(now)
        state.doubts.forget()
        self.resuming.taken_over.forget()
        state.run = run
        state.settled = settled
        settled.begin(now, state.timeout)
        state.failures.begin_run((state.consumer, run.name))
        state.dead.clear()
        self._doubt(Doubt.DELIVERIES, now)
        state.still_until = inf
        self._wants_inbox = self._wants_inbox or self._wants_drain or not has_arrived
        self._wants_drain = False
        if state.policy.dead_letters:
            state.doubts.add(Doubt.DEAD_LETTERS, now)

    # --- The end ------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Ask for no more work: the call is over, however it ended."""
        state = self.state
        if state.is_ending and not _is_cut(state.failure):
            self.linger = _NOT  # its client does not come back
        state.is_ending = self.settling.is_closed = True

    @property
    def lingering(self) -> bytes:
        """What has a delivery made again after it has lingered."""
        return nak(self._linger_ns)

    @property
    def _linger_ns(self) -> int:
        return self.linger // timedelta(microseconds=1) * 1000

    def close(self, now: float) -> Released:
        """Return what is released. What the client was handed lingers if the call was cut off.

        That whose time is over may be with somebody else.
        """
        state = self.state
        state.now = now
        self.pacer.leave()
        state.window.expire(now)
        taken_over = self.resuming.taken_over  # whose time begins when the broker answers
        released = [
            (seq, held)
            for seq, held in self.settling.settlements.release()
            if (held.deadline > now or taken_over.has(seq, held)) and not state.is_forgotten(held)
        ]
        for seq, held in released:
            state.failures.failed(seq, held, now)
        later: list[bytes] = []
        if self.lingering != NAK:
            unsent = {delivery.reply for delivery, _ in self.incoming.unsent}
            later = [held.reply for _, held in released if held.replay is None and held.reply not in unsent]
        lingering = set(later)
        state.counts.released += len(released) - len(later)
        state.counts.lingered += len(later)
        at_once = [
            *self.incoming.replies(now),
            *(held.reply for _, held in released if held.reply not in lingering),
        ]
        return Released(at_once, later)


def _is_cut(failure: Exception | None) -> bool:
    """Whether a client whose call ended with this will make another one, and go on."""
    if isinstance(failure, WindshiftError):
        return isinstance(failure, (ShuttingDown, Unauthenticated))
    return failure is not None


def _pause(found: ConsumerSnapshot) -> object:
    """Return what tells one pause of a consumer from another."""
    return found.info.config.get("pause_until")
