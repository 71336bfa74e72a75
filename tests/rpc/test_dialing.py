"""Targets, and what people read when a server cannot be reached."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest

from windshift.rpc.dialing import describe, split_target


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("localhost:1", ("localhost", 1)),
        ("10.0.0.1:65535", ("10.0.0.1", 65_535)),
        ("[::1]:50051", ("::1", 50_051)),
        ("events.example.com:443", ("events.example.com", 443)),
    ],
)
def test_targets(target: str, parts: tuple[str, int]) -> None:
    """A host and a port, an IPv6 address in brackets."""
    assert split_target(target) == parts


@pytest.mark.parametrize(
    "target",
    ["", "localhost", ":1", "localhost:", "localhost:x", "localhost:0", "localhost:65536", "::1:5", "[]:1"],
)
def test_what_is_no_target(target: str) -> None:
    """Anything else is refused at once, with what to write instead."""
    with pytest.raises(ValueError, match="host:port"):
        split_target(target)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (TimeoutError(), "does not answer"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "connection refused"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "name cannot be resolved: Name"),
        (ssl.SSLError(1, "[SSL] wrong version number"), "TLS failed"),
        (ConnectionError("it ended the connection at once"), "it ended the connection at once"),
    ],
)
def test_reasons(error: OSError, text: str) -> None:
    """Each failure says what it is in words."""
    assert text in describe(error)
