"""Mirrors and aggregates whose principal loses the right to what they copy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.authorization.policies import ALL, principal
from tests.authorization.served import Served, served
from tests.support.client import refused
from tests.support.nats_server import NatsServer
from tests.wire.burying import delete_stream
from tests.wire.management import ensure_stream, stored_stream

ROLE = """
[role.maker]
streams = { manage = ["COPY-*"], consume = ["ORIGIN"], subjects = ["origin.a.>", "origin.b"] }
"""
LESS = ROLE.replace('"origin.a.>", ', "")
POLICY = ALL + principal("all") + principal("maker")
MEMORY = {"type": "STORAGE_TYPE_MEMORY"}
AGGREGATE: dict[str, Any] = {
    "storage": MEMORY,
    "aggregate": {"sources": [{"name": "ORIGIN", "filter_subjects": ["origin.a.x", "origin.b"]}]},
}
MIRROR: dict[str, Any] = {"storage": MEMORY, "mirror": {"name": "ORIGIN", "filter_subjects": ["origin.a.>"]}}


@pytest.fixture
def server(nats_server: NatsServer, tmp_path: Path) -> Iterator[Served]:
    """Run a process by whose rules somebody copies another stream."""
    with served(tmp_path, POLICY + ROLE, NATS_URL=nats_server.url) as server:
        server.caller("all").ensure_stream("ORIGIN", "origin.>")
        maker = server.caller("maker")
        ensure_stream(maker, "COPY-mirror", **MIRROR)
        ensure_stream(maker, "COPY-aggregate", **AGGREGATE)
        yield server
        for name in ("COPY-mirror", "COPY-aggregate", "ORIGIN"):
            delete_stream(nats_server, name)


def denied(server: Served, count: int) -> None:
    """Wait until as many copies are denied."""
    server.process.wait_for(lambda: server.seen().value("windshift_auth_denied_copies") == count)


def test_a_right_that_is_lost(nats_server: NatsServer, server: Served) -> None:
    """It is told, once for each subject, and nothing is changed; its principal may ensure them no longer."""
    maker = server.caller("maker")
    denied(server, 0)
    server.put(POLICY + LESS)
    denied(server, 2)
    found = {(record["stream"], record["resource"]): record for record in server.records(event="copying")}
    assert found.keys() == {("COPY-mirror", "ORIGIN origin.a.>"), ("COPY-aggregate", "ORIGIN origin.a.x")}
    told = found["COPY-mirror", "ORIGIN origin.a.>"]
    assert told["message"] == (
        "copying: stream 'COPY-mirror' goes on, though 'maker' may not copy 'origin.a.>' from stream 'ORIGIN'"
    )
    assert (told["logger"], told["principal"], told["verb"]) == ("windshift.audit", "maker", "copy")
    assert "role maker" in told["rule"]
    for name, fields in (("COPY-mirror", MIRROR), ("COPY-aggregate", AGGREGATE)):
        with refused("PERMISSION_DENIED", "PERMISSION_DENIED"):
            ensure_stream(maker, name, **fields)
    stored = asyncio.run(stored_stream(nats_server, "COPY-aggregate"))["config"]
    assert len(stored["sources"][0]["subject_transforms"]) == 2
    server.hang_up()
    assert len(server.records(event="copying")) == 2


def test_a_right_that_comes_back(server: Served) -> None:
    """Then nothing is denied any more, and when it is lost again, that is told again."""
    for times in (1, 2):
        server.put(POLICY + LESS)
        denied(server, 2)
        assert len(server.records(event="copying")) == 2 * times
        server.put(POLICY + ROLE)
        denied(server, 0)


def test_a_principal_that_is_gone(server: Served) -> None:
    """What it copied is nobody's, until somebody with the right ensures it."""
    server.put(ALL + principal("all"))
    denied(server, 3)
    assert {record["rule"] for record in server.records(event="copying")} == {
        "the file has no principal of that name"
    }
    ensure_stream(server.caller("all"), "COPY-mirror", **MIRROR)
    server.hang_up()
    denied(server, 2)
    less: dict[str, Any] = {
        "storage": MEMORY,
        "aggregate": {"sources": [{"name": "ORIGIN", "filter_subjects": ["origin.b"]}]},
    }
    ensure_stream(server.caller("all"), "COPY-aggregate", **less)
    server.hang_up()
    denied(server, 0)


def test_without_a_principal(nats_server: NatsServer, server: Served) -> None:
    """Nobody is blamed for what was made without rules."""
    stored = asyncio.run(stored_stream(nats_server, "COPY-mirror"))["config"]
    assert stored["metadata"]["windshift.copier"] == "maker"
    assert "windshift.copier" not in asyncio.run(stored_stream(nats_server, "ORIGIN"))["config"].get(
        "metadata", {}
    )
