"""NATS URLs, and what may not travel in plain text."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.support.broker import QUICK
from windshift.server.errors import BrokerUnavailable
from windshift.server.nats.connection import Connection
from windshift.server.nats.options import ConnectionOptions, ServerAddress, parse_servers


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("localhost", [ServerAddress("nats", "localhost", 4222)]),
        ("nats://a:1, tls://b", [ServerAddress("nats", "a", 1), ServerAddress("tls", "b", 4222)]),
        ("nats://[::1]:7", [ServerAddress("nats", "::1", 7)]),
        ("nats://me:p%40ss%2Cword@a", [ServerAddress("nats", "a", 4222, "me", "p@ss,word")]),
        ("nats://t0ken@a", [ServerAddress("nats", "a", 4222, "t0ken")]),
    ],
)
def test_urls(text: str, servers: list[ServerAddress]) -> None:
    """One or several URLs, with or without scheme, port and credentials."""
    assert list(parse_servers(text)) == servers


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "nats://",
            "ws://a",
            "http://me:s3cret@a",
            "nats://me:s3cret@a:port",
            "nats://a:1,",
            "nats://[x",
        ),
        *("nats://s3cret/more@a", "nats://me:42?s3cret@a", "nats://s3cret#more@a", "nats://a:1/s3cret"),
        *("nats://s3cret,more@a", "me:42,s3cret@a", "nats://a, nats://me:42,s3cret@b"),
    ],
)
def test_malformed_urls(text: str) -> None:
    """A malformed URL is refused without repeating what may be a password."""
    with pytest.raises(ValueError) as caught:
        parse_servers(text)
    assert "s3cret" not in str(caught.value)


def test_credentials_do_not_show() -> None:
    """Neither a server nor the options show a password when they are printed."""
    servers = parse_servers("nats://me:s3cret@[::1]:7")
    assert "s3cret" not in repr(servers) + servers[0].url + repr(ConnectionOptions(servers))
    assert servers[0].url == "nats://[::1]:7"


def test_discovered_servers_borrow_credentials() -> None:
    """A server that the cluster told us of gets the credentials of the first that has some."""
    options = ConnectionOptions(parse_servers("nats://a,nats://me:s3cret@b"))
    lent = options.with_credentials_of_pool(ServerAddress("nats", "c", 4222))
    assert (lent.host, lent.user, lent.password) == ("c", "me", "s3cret")
    own = ServerAddress("nats", "c", 4222, "other", "x")
    assert options.with_credentials_of_pool(own) is own


async def test_password_does_not_travel_in_plain_text() -> None:
    """A server that does not offer the TLS that was asked for is left before it hears the password."""
    heard = bytearray()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "x", "version": "2.15.1", "headers": True, "max_payload": 1024}
        writer.write(f"INFO {json.dumps(info)}\r\n".encode())
        heard.extend(await reader.read())
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        servers = parse_servers(f"tls://me:s3cret@127.0.0.1:{port}")
        options = replace(QUICK, servers=servers, start_timeout=timedelta(minutes=1))
        with pytest.raises(BrokerUnavailable, match="does not offer TLS"):
            await Connection(options).connect()
    assert b"s3cret" not in heard
