"""Sessions: which commands reach the broker, and what clients are told."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from windshift.nats.jetstream.pulling import NAK
from windshift.server.events.consuming.flow import Window
from windshift.server.events.consuming.pending_acks import (
    MOST_UNCONFIRMED,
    CommandKind,
    PendingAck,
    Settlements,
)
from windshift.server.events.model import StreamSeq


class Call:
    """A session with a clock that the test turns."""

    def __init__(self, held: Iterable[int] = (), timeout: float = 30.0) -> None:
        self.now = 0.0
        self.session = Settlements(Window(100, timeout), confirm_timeout=5.0)
        for seq in held:
            self.deliver(seq)

    def deliver(self, seq: int, attempt: int = 1) -> None:
        """Let a delivery arrive."""
        self.session.window.admit(StreamSeq(seq), b"reply.%d.%d" % (seq, attempt), attempt, self.now)

    def ask(self, kind: CommandKind, *ids: int) -> list[PendingAck]:
        """Take a command."""
        return self.session.command(kind, [StreamSeq(seq) for seq in ids], self.now)

    def answer(self, *errands: PendingAck, stored: bool = True) -> None:
        """Let the broker answer."""
        for errand in errands:
            self.session.answer(errand, stored=stored, now=self.now)

    def saturated(self) -> bool:
        """Say whether no more should be read now."""
        return self.session.load >= MOST_UNCONFIRMED

    def told(self) -> list[tuple[list[StreamSeq], ...]]:
        """Return the lists of each confirmation that may leave now, sorted."""
        return [tuple(map(sorted, one.lists())) for one in self.session.confirmations()]


def test_an_ack_is_confirmed_after_the_broker_stored_it() -> None:
    """Nothing is confirmed on the way, and the delivery is held until then."""
    call = Call(held=[1])
    errands = call.ask(CommandKind.ACK, 1)
    assert [(errand.reply, errand.payload) for errand in errands] == [(b"reply.1.1", b"+ACK")]
    assert call.told() == []
    assert len(call.session.window) == 1
    call.answer(*errands)
    assert call.told() == [([1], [], [])]
    assert len(call.session.window) == 0


def test_unknown_ids_never_reach_the_broker() -> None:
    """An id that this call does not hold is invalid at once."""
    call = Call(held=[1])
    assert call.ask(CommandKind.REJECT, 2, 0) == []
    assert call.told() == [([], [0, 2], [])]


def test_settled_ids_are_invalid() -> None:
    """After an ack nothing can be done with the id any more."""
    call = Call(held=[1])
    call.answer(*call.ask(CommandKind.ACK, 1))
    for kind in CommandKind:
        assert call.ask(kind, 1) == []
    assert call.told() == [([1], [], []), *[([], [1], [])] * 3]


def test_an_id_named_twice_counts_once() -> None:
    """Each id stands in one list, once."""
    call = Call(held=[1])
    call.answer(*call.ask(CommandKind.ACK, 1, 1, 7, 7))
    assert call.told() == [([1], [7], [])]


def test_a_command_without_ids_is_confirmed() -> None:
    """Every command gets its confirmation."""
    call = Call()
    assert call.ask(CommandKind.PING) == []
    assert call.told() == [([], [], [])]


def test_confirmations_keep_the_order_of_the_commands() -> None:
    """A confirmation that is complete waits for those before it."""
    call = Call(held=[1, 2])
    first = call.ask(CommandKind.ACK, 1)
    call.ask(CommandKind.ACK, 9)
    call.answer(*call.ask(CommandKind.ACK, 2))
    assert call.told() == []
    call.answer(*first)
    assert call.told() == [([1], [], []), ([], [9], []), ([2], [], [])]


def test_answers_may_come_in_any_order() -> None:
    """The ids of one command are placed as they are answered."""
    call = Call(held=[1, 2, 3])
    errands = call.ask(CommandKind.ACK, 1, 2, 3)
    call.answer(errands[2])
    call.answer(errands[0])
    call.answer(errands[1], stored=False)
    assert call.told() == [([1, 3], [], [2])]


def test_without_an_answer_an_id_has_failed_for_now() -> None:
    """After the time that the broker has, the id may be tried again."""
    call = Call(held=[1])
    errands = call.ask(CommandKind.ACK, 1)
    assert call.session.due == 5.0
    call.now = 4.9
    assert call.session.tick(call.now) == []
    call.now = 5.0
    assert call.session.tick(call.now) == errands
    assert call.told() == [([], [], [1])]
    call.answer(*call.ask(CommandKind.ACK, 1))
    assert call.told() == [([1], [], [])]


def test_a_late_answer_changes_nothing() -> None:
    """What was reported as failed is not taken back."""
    call = Call(held=[1])
    errands = call.ask(CommandKind.ACK, 1)
    call.now = 5.0
    call.session.tick(call.now)
    call.answer(*errands)
    assert call.told() == [([], [], [1])]
    assert len(call.session.window) == 1


def test_a_timed_out_delivery_is_invalid() -> None:
    """Once the broker may have handed the event on, this call has no say over it."""
    call = Call(held=[1], timeout=10)
    call.now = 10.0
    assert call.ask(CommandKind.ACK, 1) == []
    assert call.told() == [([], [1], [])]


def test_a_ping_restarts_the_timeout() -> None:
    """The new timeout counts from when the ping was sent."""
    call = Call(held=[1], timeout=10)
    call.now = 8.0
    call.answer(*call.ask(CommandKind.PING, 1))
    call.now = 17.9
    call.session.tick(call.now)
    call.answer(*call.ask(CommandKind.ACK, 1))
    assert call.told() == [([1], [], []), ([1], [], [])]


def test_a_ping_that_failed_restarts_nothing() -> None:
    """Only what the broker stored prolongs a delivery."""
    call = Call(held=[1], timeout=10)
    call.now = 8.0
    call.answer(*call.ask(CommandKind.PING, 1), stored=False)
    call.now = 10.0
    assert call.ask(CommandKind.ACK, 1) == []
    assert call.told() == [([], [], [1]), ([], [1], [])]


def test_an_ack_need_not_wait_for_a_ping() -> None:
    """A ping settles nothing, so that both may be under way."""
    call = Call(held=[1])
    ping, ack = call.ask(CommandKind.PING, 1), call.ask(CommandKind.ACK, 1)
    assert len(ping) == len(ack) == 1
    call.answer(*ack)
    call.answer(*ping)
    assert call.told() == [([1], [], []), ([1], [], [])]
    assert len(call.session.window) == 0


@pytest.mark.parametrize("later", list(CommandKind))
def test_what_follows_a_settlement_shares_its_outcome(later: CommandKind) -> None:
    """A command for an id that is being settled is not sent.

    When the settlement is stored the id is invalid, when it fails for now the command does too.
    """
    call = Call(held=[1, 2])
    stored, failed = call.ask(CommandKind.ACK, 1), call.ask(CommandKind.REJECT, 2)
    assert call.ask(later, 1) == call.ask(later, 2) == []
    assert call.told() == []
    call.answer(*stored)
    call.answer(*failed, stored=False)
    assert call.told() == [([1], [], []), ([], [], [2]), ([], [1], []), ([], [], [2])]


def test_an_id_means_its_latest_delivery() -> None:
    """Acknowledgements go to the reply subject of the last delivery on this call."""
    call = Call(held=[1])
    call.deliver(1, attempt=2)
    (errand,) = call.ask(CommandKind.ACK, 1)
    assert errand.reply == b"reply.1.2"


def test_the_answer_for_an_earlier_delivery_leaves_the_later_one() -> None:
    """A rejected event may be back before the reject is answered; the client then holds it anew."""
    call = Call(held=[1])
    reject = call.ask(CommandKind.REJECT, 1)
    call.deliver(1, attempt=2)
    call.answer(*reject)
    assert len(call.session.window) == 1
    call.answer(*call.ask(CommandKind.ACK, 1))
    assert call.told() == [([1], [], []), ([1], [], [])]


def test_an_answer_after_the_timeout_decides() -> None:
    """A delivery whose ack is under way when it times out is settled if stored, and gone if not."""
    call = Call(held=[1, 2], timeout=4)
    kept, lost = call.ask(CommandKind.ACK, 1), call.ask(CommandKind.ACK, 2)
    call.now = 4.5
    call.session.tick(call.now)
    assert len(call.session.window) == 2
    call.answer(*kept)
    call.answer(*lost, stored=False)
    assert len(call.session.window) == 0
    assert call.told() == [([1], [], []), ([], [], [2])]


def test_release_spares_what_is_being_settled() -> None:
    """At the end everything goes back but what the broker has been told about."""
    call = Call(held=[1, 2, 3])
    (ack,) = call.ask(CommandKind.ACK, 1)
    ack.sent = True
    call.ask(CommandKind.PING, 2)
    assert [held.reply for _, held in call.session.release()] == [b"reply.2.1", b"reply.3.1"]
    assert len(call.session.window) == 0


def test_release_of_what_was_not_sent() -> None:
    """A settlement that waits for something else to be done first never reaches the broker: it goes back."""
    call = Call(held=[1])
    (reject,) = call.ask(CommandKind.REJECT, 1)
    reject.ready = False
    assert [held.reply for _, held in call.session.release()] == [b"reply.1.1"]


def test_rejects_are_not_sent_twice() -> None:
    """On a new connection only what does no harm a second time is sent again."""
    call = Call(held=[1, 2, 3])
    ack, (reject,), ping = (
        call.ask(CommandKind.ACK, 1),
        call.ask(CommandKind.REJECT, 2),
        call.ask(CommandKind.PING, 3),
    )
    reject.payload = NAK
    assert call.session.repeatable() == [*ack, *ping]
    call.answer(*ack)
    assert call.session.repeatable() == ping


def test_reading_stops_while_too_much_is_unconfirmed() -> None:
    """What waits for the broker is bounded, whatever a client sends."""
    call = Call(held=[1])
    waiting = call.ask(CommandKind.ACK, 1)
    call.ask(CommandKind.ACK, *range(2, MOST_UNCONFIRMED - 3))
    assert not call.saturated()
    call.ask(CommandKind.PING, 1)
    assert call.saturated()
    call.answer(*waiting)
    assert len(call.told()) == 3
    assert not call.saturated()
    assert call.session.confirmed
