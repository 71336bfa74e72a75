"""When a call is answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest

from windshift.rpc import ServerCall
from windshift.server.api.deadlines import DEFAULT, LONGEST, answer_by


@dataclass(frozen=True, slots=True)
class Call:
    """As much of a call as counts here."""

    started: float
    deadline: float | None


@pytest.mark.parametrize(
    ("allowed", "answered"),
    [(0.1, 0.09), (1, 0.9), (2, 1.88), (10, 9.8), (1e9, LONGEST * 0.99 - 0.1), (None, DEFAULT), (0, 0)],
)
def test_a_little_before_the_deadline(allowed: float | None, answered: float) -> None:
    """The answer comes a tenth of the time before its end, or at most 0.1 s and a hundredth of it.

    A client that does not say how long it waits is answered nevertheless.
    """
    deadline = None if allowed is None else 100 + allowed
    assert answer_by(cast("ServerCall", Call(100, deadline))) == pytest.approx(100 + answered)


def test_calls_that_stream() -> None:
    """A call that lasts as long as its client likes has answers until a little before that."""
    call = cast("ServerCall", Call(100, 100 + 10 * LONGEST))
    assert answer_by(call, streams=True) == pytest.approx(100 + 10 * LONGEST - LONGEST * 0.01 - 0.1)
    assert answer_by(cast("ServerCall", Call(100, 110)), streams=True) == pytest.approx(109.8)


def test_without_a_deadline() -> None:
    """A call without a deadline counts as one with 15 seconds, as the API says."""
    assert answer_by(cast("ServerCall", Call(100, None))) == 115


@pytest.mark.parametrize(("meant", "sent"), [(2, 2.01), (10, 10.1), (100, 101)])
def test_timeouts_that_were_rounded_up(meant: float, sent: float) -> None:
    """A client may round its timeout up by as much as a hundredth, and wait no longer than was meant."""
    assert answer_by(cast("ServerCall", Call(100, 100 + sent))) <= 100 + meant - 0.09
