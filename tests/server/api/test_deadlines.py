"""When a call is answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest

from windshift.rpc import ServerCall
from windshift.server.api.deadlines import LONGEST, UNSAID, answer_by


@dataclass(frozen=True, slots=True)
class Call:
    """As much of a call as counts here."""

    started: float
    deadline: float | None


@pytest.mark.parametrize(
    ("allowed", "answered"),
    [(0.1, 0.09), (1, 0.9), (10, 9.9), (1e9, LONGEST - 0.1), (None, UNSAID), (0, 0)],
)
def test_a_little_before_the_deadline(allowed: float | None, answered: float) -> None:
    """The answer leaves a tenth of the time, and at most 0.1 s, before the client stops waiting.

    A client that does not say how long it waits is answered nevertheless.
    """
    deadline = None if allowed is None else 100 + allowed
    assert answer_by(cast("ServerCall", Call(100, deadline))) == pytest.approx(100 + answered)


def test_without_a_deadline() -> None:
    """A call without a deadline counts as one with 15 seconds, as the API says."""
    assert answer_by(cast("ServerCall", Call(100, None))) == 115
