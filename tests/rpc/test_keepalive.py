"""Whether a silent peer is still there."""

from __future__ import annotations

from windshift.rpc.keepalive import Keepalive
from windshift.rpc.keepalive import KeepaliveAction as Action


def test_a_peer_that_sends_is_not_asked() -> None:
    """Whatever comes between two looks counts, however long they are apart."""
    keepalive = Keepalive(10.0, 5.0)
    assert [keepalive.check(received, received * 100.0) for received in range(4)] == [None] * 4


def test_silence_is_asked_about_once() -> None:
    """The interval counts from the look that noticed the last byte."""
    keepalive = Keepalive(10.0, 5.0)
    looks = [keepalive.check(7, now) for now in (1.0, 10.9, 11.0, 12.0)]
    assert looks == [None, None, Action.PING, None]


def test_a_peer_that_does_not_answer_is_gone() -> None:
    """It has the whole timeout to do so."""
    keepalive = Keepalive(10.0, 5.0)
    looks = [keepalive.check(0, now) for now in (0.0, 10.0, 15.0, 15.1)]
    assert looks == [None, Action.PING, None, Action.CLOSE]


def test_any_byte_is_an_answer() -> None:
    """The next silence is a new one: it is asked about after the whole interval."""
    keepalive = Keepalive(10.0, 5.0)
    looks = [keepalive.check(*look) for look in ((0, 0.0), (0, 10.0), (1, 99.0), (1, 108.9), (1, 109.0))]
    assert looks == [None, Action.PING, None, None, Action.PING]


def test_a_peer_that_is_let_rest_is_not_asked() -> None:
    """Nor given up, if it was asked before."""
    keepalive = Keepalive(10.0, 5.0)
    assert [keepalive.check(0, now) for now in (0.0, 10.0)] == [None, Action.PING]
    keepalive.restart()
    assert [keepalive.check(0, now) for now in (99.0, 109.0)] == [None, Action.PING]


def test_without_an_interval_nobody_is_asked() -> None:
    """Silence never means anything then."""
    keepalive = Keepalive(0.0, 5.0)
    assert {keepalive.check(0, now) for now in (0.0, 1e6, 2e6)} == {None}
