"""Tokens, by which a client goes on with deliveries of an earlier call."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windshift.server.domain.errors import InvalidField
from windshift.server.events.consuming.tokens import Resumed, Tokens, check_token
from windshift.server.events.model import ConsumerKey, StreamSeq

KEY_OF_C = bytes(range(16))
CONSUMER = ConsumerKey("S", "c")
REPLY = b"$JS.ACK.S.c.2.17.40.1700000000000000000.5"
IN_A_DOMAIN = b"$JS.ACK.hub.ACCOUNT.S.c.2.17.40.1700000000000000000.5.token"


def tokens(
    consumer: ConsumerKey = CONSUMER, key: bytes = KEY_OF_C, principal: str = "p", broker: str = "n1"
) -> Tokens:
    """Make tokens at a certain time."""
    return Tokens(consumer, key, principal, broker, lambda: 123)


@pytest.mark.parametrize("reply", [REPLY, IN_A_DOMAIN])
def test_a_token_is_read_back(reply: bytes) -> None:
    """By any server with the consumer's key; it is no longer than it needs to be."""
    token = tokens().write(reply)
    assert tokens().read(token) == Resumed(StreamSeq(17), 2, reply, 123, is_same_broker=True)
    assert len(tokens().write(REPLY)) < 70
    check_token("resume", token)


def test_another_broker() -> None:
    """It is told that a token was made under another nats-server process, also after a reconnect."""
    other = tokens(broker="n2")
    read = other.read(tokens().write(REPLY))
    assert read is not None
    assert not read.is_same_broker
    other.connected("n1")
    assert other.read(tokens().write(REPLY)) == tokens().read(tokens().write(REPLY))


@pytest.mark.parametrize(
    "other",
    [
        tokens(key=bytes(16)),
        tokens(principal="q"),
        tokens(principal=""),
    ],
)
def test_a_token_of_somebody_else(other: Tokens) -> None:
    """It is worth nothing to another consumer and to another principal."""
    assert tokens().read(other.write(REPLY)) is None


def test_another_key() -> None:
    """Earlier tokens are worth nothing then; no key changes nothing."""
    ours = tokens()
    token = ours.write(REPLY)
    ours.use(b"")
    assert ours.read(token) is not None
    ours.use(bytes(16))
    assert ours.read(token) is None
    assert ours.read(ours.write(REPLY)) is not None


@given(st.binary(min_size=29, max_size=1024))
def test_nonsense(token: bytes) -> None:
    """It may look like a token, and is none."""
    check_token("resume", token)
    assert tokens().read(token) is None


@pytest.mark.parametrize("size", [0, 1, 28, 1025])
def test_what_no_server_wrote(size: int) -> None:
    """It is refused where it is too short or too long."""
    with pytest.raises(InvalidField):
        check_token("resume", bytes(size))
