"""What proxies say of their clients, and what only looks like it."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import example, given
from hypothesis import strategies as st

from tests._gen.grpc.testing import messages_pb2
from tests.support.certificates import Authority
from windshift.rpc import LOOPBACK, AdmissionOptions, ServerCall, ServerOptions, client_tls, server_tls
from windshift.rpc.proxy_protocol import ClientAddress, parse

from .frames import Peer
from .serving import UNARY, echo, eventually, server_options, serving, simple

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V4 = bytes((192, 0, 2, 1, 127, 0, 0, 1)) + struct.pack(">HH", 4711, 443)
V6 = bytes.fromhex("20010db8" + "00" * 11 + "01") + bytes(16) + struct.pack(">HH", 4711, 443)


def version_2(command: int, family: int, rest: bytes) -> bytes:
    """Write a header of version 2."""
    return SIGNATURE + bytes((command, family)) + struct.pack(">H", len(rest)) + rest


WHOLE = {
    b"PROXY TCP4 192.0.2.1 127.0.0.1 4711 443\r\n": ClientAddress("192.0.2.1", 4711),
    b"PROXY TCP6 2001:db8::1 ::1 4711 443\r\n": ClientAddress("2001:db8::1", 4711),
    b"PROXY UNKNOWN\r\n": None,
    b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n": None,
    version_2(0x21, 0x11, V4): ClientAddress("192.0.2.1", 4711),
    version_2(0x21, 0x11, V4 + b"\x03\0\x04abcd"): ClientAddress("192.0.2.1", 4711),
    version_2(0x21, 0x21, V6): ClientAddress("2001:db8::1", 4711),
    version_2(0x21, 0x31, bytes(216)): None,  # a Unix socket
    version_2(0x20, 0x11, V4): None,
    version_2(0x20, 0, b""): None,
}
MALFORMED = [
    b"GET / HTTP/1.1\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\0\x01",
    b"PROXY TCP4 192.0.2.1 127.0.0.1 4711\r\n",
    b"PROXY TCP4 192.0.2.1 127.0.0.1 4711 443\n",
    b"PROXY TCP4 2001:db8::1 ::1 4711 443\r\n",
    b"PROXY TCP6 192.0.2.1 127.0.0.1 4711 443\r\n",
    b"PROXY TCP4 192.0.2.1 127.0.0.1 70000 443\r\n",
    b"PROXY TCP4 \xff 127.0.0.1 1 443\r\n",
    b"PROXY TCP4  192.0.2.1 127.0.0.1 1 443\r\n",
    b"PROXY UDP4 192.0.2.1 127.0.0.1 1 443\r\n",
    b"PROXY UNKNOWN" + b"x" * 100 + b"\r\n",
    b"proxy UNKNOWN\r\n",
    version_2(0x11, 0x11, V4),
    version_2(0x22, 0x11, V4),
    version_2(0x21, 0x11, V4[:-1]),
    version_2(0x21, 0x21, V4),
    version_2(0x21, 0x11, bytes(5000)),
]


@pytest.mark.parametrize("header", WHOLE)
def test_headers_are_read_in_any_pieces(header: bytes) -> None:
    """And nothing behind them is taken for a part."""
    for size in range(len(header)):
        assert parse(header[:size]) is None
    for behind in (b"", b"PRI", b"\r\n", header):
        assert parse(header + behind) == (len(header), WHOLE[header])


@pytest.mark.parametrize("data", MALFORMED)
def test_what_is_no_header_is_refused(data: bytes) -> None:
    """Whatever it is instead."""
    with pytest.raises(ValueError, match=r"."):
        parse(data)


@given(
    st.one_of(
        st.binary(),
        st.sampled_from([b"PROXY ", SIGNATURE + b"\x21"]).flatmap(lambda a: st.binary().map(a.__add__)),
    )
)
@example(b"")
def test_no_bytes_do_harm(data: bytes) -> None:
    """They are a header, or too few for one, or refused."""
    try:
        found = parse(data)
    except ValueError:
        return
    if found is None:
        assert len(data) < 4096
    else:
        assert found[0] <= len(data)


# -- at a server --------------------------------------------------------------------------------------------


def behind_proxy(**admission: Any) -> ServerOptions:
    """Return options of a server whose clients all come by a proxy."""
    options = AdmissionOptions(proxies=LOOPBACK, **admission)
    return server_options(proxy_protocol=LOOPBACK, admission=options)


@pytest.mark.parametrize("encrypted", [False, True])
async def test_the_clients_address_counts(tmp_path: Path, encrypted: bool) -> None:
    """For the call, and for the limit of connections; the header comes before TLS."""
    peers: list[str] = []

    async def handler(request: messages_pb2.SimpleRequest, call: ServerCall) -> Message:
        peers.append(call.peer)
        return await echo(request, call)

    authority = Authority(tmp_path)
    own = authority.issue("api")
    ssl = server_tls(own.certificate, own.key) if encrypted else None
    options = behind_proxy(per_address=1)
    async with serving(options, ssl=ssl, unary_call=handler) as running:

        async def connect(header: bytes) -> Peer:
            sock = socket.create_connection(running.address)
            sock.sendall(header[:5])
            await asyncio.sleep(0.02)
            sock.sendall(header[5:])
            tls = client_tls(authority.certificate) if encrypted else None
            name = "localhost" if encrypted else None
            return Peer(*await asyncio.open_connection(sock=sock, ssl=tls, server_hostname=name))

        for header, client in WHOLE.items():
            async with await connect(header) as peer:
                await peer.start()
                assert (await peer.call(UNARY, simple(b"x"))).status == 0
                assert (
                    client is None or peers[-1].strip("[").replace("]", "") == f"{client.host}:{client.port}"
                )
            await eventually(lambda: running.server.connection_limiter.taken == 0)
        async with await connect(next(iter(WHOLE))) as peer:
            await peer.start()
            with suppress(OSError):  # in its TLS handshake
                async with await connect(next(iter(WHOLE))) as second:
                    await second.frame()
                    assert second.ended
            assert +running.server.connection_limiter.refused == {"address": 1}


async def test_a_connection_without_a_header_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """As is one that closes; both leave their places."""
    async with serving(behind_proxy(), unary_call=echo) as running:
        async with await running.peer(start=False) as peer:
            peer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            await peer.frame()
            assert peer.ended
        assert "it does not begin with a PROXY header" in caplog.text
        with socket.create_connection(running.address) as sock:
            sock.sendall(b"PROXY TCP4")
        await eventually(lambda: running.server.connection_limiter.taken == 0)


async def test_a_server_that_is_closed_waits_for_no_header() -> None:
    """The connection is closed with the others."""
    async with serving(behind_proxy(), unary_call=echo) as running:
        with socket.create_connection(running.address) as sock:
            await eventually(lambda: running.server.connection_limiter.taken == 1)
            await asyncio.sleep(0.02)
            running.server.close()
            sock.setblocking(False)
            async with asyncio.timeout(30):
                assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
            await eventually(lambda: running.server.connection_limiter.taken == 0)
