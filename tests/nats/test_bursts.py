"""The answers to messages that were sent together, whichever of them come together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.broker import Broker
from windshift.nats.jetstream.acks import PubAck, plain_ack, plain_acks
from windshift.nats.jetstream.bursts import Burst, Bursts
from windshift.nats.jetstream.writes import Write
from windshift.nats.requests import NoReply

A, B, C = b"a", b"b", b"c"

# --- Acknowledgements -------------------------------------------------------------------------------------

ODD = (
    None,
    NoReply.TIMED_OUT,
    PubAck("s", 1),
    b"",
    b"{}",
    b'{"stream":"s","seq":}',
    b'{"stream":"s","seq":1,"duplicate":true}',
    b'{"stream":"s","seq": 1}',
    b'{"stream":"s","seq":1_0}',
    b'{"stream":"other","seq":1}',
    b'{"stream":"s","seq":1}\n',
    b'{"stream":"s","seq":1}\n{"stream":"s","seq":2}',
    b'{"stream":"s","seq":1',
    b'{"stream":"s',
    b'{"error":{"code":503,"err_code":10077},"stream":"s","seq":0}',
)
stored = st.integers(0, 2**64).map(lambda seq: b'{"stream":"s","seq":%d}' % seq)


@given(st.lists(st.one_of(stored, stored, stored, st.sampled_from(ODD)), max_size=6))
def test_several_acknowledgements(answers: list[object]) -> None:
    """They say together what they say one by one, and nothing if one is anything else or another stream's."""
    single = [plain_ack(answer) if isinstance(answer, bytes) else None for answer in answers]
    is_plain = (
        bool(answers) and len(set(single) & {None}) == 0 and len({ack and ack.stream for ack in single}) == 1
    )
    together = plain_acks(answers)
    assert (together and list(together)) == (single if is_plain else None)


def test_what_is_stored() -> None:
    """It can be asked for one by one."""
    both = plain_acks([b'{"stream":"s","seq":7}', b'{"stream":"s","seq":9}'])
    assert both is not None
    assert (len(both), both[0], both[1]) == (2, PubAck("s", 7), PubAck("s", 9))


# --- Bursts -----------------------------------------------------------------------------------------------


def burst_of(count: int) -> Burst:
    """Make a burst that was sent."""
    return Burst(b"7", [b"s.a"] * count, asyncio.get_running_loop())


@pytest.mark.parametrize(
    ("suffixes", "taken"),
    [
        ([b"7.0", b"7.1", b"7.2"], 3),
        ([b"7.1", b"7.2"], 2),
        ([b"7.1", b"7.2", b"8.0"], 2),
        ([b"7.1", b"8.0", b"7.2"], 0),
        ([b"7.0", b"7.2"], 0),
        ([b"7.1", b"7.0"], 0),
        ([b"7.3"], 0),
        ([b"7.1000"], 0),
        ([b"7.-1"], 0),
        ([b"7.x", b"7.y"], 0),
        ([b"7"], 0),
    ],
)
async def test_replies_that_follow_each_other(suffixes: list[bytes], taken: int) -> None:
    """Those to messages of the burst that were sent one after the other are taken together, and no others."""
    burst = burst_of(3)
    place = suffixes[0].partition(b".")[2]
    assert burst.take_run(place, suffixes, [A, B, C][: len(suffixes)]) == taken
    start = int(place) if taken else 0
    assert [answer is not None for answer in burst.answers] == [start <= n < start + taken for n in range(3)]
    assert burst.done.done() == (taken == 3)


async def test_only_the_first_answer_counts() -> None:
    """An answer that is there already is not replaced, also an empty one."""
    burst = burst_of(3)
    burst.take(b"1", b"")
    assert burst.take_run(b"0", [b"7.0", b"7.1", b"7.2"], [A, B, C]) == 0
    assert burst.answers == [None, b"", None]


class Told(Bursts):
    """Is told of answers by tests."""

    def tell(self, burst: Burst, places: Sequence[int], others: Sequence[bytes] = ()) -> None:
        """Tell of answers to messages at these places, and of others, as one run."""
        suffixes = [b"%b.%d" % (burst.token, place) for place in places]
        self._on_run([*others, *suffixes], [A] * (len(others) + len(suffixes)))


@pytest.mark.parametrize("places", [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 0, 1, 2], [0, 7, 1, 2]])
@pytest.mark.parametrize("others", [[], [b"x.0"], [b"x"], [b"1.x"]])
async def test_a_run_of_answers(broker: Broker, places: list[int], others: list[bytes]) -> None:
    """Each message gets its own, whatever else is among them."""
    bursts = Told(broker.connection)
    burst = bursts.send([Write(b"nobody", b"", b"NATS/1.0\r\n\r\n", 0)] * 3)
    bursts.tell(burst, places, others)
    assert burst.answers == [A, A, A]


async def test_a_run_of_answers_to_several_bursts(broker: Broker) -> None:
    """The end of one and the beginning of the next come together."""
    bursts = Told(broker.connection)
    first, second = (bursts.send([Write(b"nobody", b"", b"NATS/1.0\r\n\r\n", 0)] * 3) for _ in range(2))
    bursts.tell(first, [0])
    bursts.tell(second, [0, 1], [b"%b.1" % first.token, b"%b.2" % first.token])
    assert first.answers == [A, A, A]
    assert second.answers == [A, A, None]
