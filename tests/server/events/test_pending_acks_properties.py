"""Whatever clients, broker and time do, the promises of a consume call hold."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from windshift.nats.jetstream.pulling import PullEnded
from windshift.server.events.consuming.flow import MARGIN, PullPacer, Window
from windshift.server.events.consuming.pending_acks import CommandKind, Confirmation, PendingAck, Settlements
from windshift.server.events.model import StreamSeq

CONFIRM_TIMEOUT = 5.0
SILENCE = 10.0

ids = st.integers(1, 6)


@dataclass
class Asked:
    """A command as the client remembers it."""

    kind: CommandKind
    ids: set[int]
    at: float
    errands: list[PendingAck] = field(default_factory=list)


class ConsumeCall(RuleBasedStateMachine):
    """A call, a broker that knows only its own side, and a client that remembers what it asked."""

    @initialize(size=st.integers(1, 9), timeout=st.sampled_from([0.2, 3.0, 30.0]))
    def subscribe(self, size: int, timeout: float) -> None:
        """Start with an empty window."""
        self.now = 1000.0
        self.size = size
        self.timeout = timeout
        self.window = Window(size, timeout)
        self.session = Settlements(self.window, CONFIRM_TIMEOUT)
        self.pulls = PullPacer(self.window, SILENCE)
        self.at_broker = 0  # deliveries that the broker may still send
        self.attempts: dict[int, int] = {}
        self.under_way: list[PendingAck] = []
        self.asked: list[Asked] = []
        self.told = 0

    # What the broker does

    @rule()
    def pull(self) -> None:
        """Ask for what there is room for."""
        pull = self.pulls.next(self.now, busy=self.session.busy)
        if pull is not None:
            self.at_broker += pull.batch

    @rule(seqs=st.lists(ids, min_size=1, max_size=6))
    def deliver(self, seqs: list[int]) -> None:
        """Deliver what was asked for: new events, or some again."""
        self.pull()
        for seq in seqs[: self.at_broker]:
            self.at_broker -= 1
            self.pulls.heard(self.now)
            self.attempts[seq] = self.attempts.get(seq, 0) + 1
            reply = b"%d.%d" % (seq, self.attempts[seq])
            self.window.forget_requested(1)
            held = self.window.admit(StreamSeq(seq), reply, self.attempts[seq], self.now)
            assert held is not None, "what was asked for has room"

    @precondition(lambda self: self.at_broker > 0)
    @rule(data=st.data(), too_large=st.booleans())
    def end_request(self, data: st.DataObject, too_large: bool) -> None:
        """End a request early."""
        left = data.draw(st.integers(0, self.at_broker))
        self.at_broker -= left
        self.pulls.ended(PullEnded(left, data.draw(st.integers(0, 300_000)), too_large))

    @rule(refused=st.booleans())
    def forget_requests(self, refused: bool) -> None:
        """Lose all requests."""
        self.at_broker = 0
        if refused:
            self.pulls.refused(self.now)
        else:
            self.window.lose_requests()

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), stored=st.lists(st.booleans(), min_size=1, max_size=4))
    def answer(self, data: st.DataObject, stored: list[bool]) -> None:
        """Answer messages, in no particular order, perhaps too late."""
        for yes in stored[: len(self.under_way)]:
            index = data.draw(st.integers(0, len(self.under_way) - 1))
            self.answer_one(self.under_way.pop(index), stored=yes)

    def answer_one(self, errand: PendingAck, *, stored: bool) -> None:
        """Answer a message, and compare what that changed."""
        late, deadline = errand.answered, errand.held.deadline
        told = [list(some) for some in errand.confirmation.lists()]
        before = self.window.get(errand.seq)
        self.session.answer(errand, stored=stored, now=self.now)
        after = self.window.get(errand.seq)
        if late:
            assert (told, before) == ([*map(list, errand.confirmation.lists())], after), "changes nothing"
        elif before is not errand.held:
            assert after is before, "a later delivery stays"
        elif stored and errand.settles:
            assert after is None
        elif stored:
            assert errand.held.deadline >= errand.since + 0.9 * self.timeout
        if not stored:
            assert errand.held.deadline == deadline

    # What the client does

    @rule(kind=st.sampled_from(CommandKind), named=st.lists(ids, max_size=6))
    def ask_again(self, kind: CommandKind, named: list[int]) -> None:
        """Send commands more often than anything else."""
        self.ask(kind, named)

    @rule(kind=st.sampled_from(CommandKind), named=st.lists(ids, max_size=6))
    def ask(self, kind: CommandKind, named: list[int]) -> None:
        """Send a command about any ids."""
        held_before = {seq: self.window.get(StreamSeq(seq)) for seq in named}
        errands = self.session.command(kind, [StreamSeq(seq) for seq in named], self.now)
        self.asked.append(Asked(kind, set(named), self.now, errands))
        self.under_way += errands
        for errand in errands:
            assert errand.held is held_before[errand.seq], "about the latest delivery"
            assert errand.reply == b"%d.%d" % (errand.seq, self.attempts[errand.seq])
            assert errand.held.deadline > self.now or errand.held.unanswered > 1
        assert len({errand.seq for errand in errands}) == len(errands)

    # Time

    @rule(seconds=st.sampled_from([0.01, 0.15, 1.0, 2.6, 5.0, 11.0, 40.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass, and look at what is due."""
        self.now += seconds
        awaited = [(e.seq, e.held) for e in self.under_way if e.held is self.window.get(e.seq)]
        awaited = [(seq, held) for seq, held in awaited if held.unanswered]
        if self.session.due <= self.now:
            self.session.tick(self.now)
        if self.pulls.due <= self.now and self.pulls.tick(self.now):
            self.at_broker = 0  # a fresh inbox: the old requests deliver nothing any more
        assert self.session.due > self.now
        assert self.pulls.due > self.now
        for seq, held in awaited:
            if held.unanswered:
                assert self.window.get(seq) is held, "the answer decides"

    # What always holds

    @invariant()
    def the_window_is_never_exceeded(self) -> None:
        """Count with the broker: what may come plus what is held never exceeds the window."""
        assert self.at_broker == self.window.requested
        assert self.window.requested + len(self.window) <= self.size

    @invariant()
    def every_command_is_confirmed_once_and_in_order(self) -> None:
        """Each confirmation answers the next command, and places each of its ids once."""
        for confirmation in self.session.confirmations():
            asked = self.asked[self.told]
            self.told += 1
            self.check(asked, confirmation)

    def check(self, asked: Asked, confirmation: Confirmation) -> None:
        """Compare a confirmation with its command."""
        placed = [seq for some in confirmation.lists() for seq in some]
        assert confirmation.kind is asked.kind
        assert len(placed) == len(set(placed))
        assert set(placed) == asked.ids
        assert set(confirmation.ids) <= {errand.seq for errand in asked.errands}, "stored, so it was sent"

    @invariant()
    def nothing_waits_longer_than_the_broker_may_take(self) -> None:
        """At most one timeout after a command, its confirmation has left, as time was looked at."""
        waiting = self.asked[self.told :]
        if waiting and self.session.due > self.now:
            assert self.now - waiting[0].at <= CONFIRM_TIMEOUT
        assert self.session.confirmed == (not waiting)

    @invariant()
    def a_delivery_is_settled_by_one_message(self) -> None:
        """No two settlements of one delivery are under way."""
        settling = [id(e.held) for e in self.under_way if e.settles and not e.answered]
        assert len(settling) == len(set(settling))

    @invariant()
    def time_frees_the_window(self) -> None:
        """Nothing is held long after its timeout unless an answer is awaited."""
        for seq in self.attempts:
            held = self.window.get(StreamSeq(seq))
            if held is not None and not held.unanswered and self.session.due > self.now:
                assert held.deadline > self.now - CONFIRM_TIMEOUT
                assert held.deadline <= self.now + self.timeout - min(MARGIN, self.timeout / 10) + 1e-6

    def teardown(self) -> None:
        """In the end everything is confirmed, and what was not settled goes back, once."""
        if not hasattr(self, "session"):
            return
        self.now += CONFIRM_TIMEOUT
        self.session.tick(self.now)
        self.every_command_is_confirmed_once_and_in_order()
        assert self.told == len(self.asked)
        assert self.session.confirmed
        released = self.session.release()
        assert len({held.reply for _, held in released}) == len(released) <= self.size
        assert self.session.release() == []


TestConsumeCall = ConsumeCall.TestCase
TestConsumeCall.settings = settings(max_examples=40, stateful_step_count=60)
