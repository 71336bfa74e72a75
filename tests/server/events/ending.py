"""A broker, a consumer and servers in one thread, whose messages move only when somebody says so.

The servers are real `ConsumeProtocol`s. The broker behaves as nats-server does where it matters for the ends
of events: it takes any acknowledgement of any attempt, and answers all alike; a stale negative one has an
event delivered again at once; what one connection carries arrives in order, however late. A server that is
asleep reads nothing, and its clock goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from math import inf
from typing import Any

from windshift.nats import NoReply
from windshift.nats.jetstream.api import ConsumerState
from windshift.nats.jetstream.pulling import ACK, PROGRESS, TERMINATE, PullOptions, split_ack_subject
from windshift.nats.times import Time
from windshift.server.events.consuming import protocol as p
from windshift.server.events.consuming import work as w
from windshift.server.events.consuming.commands import Ack, Action, Command, Ping, Reject
from windshift.server.events.consuming.consumer_state import ConsumerSnapshot
from windshift.server.events.consuming.interfaces import ConsumeOptions
from windshift.server.events.consuming.pauses import INTERVAL, PauseDetector
from windshift.server.events.consuming.pending_acks import CommandKind, Group, grouped
from windshift.server.events.consuming.redelivery import FailedAttempts, Settled
from windshift.server.events.consuming.state import CallState
from windshift.server.events.counts import Counts
from windshift.server.events.deliveries import Delivery, stored_at
from windshift.server.events.latencies import ConsumerLatency
from windshift.server.events.model import ConsumerKey, StreamSeq
from windshift.server.events.retries import RetryPolicy

TIMEOUT = 10.0
WINDOW = 3
_OPTIONS = ConsumeOptions(pull=PullOptions(heartbeat=10_000.0))
_LETTER = b"a dead letter"
_DRAINED_WITHIN = 3.0

Move = Callable[[], None]


@dataclass(slots=True)
class World:
    """All of it.

    Attributes:
        now: the time, everywhere.
        ends: how each event ended: as a dead letter, or by whose claim.
        confirmed: events whose ack or drop was confirmed, with what it was.
        said: what happened, to be told when something is wrong.
    """

    policy: RetryPolicy
    events: int
    now: float = 0.0
    is_frozen: bool = False
    ends: dict[int, bytes] = field(default_factory=dict)
    confirmed: dict[int, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    servers: list[Server] = field(default_factory=list)
    published: int = 0
    delivered_to: int = 0
    pending: dict[int, float] = field(default_factory=dict)
    redeliver: list[int] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=dict)
    settled: set[int] = field(default_factory=set)
    pulls: deque[list[Any]] = field(default_factory=deque)
    sequence: int = 0

    def say(self, text: str) -> None:
        """Put down what happened."""
        self.said.append(f"{self.now:7.2f} {text}")

    def start(self, servers: int) -> None:
        """Let servers subscribe."""
        self.servers = [Server(self, number) for number in range(servers)]
        for server in self.servers:
            server.turn()

    @property
    def snapshot(self) -> ConsumerSnapshot:
        """The consumer."""
        state = ConsumerState({}, "1970-01-01T00:00:00Z", 0, 0, 0, self.delivered_to, is_replicated=True)
        return ConsumerSnapshot(timedelta(seconds=TIMEOUT), self.policy, state)

    # --- What may happen ------------------------------------------------------------------------------------

    def publish(self) -> None:
        """Store an event."""
        if self.published < self.events:
            self.published += 1
            self.deliver()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, everywhere."""
        self.now += seconds
        self.expire()
        for server in self.servers:
            server.lives_on()

    def freeze(self) -> None:
        """Stop the broker, or let it go on: its timers and what it was sent race then."""
        self.is_frozen = not self.is_frozen

    def close(self, server: Server, inbox: int) -> None:
        """Forget what was asked for by way of an inbox, and say so."""
        self.pulls = deque(each for each in self.pulls if each[:2] != [server, inbox])
        server.down.append(partial(server.drained, inbox))

    def elect(self) -> None:
        """Give the consumer another leader, which takes all that is held for overdue.

        It knows all that the one before has answered, but not the acknowledgements that asked for no answer
        and came to that one last.
        """
        if self.is_frozen:
            return
        self.say("another leader")
        self.pulls.clear()
        self.redeliver += [seq for seq in sorted(self.pending) if seq not in self.redeliver]
        for server in self.servers:
            server.lose_acks()
            server.down.append(server.elected)
        self.deliver()

    # --- The broker -----------------------------------------------------------------------------------------

    def expire(self) -> None:
        """Have delivered again what was neither settled nor prolonged in time."""
        if self.is_frozen:
            return
        for seq, since in self.pending.items():
            if self.now - since >= TIMEOUT and seq not in self.redeliver:
                self.redeliver.append(seq)
                self.pending[seq] = self.now
        self.deliver()

    def deliver(self) -> None:
        """Hand over what was asked for."""
        while self.pulls and (self.redeliver or self.delivered_to < self.published):
            if self.redeliver:
                seq = self.redeliver.pop(0)
            else:
                self.delivered_to += 1
                seq = self.delivered_to
            request = self.pulls[0]
            server, inbox, _ = request
            request[2] -= 1
            if not request[2]:
                self.pulls.popleft()
            self.counts[seq] = attempt = self.counts.get(seq, 0) + 1
            self.pending[seq] = self.now
            self.sequence += 1
            left = len(self.redeliver) + self.published - self.delivered_to
            reply = b"$JS.ACK.S.c.%d.%d.%d.0.%d" % (attempt, seq, self.sequence, left)
            self.say(f"broker: delivers {seq}, attempt {attempt}, to {server.number}")
            server.down.append(partial(server.arrived, seq, attempt, reply, inbox))

    def settle(self, reply: bytes, payload: bytes, answer: Move | None, server: Server) -> None:
        """Take an acknowledgement, whichever attempt it is of."""
        seq = int(split_ack_subject(reply)[1])
        self.say(f"broker: takes {payload.decode()} of {seq} from {server.number}")
        if payload in (ACK, TERMINATE):
            self.pending.pop(seq, None)
            self.settled.add(seq)
            self.redeliver = [each for each in self.redeliver if each != seq]
        elif seq in self.pending:
            if payload == PROGRESS:
                self.pending[seq] = self.now
            elif seq not in self.redeliver:
                self.redeliver.append(seq)
        if answer is not None:
            server.down.append(answer)
        self.deliver()

    def write(self, seq: int, what: bytes) -> bytes:
        """Store how an event ends, unless it has ended; return how it has."""
        end = self.ends.setdefault(seq, what)
        self.say(f"broker: {seq} is to be {what.decode()}, and is {end.decode()}")
        return end


class Server:
    """A server with one subscriber.

    Attributes:
        up: what it has sent, and the broker has not got.
        down: what the broker has sent, and this has not read.
        aside: lookups under way, by another connection.
        held: which attempts of which events the client holds.
        is_asleep: whether it does not run.
    """

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.up: deque[Move] = deque()
        self.down: deque[Move] = deque()
        self.aside: deque[Move] = deque()
        self.held: dict[int, int] = {}
        self.is_asleep = False
        self._inbox = 0
        self._closing_since = inf
        self._seen = world.now
        self._pauses = PauseDetector()
        self._pauses.look(world.now)
        remembered = Settled(), FailedAttempts(), self._pauses, Counts(), ConsumerLatency()
        consumer = ConsumerKey("S", "c")
        state = CallState(consumer, world.snapshot, WINDOW, *remembered, lambda: 0.0, lambda: 10**18)
        self.protocol = p.ConsumeProtocol(state, _OPTIONS)
        self.protocol.begin(world.now)
        self._asked: deque[Command] = deque()
        self._unanswered: dict[object, Move] = {}

    # --- What may happen ------------------------------------------------------------------------------------

    def sends(self) -> None:
        """Let the broker get the next of what this has sent."""
        if self.up and not self.world.is_frozen:
            self.up.popleft()()

    def hears(self) -> None:
        """Let this get the next of what the broker has sent."""
        if self.down and not self.is_asleep:
            self.down.popleft()()
            self.turn()

    def looks_up(self) -> None:
        """Let this get the answer to its oldest lookup."""
        if self.aside and not self.is_asleep:
            self.aside.popleft()()
            self.turn()

    def sleeps(self) -> None:
        """Stop this, or let it go on."""
        self.is_asleep = not self.is_asleep
        self.world.say(f"{self.number}: {'sleeps' if self.is_asleep else 'wakes'}")
        if not self.is_asleep:
            self._seen = self.world.now
            self._pauses.look(self._seen)

    def lives_on(self) -> None:
        """Look at the clock all the while, unless this is asleep, and take a turn."""
        if not self.is_asleep:
            while self._seen < self.world.now:
                self._seen = min(self._seen + INTERVAL, self.world.now)
                self._pauses.look(self._seen)
            if self.world.now - self._closing_since >= _DRAINED_WITHIN:
                self.drained(self._inbox)
            self.turn()

    def reconnects(self, arrived: int) -> None:
        """Lose the connection, after some of what was on its way has arrived, and have another one."""
        if self.is_asleep:
            return
        for _ in range(min(arrived, len(self.up))):
            self.sends()
        self.world.say(f"{self.number}: reconnects")
        self.up.clear()
        self.down.clear()
        self.world.pulls = deque(each for each in self.world.pulls if each[0] is not self)
        self.protocol.lost(self.world.now)
        lost, self._unanswered = self._unanswered, {}
        for fail in lost.values():
            fail()
        self.protocol.connected(self.world.now, is_same=True)
        self.drained(self._inbox)
        self.turn()

    def is_replaced(self) -> None:
        """Have another connection for what is asked for from now on."""
        if not self.is_asleep:
            self.protocol.replaced(self.world.now)
            self.turn()

    def says(self, command: Command) -> None:
        """Let the client say something."""
        self.world.say(f"{self.number}: client says {command}")
        self._asked.append(command)
        self.protocol.command(command, self.world.now)
        self.turn()

    # --- The shell ------------------------------------------------------------------------------------------

    def arrived(self, seq: int, attempt: int, reply: bytes, inbox: int) -> None:
        """Get a delivery."""
        if inbox == self._inbox:
            rest = (Time(0, 0), None, None, None, attempt, reply, stored_at(reply))
            delivery = Delivery(StreamSeq(seq), "s", "t", b"", *rest)
            self.protocol.incoming.arrived.append(delivery)

    def lose_acks(self) -> None:
        """Have a leader get acknowledgements without answers, and lose them with its leadership."""
        while self.up and isinstance(self.up[0], partial) and self.up[0].args[1:3] == (ACK, None):
            self.world.say(f"lost: ack {self.up.popleft().args[0].decode()}")  # type: ignore[attr-defined]

    def elected(self) -> None:
        """Hear of another leader."""
        self.protocol.elected(self.world.now)

    def drained(self, inbox: int) -> None:
        """Go on with turns: all that was on its way to an inbox has arrived, or is waited for no longer."""
        if inbox == self._inbox and self._closing_since < inf:
            self._inbox += 1
            self._closing_since = inf

    def turn(self) -> None:
        """Take a turn, and do what is to be done; while an inbox is closed, only that."""
        world, protocol = self.world, self.protocol
        for _ in range(8):
            if self._closing_since < inf:
                self._act()
                return
            protocol.advance(world.now)
            self._confirm()
            for delivery in protocol.incoming.deliverable(0, world.now):
                self.held[int(delivery.id)] = delivery.attempt
                world.say(f"{self.number}: client gets {delivery.id}, attempt {delivery.attempt}")
            pull = protocol.next_pull(world.now)
            if pull is not None:
                self.up.append(partial(self._pull, self._inbox, pull.batch))
            is_busy = self._act()
            if protocol.takes_inbox(world.now):
                self._inbox += 1
            elif protocol.takes_drain():
                self._closing_since = world.now
                self.up.append(partial(world.close, self, self._inbox))
            elif not is_busy:
                return

    def _pull(self, inbox: int, batch: int) -> None:
        if inbox == self._inbox:
            self.world.pulls.append([self, inbox, batch])
            self.world.deliver()

    def _confirm(self) -> None:
        for confirmation in self.protocol.settling.confirmations():
            command = self._asked.popleft()
            self.world.say(f"{self.number}: client is told {confirmation.lists()} of {command}")
            is_end = confirmation.kind is CommandKind.ACK or (
                isinstance(command, Reject) and command.action is Action.DROP
            )
            for seq in (*confirmation.ids, *confirmation.invalid_ids):
                if confirmation.kind is not CommandKind.PING or seq in confirmation.invalid_ids:
                    self.held.pop(int(seq), None)
            if is_end:
                for seq in confirmation.ids:
                    self.world.confirmed[int(seq)] = f"by {self.number}"
            elif isinstance(command, Reject) and command.action is Action.DEAD_LETTER:
                for seq in confirmation.ids:
                    assert self.world.ends.get(int(seq)) == _LETTER, "a reject for good was confirmed"

    def _act(self) -> bool:
        state, effects = self.protocol.state, self.protocol.state.effects
        sends, effects.sends = effects.sends, []
        for group in grouped(sends, state.doubts.changes):
            for pending in group.pending:
                pending.sent = True
            self._send(group)
        tells, effects.tells = effects.tells, []
        for reply, payload in tells:
            self.up.append(partial(self.world.settle, reply, payload, None, self))
        work, effects.work = effects.work, []
        for each in work:
            self._do(each)
        effects.settled_again.clear()
        return bool(sends or tells or work)

    def _send(self, group: Group) -> None:
        key, last = object(), group.pending[-1]

        def answer() -> None:
            del self._unanswered[key]
            self.protocol.settling.group_answered(group, b"", self.world.now)

        for pending in group.pending[:-1]:
            self.up.append(partial(self.world.settle, pending.reply, ACK, None, self))
        self.up.append(partial(self.world.settle, last.reply, last.payload, answer, self))
        self._unanswered[key] = lambda: self.protocol.settling.group_answered(
            group, NoReply.DISCONNECTED, self.world.now
        )

    def _do(self, work: w.Work) -> None:
        protocol = self.protocol
        match work:
            case w.LookUp():
                self.aside.append(lambda: protocol.consumer_seen(self.world.snapshot))
            case w.Learn():
                self.aside.append(self._learn)
            case w.Verify(delivery):
                begun = self.world.now
                self._ask(
                    lambda: int(delivery.id) in self.world.ends,
                    lambda now, found: protocol.incoming.verified(work, begun, now, has_ended=found),
                )
            case w.Check(pending):
                begun = self.world.now
                self._ask(
                    lambda: int(pending.seq) in self.world.ends,
                    lambda now, found: protocol.settling.checked(work, begun, now, has_ended=found),
                )
            case w.Keep(pending):
                self._ask(
                    lambda: self.world.write(int(pending.seq), _LETTER) == _LETTER,
                    lambda now, done: protocol.settling.prepared(work, _ending(done=done), now),
                )
            case w.Claim(pending):
                claimant = pending.held.claimant
                self._ask(
                    lambda: self.world.write(int(pending.seq), claimant) == claimant,
                    lambda now, done: protocol.settling.claimed(work, _ending(done=done), now),
                )
            case w.GiveUp(delivery):
                self._ask(
                    lambda: self.world.write(int(delivery.id), _LETTER) == _LETTER,
                    lambda _, done: protocol.incoming.gave_up(delivery, done=done is not None),
                )
            case w.Terminate(reply):
                self._ask(partial(self._terminate, reply), lambda _, __: protocol.incoming.decided(reply))

    def _learn(self) -> None:
        self.protocol.consumer_seen(self.world.snapshot)
        self.protocol.learned({StreamSeq(seq): 0 for seq in self.world.ends})

    def _terminate(self, reply: bytes) -> bool:
        self.world.settle(reply, TERMINATE, None, self)
        return True

    def _ask(self, question: Callable[[], bool], take: Callable[[float, bool | None], None]) -> None:
        key = object()

        def answer(found: bool | None) -> None:
            if self._unanswered.pop(key, None) is not None:
                take(self.world.now, found)

        def reach() -> None:
            self.down.append(partial(answer, question()))

        self._unanswered[key] = lambda: take(self.world.now, None)
        self.up.append(reach)


def _ending(*, done: bool | None) -> w.EndOutcome:
    if done is None:
        return w.EndOutcome.UNKNOWN
    return w.EndOutcome.DECIDED if done else w.EndOutcome.OTHERWISE


def check(world: World) -> None:
    """See that no event ended in two ways."""
    for seq, who in world.confirmed.items():
        assert world.ends.get(seq) != _LETTER, (
            f"event {seq} is a dead letter, and was acknowledged {who}:\n" + "\n".join(world.said)
        )


def play(policy: RetryPolicy, servers: int, moves: Sequence[tuple[int, int, int]]) -> World:
    """Let things happen in a given order, then let everything come to rest; return what came of it."""
    world = World(policy, events=8)
    world.start(servers)
    for move in moves:
        _move(world, *move)
        check(world)
    _rest(world)
    return world


def _move(world: World, kind: int, which: int, how: int) -> None:  # noqa: C901, PLR0912 - a table of moves
    server = world.servers[which % len(world.servers)]
    match kind:
        case 0:
            world.publish()
        case 1:
            world.pass_time((0.2, 1.0, 4.0, 9.5, 10.5)[how % 5])
        case 2 | 3:
            for _ in range(1 + how % 4):
                server.sends()
        case 4 | 5:
            for _ in range(1 + how % 4):
                server.hears()
        case 6 | 7:
            _say(server, which // len(world.servers), how)
        case 8:
            world.freeze()
        case 9 if how % 8 == 0:
            world.elect()
        case 9 if how % 8 == 1:
            server.reconnects(which)
        case 9 if how % 8 in (2, 3):
            server.sleeps()
        case 9 if how % 8 in (4, 5):
            server.looks_up()
        case 9 if how % 8 == 6:
            server.is_replaced()
        case _:
            _settle_all(world, how % 8)


def _settle_all(world: World, rounds: int) -> None:
    """Let messages move as they do while nothing is wrong."""
    for _ in range(rounds):
        for server in world.servers:
            server.sends()
            server.looks_up()
            server.hears()


_COMMANDS: Sequence[Callable[[list[StreamSeq]], Command]] = (
    Ack,
    Ack,
    Ack,
    lambda ids: Reject(ids, False, None),
    lambda ids: Reject(ids, False, None),
    lambda ids: Reject(ids, False, 0),
    lambda ids: Reject(ids, False, None, action=Action.DEAD_LETTER),
    lambda ids: Reject(ids, False, None, action=Action.DROP),
    Ping,
)


def _say(server: Server, which: int, how: int) -> None:
    if server.held and not server.is_asleep:
        held = [StreamSeq(seq) for seq in server.held]
        some = held if which % 3 == 0 else [held[which % len(held)]]
        server.says(_COMMANDS[how % len(_COMMANDS)](some))


def _rest(world: World) -> None:
    """Let everybody acknowledge, until nothing is left: each event has ended."""
    world.is_frozen = False
    for server in world.servers:
        if server.is_asleep:
            server.sleeps()
    world.events = max(world.published, 1)
    world.publish()
    for _ in range(400):
        _settle_all(world, 20)
        for server in world.servers:
            for seq in list(server.held):
                server.says(Ack([StreamSeq(seq)]))
        check(world)
        if len(world.settled) == world.published and not any(
            s.up or s.down or s.aside for s in world.servers
        ):
            return
        world.pass_time(1.0)
    raise AssertionError("events are left:\n" + "\n".join(world.said))


SOME_POLICIES = [
    replace(RetryPolicy(dead_letters=True), max_attempts=most, initial_backoff=timedelta(milliseconds=1))
    for most in (1, 2, 3, None)
]
