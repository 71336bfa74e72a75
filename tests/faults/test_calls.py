"""What clients make of grpcio's errors, and what a run counts of them."""

from __future__ import annotations

from pathlib import Path

import grpc
import grpc.aio
import pytest

from tests.faults.calls import Refused, read_refused
from tests.faults.run import Options, Run, Scenario, play_watched


def refused(code: grpc.StatusCode, text: str) -> Refused:
    """Read an error that has no reason."""
    return read_refused(
        "PublishEvent", grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), text)
    )


@pytest.mark.parametrize(
    ("code", "text", "retryable"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", True),
        (grpc.StatusCode.INTERNAL, "Internal error from Core", True),
        (grpc.StatusCode.INTERNAL, "the server failed", False),
    ],
)
def test_lost_connections(code: grpc.StatusCode, text: str, retryable: bool) -> None:
    """They are repeated, also where grpcio has another code for them; nothing else that is INTERNAL is."""
    assert refused(code, text).retryable is retryable
    assert not retryable or not refused(code, text).certain


async def test_codes_that_are_not_unavailable_are_counted(tmp_path: Path) -> None:
    """The figures of a run say how often grpcio reported a lost connection as INTERNAL."""

    async def play(run: Run) -> None:
        for text in ("Internal error from Core", "Socket closed", "Internal error from Core"):
            code = grpc.StatusCode.INTERNAL if "Core" in text else grpc.StatusCode.UNAVAILABLE
            run.history.failures.append(refused(code, text).failure)

    run = Run("some", tmp_path, 1, Options())
    await play_watched(Scenario("some", "", play), run)
    assert run.counts == {"lost connections that grpc.aio reported as INTERNAL": 2}
