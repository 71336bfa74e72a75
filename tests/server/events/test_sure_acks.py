"""One answer to several acks: what is done about all sure ones at once is what is done about each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import inf

from hypothesis import example, given, settings
from hypothesis import strategies as st

from windshift.conventions import SpanKind
from windshift.nats import NoReply
from windshift.nats.jetstream.api import ConsumerState
from windshift.server.config.telemetry import SamplerConfig
from windshift.server.events.consuming import work as w
from windshift.server.events.consuming.commands import Reject
from windshift.server.events.consuming.consumer_state import ConsumerSnapshot
from windshift.server.events.consuming.flow import Replay
from windshift.server.events.consuming.pauses import PauseDetector
from windshift.server.events.consuming.pending_acks import CommandKind, Group, PendingAck
from windshift.server.events.consuming.redelivery import FailedAttempts, Settled
from windshift.server.events.consuming.settling import Settling
from windshift.server.events.consuming.spans import ConsumeSpans
from windshift.server.events.consuming.state import CallState
from windshift.server.events.counts import Counts
from windshift.server.events.dead_letters.model import DeadLetterId
from windshift.server.events.latencies import ConsumerLatency
from windshift.server.events.model import ConsumerKey, StreamSeq
from windshift.server.events.retries import RetryPolicy
from windshift.server.telemetry.tracer import Sampler, Span, Tracer

MOST = 4
ANSWERED_AT = 7.0
STORED_NS = 1_700_000_000_000_000_000
NOW_NS = STORED_NS + 3_600_000_000_000


@dataclass(frozen=True)
class Delivery:
    """A delivery that the client holds; a later one takes the place of an earlier one of its event."""

    seq: int
    sure_until: float = inf
    earliest: float = 1.0  # it is trusted what was sent after 0
    is_replay: bool = False


@dataclass(frozen=True)
class Command:
    """What the client says of some events, one second after what it said before."""

    kind: CommandKind
    ids: tuple[int, ...]
    is_final: bool = False


@dataclass(frozen=True)
class Scene:
    """What happens before the answer comes.

    Attributes:
        first: the first attempts that the client holds, one of each event.
        steps: what comes after them.
        dead_letters: whether the consumer has some.
        dead: events of which there is one.
        late: which acknowledgements have no answer in time, by their place.
        is_closed: whether the call is over by then.
        traced: whether settlements are recorded.
    """

    first: tuple[Delivery, ...]
    steps: Sequence[Delivery | Command]
    dead_letters: bool
    dead: set[int]
    late: set[int]
    is_closed: bool
    traced: bool


seqs = st.integers(1, MOST)


def deliveries_of(seq: st.SearchStrategy[int]) -> st.SearchStrategy[Delivery]:
    """Draw deliveries: the acks of most are sure."""
    sure_until = st.sampled_from([inf, inf, inf, ANSWERED_AT, -inf])
    earliest = st.sampled_from([1.0, 1.0, 1.0, 0.0])
    return st.builds(Delivery, seq, sure_until, earliest, st.sampled_from([False, False, False, True]))


ids = st.lists(seqs, min_size=1, max_size=MOST).map(tuple)
acks = st.builds(Command, st.just(CommandKind.ACK), ids)
commands = st.builds(Command, st.sampled_from(CommandKind), ids, st.booleans())
scenes = st.builds(
    Scene,
    st.tuples(*(deliveries_of(st.just(seq)) for seq in range(1, MOST + 1))),
    st.lists(acks | commands | deliveries_of(seqs), min_size=1, max_size=6),
    st.booleans(),
    st.sets(seqs),
    st.sets(st.integers(0, 3), max_size=2),
    st.booleans(),
    st.booleans(),
)


class Call:
    """A call in which a scene happens."""

    def __init__(self, scene: Scene) -> None:
        policy = RetryPolicy(3, dead_letters=scene.dead_letters)
        found = ConsumerSnapshot(timedelta(seconds=30), policy, ConsumerState({}, "", 0, 0, 0, 0))
        remembered = Settled(), FailedAttempts(), PauseDetector(), Counts(), ConsumerLatency()
        self.state = CallState(ConsumerKey("S", "c"), found, MOST, *remembered, lambda: 0.5, lambda: NOW_NS)
        self.state.doubts.trusted_since = 0.0
        self.state.dead = {StreamSeq(seq): STORED_NS + seq for seq in scene.dead}
        self.settling = Settling(self.state, 60.0)
        self.attempts = Counter[int]()
        self.spans: list[Span] = []
        self.tracer = Tracer(Sampler(SamplerConfig()), self.spans.append)
        if scene.traced:
            self.state.spans = ConsumeSpans(self.tracer, "S", "c")
        self.now = 0.0
        for step in (*scene.first, *scene.steps):
            if isinstance(step, Delivery):
                self.deliver(step)
            else:
                self.command(step)
        self.sent = self.send()
        for place in scene.late & set(range(len(self.sent))):
            self.settling.answered(self.sent[place], NoReply.TIMED_OUT, self.now)
        self.settling.is_closed = scene.is_closed

    def deliver(self, delivery: Delivery) -> None:
        """Hold a delivery."""
        seq, stored_ns = StreamSeq(delivery.seq), STORED_NS + delivery.seq
        self.attempts[seq] += 1
        reply = b"$JS.ACK.S.c.%d.%d.1.%d.0" % (self.attempts[seq], seq, stored_ns)
        replay = Replay(DeadLetterId("S", "c", seq, stored_ns), 1, 1) if delivery.is_replay else None
        held = self.state.window.admit(seq, reply, self.attempts[seq], self.now, replay)
        assert held is not None
        held.sure_until, held.earliest, held.stored_ns = delivery.sure_until, delivery.earliest, stored_ns
        held.span = self.tracer.start(SpanKind.CLIENT, None)

    def command(self, command: Command) -> None:
        """Carry out a command."""
        self.now += 1.0
        named = [StreamSeq(seq) for seq in command.ids]
        if command.kind is CommandKind.REJECT:
            self.settling.reject(Reject(named, command.is_final, None), self.now)
        else:
            self.settling.acknowledge(command.kind, named, self.now)

    def send(self) -> list[PendingAck]:
        """Take what is sent to the broker, when all is done that has to be done before."""
        for work in self.take_work():
            if isinstance(work, w.Keep | w.EndReplay):
                self.settling.prepared(work, w.EndOutcome.DECIDED, self.now)
        sends, self.state.effects.sends = self.state.effects.sends, []
        for pending in sends:
            pending.sent = True
        return sends

    def take_work(self) -> list[w.Work]:
        """Take what is to be done."""
        work, self.state.effects.work = self.state.effects.work, []
        return work

    def answer_all(self) -> None:
        """Let one answer come that stands for all."""
        group = Group(self.state.doubts.changes)
        group.pending = self.sent
        if self.sent:
            self.settling.group_answered(group, b"", ANSWERED_AT)

    def answer_each(self) -> None:
        """Let an answer come to each."""
        for pending in self.sent:
            self.settling.answered(pending, b"", ANSWERED_AT)

    def seen(self) -> object:
        """Show all that can be seen of what was done, but for the order of the ids in a confirmation."""
        state, settled = self.state, self.state.settled
        told = [(each.kind, *map(sorted, each.lists())) for each in self.settling.confirmations()]
        work = [
            (type(each), each.pending.seq if isinstance(each, w.Claim | w.Check) else 0)
            for each in self.take_work()
        ]
        held = {
            seq: (each.attempt, each.unanswered, each.settling, each.deadline, each.sure_until, each.checked)
            for seq, each in state.window.held.items()
        }
        latency, counts = self.state.latency.settlement.read(), vars(self.state.counts).copy()
        del counts["latencies"]
        return {
            "told": told,
            "work": work,
            "held": held,
            "counts": counts,
            "settled": (settled._latest, settled._before),
            "dead": state.dead,
            "latency": (latency.counts, round(latency.total, 3)),
            "settled again": state.effects.settled_again,
            "sent": [(each.answered, each.held.settling, each.held.unanswered) for each in self.sent],
            "under way": [each.seq for each in self.settling.settlements.repeatable()],
            "settling": sorted(self.settling.settlements._settling),
            "failed": len(self.state.attempts),
            "recency": state.doubts.recency._latest,
            "sends": len(state.effects.sends),
            "spans": sorted((each.name, str(each.attributes), str(each.error)) for each in self.spans),
        }


ACK_ONE = Command(CommandKind.ACK, (1,))
TWICE: Sequence[Delivery | Command] = [ACK_ONE, Delivery(1, sure_until=-inf), ACK_ONE]
"""Both deliveries of an event are acked, and the second ack is not sure."""


@given(scenes)
@example(
    Scene(
        tuple(map(Delivery, range(1, MOST + 1))),
        TWICE,
        dead_letters=True,
        dead=set(),
        late=set(),
        is_closed=False,
        traced=False,
    )
)
@settings(max_examples=400)
def test_sure_acks_are_taken_as_each_would_be(scene: Scene) -> None:
    """Confirmations, counts, what is settled and dead, and all else are the same."""
    together, one_by_one = Call(scene), Call(scene)
    together.answer_all()
    one_by_one.answer_each()
    assert together.seen() == one_by_one.seen()
