"""Errors name the stream that they are about, to those who may see it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.authorization.callers import Callers, callers_with_rules
from tests.authorization.policies import ALL, principal, put, token_of
from tests.support.client import Refusal, refused
from tests.support.nats_server import NatsServer
from tests.wire.looking import ask
from tests.wire.management import ensure_stream

POLICY = (
    ALL
    + """
[role.writer]
publish = ["secret.>"]
[role.maker]
streams = { manage = ["MINE"], bind = ["secret.>"] }
"""
    + principal("all")
    + principal("writer")
    + principal("maker")
)


@pytest.fixture
def callers(nats_server: NatsServer, tmp_path: Path) -> Iterator[Callers]:
    """Run a server with a stream that takes one event of at most 100 bytes."""
    file = put(tmp_path / "auth.toml", POLICY)
    with callers_with_rules(nats_server, file) as callers:
        admin = callers.with_token(token_of("all"))
        full = {"max_events": 1, "discard_policy": "DISCARD_POLICY_NEW"}
        subjects = {"subjects": ["secret.>"]}
        ensure_stream(admin, "SECRET", subjects=subjects, retention_policy=full, max_event_size=200)
        admin.publish("secret.a")
        yield callers
        ask(admin, "DeleteStream", name="SECRET")


def of_full(callers: Callers, name: str) -> Refusal:
    """Publish to the full stream."""
    with refused("RESOURCE_EXHAUSTED", "STREAM_FULL") as caught:
        callers.with_token(token_of(name)).publish("secret.a")
    return caught[0]


def of_too_large(callers: Callers, name: str) -> Refusal:
    """Publish an event that is too large for the stream."""
    with refused("INVALID_ARGUMENT", "EVENT_TOO_LARGE") as caught:
        callers.with_token(token_of(name)).publish("secret.a", "x" * 300)
    return caught[0]


def of_overlap(callers: Callers, name: str) -> Refusal:
    """Make a stream of subjects that the other has."""
    with refused("FAILED_PRECONDITION", "SUBJECTS_OVERLAP") as caught:
        ensure_stream(callers.with_token(token_of(name)), "MINE", subjects={"subjects": ["secret.a"]})
    return caught[0]


def test_named_to_those_who_may_see_it(callers: Callers) -> None:
    """Everybody else is told the same, without the name."""
    for refuse, other in ((of_full, "writer"), (of_too_large, "writer"), (of_overlap, "maker")):
        told, hidden = refuse(callers, "all"), refuse(callers, other)
        assert told.metadata["name"] == "SECRET"
        assert "'SECRET'" in told.message
        assert "name" not in hidden.metadata
        assert "SECRET" not in hidden.message
