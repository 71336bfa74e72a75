from __future__ import annotations

from windshift.server.events.consuming.redelivery import (
    AFTERWARDS,
    ANY_TIME,
    GENERATION,
    HEARSAY,
    KEPT_UNUSED,
    Settled,
    SettledByConsumer,
)
from windshift.server.events.model import ConsumerKey, StreamSeq

STORED_NS = 1_700_000_000_000_000_000


def settled(*times: float) -> Settled:
    """Settle events 1, 2, 3 … at these times."""
    memory = Settled()
    for seq, now in enumerate(times, 1):
        memory.add(StreamSeq(seq), STORED_NS, now)
    return memory


def known(memory: Settled, now: float, stored_ns: int = STORED_NS) -> list[int]:
    """Say which of the first ten events are known to be settled."""
    return [seq for seq in range(1, 11) if memory.knows(StreamSeq(seq), stored_ns, now)]


def test_knows_nothing_while_the_broker_is_there() -> None:
    """As long as no connection was lost nothing is doubted, and nothing looked up."""
    memory = settled(0.0, 0.1)
    assert not memory.doubted
    assert known(memory, 0.2) == []


def test_knows_the_last_moment_before_a_loss() -> None:
    """What was settled in the last second before a connection ended is known."""
    memory = settled(0.0, GENERATION * 0.9, GENERATION * 1.1, GENERATION * 1.9)
    memory.lose({})
    assert memory.doubted
    assert known(memory, 2.0) == [1, 2, 3, 4]


def test_forgets_what_is_long_settled() -> None:
    """What was settled longer ago than two generations is not kept."""
    memory = settled(0.0, 10.0, 20.0, 20.5, 21.2)
    memory.lose({})
    assert known(memory, 21.2) == [3, 4, 5]


def test_is_kept_while_the_broker_is_away() -> None:
    """However long the broker is away, what was settled before stays known until it is back for a while."""
    memory = settled(0.0)
    memory.lose({})
    assert known(memory, 3600.0) == [1]
    memory.recover(3600.0, timeout=30.0)
    assert known(memory, 3600.0 + 60 + AFTERWARDS) == [1]
    assert known(memory, 3600.1 + 60 + AFTERWARDS) == []
    assert not memory.doubted


def test_is_kept_while_nobody_asks_the_broker() -> None:
    """What it has forgotten it delivers only when it is asked, which others do while they settle events."""
    for is_busy in (False, True):
        memory = settled(0.0)
        memory.lose({})
        memory.recover(1.0, timeout=1.0)
        for now in range(10, 101, 10):
            if is_busy:
                memory.add(StreamSeq(2), STORED_NS, now - 1.0)
            memory.wait(now, timeout=1.0)
        assert known(memory, 100.0) == ([] if is_busy else [1])


def test_knows_what_is_being_acknowledged() -> None:
    """What a client has acknowledged is not delivered again while the answer is missing."""
    memory = settled()
    memory.lose({StreamSeq(7): STORED_NS})
    assert known(memory, 0.0) == [7]


def test_two_losses_add_up() -> None:
    """What the first loss put in doubt stays in doubt through the second."""
    memory = settled(0.0)
    memory.lose({})
    memory.recover(1.0, timeout=1.0)
    memory.add(StreamSeq(2), STORED_NS, 5.0)
    memory.lose({})
    memory.recover(6.0, timeout=1.0)
    assert known(memory, 7.0) == [1, 2]


def test_calls_of_a_consumer_share_what_they_know() -> None:
    """All calls of a process to one consumer share one memory, which outlives them for a while."""
    shared, key = SettledByConsumer(), ConsumerKey("S", "c")
    first, second = shared.attach(key, "today", 0.0), shared.attach(key, "today", 0.0)
    assert first is second
    assert shared.attach(ConsumerKey("S", "other"), "today", 0.0) is not first
    shared.detach(key, "today", 1.0)
    shared.detach(key, "today", 2.0)
    assert shared.attach(key, "today", 2.0 + KEPT_UNUSED - 1) is first
    shared.detach(key, "today", 200.0)
    shared.attach(ConsumerKey("S", "another"), "today", 200.0 + KEPT_UNUSED)
    assert len(shared) == 2
    assert shared.attach(key, "today", 400.0) is not first


def test_what_may_be_delivered_again() -> None:
    """It is told others for as long as it counts."""
    shared, key = SettledByConsumer(), ConsumerKey("S", "c")
    memory = shared.attach(key, "today", 0.0)
    memory.add(StreamSeq(1), STORED_NS, 0.0)
    assert list(shared.doubted(0.0)) == []
    memory.lose({StreamSeq(2): STORED_NS})
    memory.recover(1.0, timeout=1.0)
    assert list(shared.doubted(1.0)) == [(key, "today", {1: STORED_NS, 2: STORED_NS})]
    assert list(shared.doubted(4.0 + AFTERWARDS)) == []


def test_another_consumer_of_the_name_has_settled_nothing() -> None:
    """A consumer that was deleted and made anew does not inherit what is known."""
    shared, key = SettledByConsumer(), ConsumerKey("S", "c")
    assert shared.attach(key, "today", 0.0) is not shared.attach(key, "yesterday", 0.0)


def test_what_was_settled_lately() -> None:
    """It is known also while nothing is doubted, and what is in doubt belongs to it."""
    memory = settled(0.0)
    assert memory.lately(StreamSeq(1), STORED_NS)
    assert not memory.lately(StreamSeq(2), STORED_NS)
    memory.lose({StreamSeq(2): STORED_NS})
    assert memory.lately(StreamSeq(2), STORED_NS)


def test_what_others_have_settled_is_known_to_calls_that_come_later() -> None:
    """Clients come over from a server that died after it had said what the broker may have forgotten."""
    consumers = SettledByConsumer()
    consumers.hear(ConsumerKey("S", "c"), "then", {StreamSeq(1): STORED_NS}, 0.0)
    call = consumers.attach(ConsumerKey("S", "c"), "then", 1.0)
    call.begin(1.0, 3.0)
    assert call.knows(StreamSeq(1), STORED_NS, 2.0)
    consumers.detach(ConsumerKey("S", "c"), "then", 3.0)
    consumers.hear(ConsumerKey("S", "d"), "then", {StreamSeq(1): STORED_NS}, 500.0)
    assert len(consumers) == 1


def test_consumers_without_a_call_are_doubted_too() -> None:
    """What the last call of a consumer settled before the connection ended is known to the next one."""
    shared, key = SettledByConsumer(), ConsumerKey("S", "c")
    shared.attach(key, "today", 0.0).add(StreamSeq(1), STORED_NS, 0.0)
    shared.detach(key, "today", 0.1)
    shared.lose()
    memory = shared.attach(key, "today", 1.0)
    assert memory.doubted
    assert known(memory, 1.0) == [1]


def test_an_event_that_got_the_id_of_a_settled_one_is_not_settled() -> None:
    """A broker that has lost its last events assigns their ids again; nobody has had the new ones."""
    memory = settled(0.0, 0.1)
    assert not memory.lately(StreamSeq(1), STORED_NS + 1)
    memory.lose({StreamSeq(3): STORED_NS})
    assert known(memory, 1.0) == [1, 2, 3]
    assert known(memory, 1.0, STORED_NS + 1) == []
    assert not memory.lately(StreamSeq(3), STORED_NS + 1)


def test_both_events_of_an_id() -> None:
    """The later one is settled, and in doubt after the next loss, whatever was known of the earlier one."""
    memory = settled(0.0)
    memory.lose({})
    memory.add(StreamSeq(1), STORED_NS + 1, 0.5)
    memory.lose({})
    assert known(memory, 1.0, STORED_NS + 1) == [1]
    assert memory.forgettable == {1: STORED_NS + 1}


def test_a_settled_event_of_which_the_time_is_not_known() -> None:
    """Older servers do not say it; whatever comes by its id is taken for it."""
    memory = Settled()
    memory.hear({StreamSeq(1): ANY_TIME}, 0.0)
    assert known(memory, 1.0) == known(memory, 1.0, STORED_NS + 1) == [1]
    assert memory.lately(StreamSeq(1), STORED_NS)


def test_calls_that_begin_all_the_time_do_not_keep_it_for_ever() -> None:
    """Only the first call after a loss says how long; the broker is asked by those that there are."""
    memory = settled(0.0)
    memory.lose({})
    memory.users = 2
    for now in range(200):
        memory.begin(float(now), timeout=1.0)
        memory.add(StreamSeq(2), STORED_NS, float(now))
    assert known(memory, 2 + AFTERWARDS) == [1]
    assert known(memory, 2.1 + AFTERWARDS) == []
    assert not memory.doubted


def test_time_without_calls_does_not_count() -> None:
    """What the broker has forgotten it delivers only when somebody asks."""
    shared, key = SettledByConsumer(), ConsumerKey("S", "c")
    memory = shared.attach(key, "today", 0.0)
    memory.add(StreamSeq(1), STORED_NS, 0.0)
    shared.lose()
    memory.begin(1.0, timeout=1.0)
    shared.detach(key, "today", 2.0)
    shared.attach(key, "today", 102.0).begin(102.0, timeout=1.0)
    assert known(memory, 103 + AFTERWARDS) == [1]
    assert known(memory, 103.1 + AFTERWARDS) == []


def test_what_is_heard_without_a_call_is_kept_for_the_next_one() -> None:
    """For as long as that may be delivered it again, however long the consumer's timeout."""
    shared, key = SettledByConsumer(), ConsumerKey("S", "c")
    shared.attach(key, "today", 0.0).begin(0.0, timeout=1.0)
    shared.detach(key, "today", 0.0)
    shared.hear(key, "today", {StreamSeq(1): STORED_NS}, 100.0)
    memory = shared.attach(key, "today", 101.0)
    memory.begin(101.0, timeout=100.0)
    assert known(memory, 101 + 200 + HEARSAY / 2) == [1]
