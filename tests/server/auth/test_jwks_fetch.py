"""Fetching a key set from servers that may be slow, endless, or somebody else."""

from __future__ import annotations

import os
import re
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from time import monotonic

import pytest

from tests.support.certificates import Authority
from tests.support.jwks_server import KeyServer, content, key_server
from windshift.server.auth.jwks_fetch import SIZE_LIMIT, NotFetched, fetch

SOON = 0.3
"""A time limit for what would never end."""
LONG = 5.0
"""Seconds within which such a fetch has ended, on however slow a machine."""


def tls(authority: Authority, name: str = "localhost") -> ssl.SSLContext:
    """Return a server's context with a certificate for a host."""
    pair = authority.issue(name, dns=[name])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    return context


def test_a_file_is_read(tmp_path: Path) -> None:
    """A path gives what the file holds."""
    path = tmp_path / "keys.json"
    path.touch(0o644)
    path.write_bytes(b"{}")
    assert fetch(str(path)) == b"{}"


def test_a_file_that_others_may_change_is_refused(tmp_path: Path) -> None:
    """Whoever may write to an issuer's keys, or put others in their place, signs tokens for everybody."""
    directory = tmp_path / "shared"
    directory.mkdir()
    path = directory / "keys.json"
    path.write_bytes(b"{}")
    for file, folder, told in (
        (0o620, 0o755, f"a group may write to the file; chmod go-w {path}"),
        (0o602, 0o755, f"anybody on this machine may write to the file; chmod go-w {path}"),
        (0o644, 0o777, "anybody on this machine may replace the file; "),
    ):
        path.chmod(file)
        directory.chmod(folder)
        with pytest.raises(NotFetched, match=re.escape(told)):
            fetch(str(path))
    directory.chmod(0o1777)
    assert fetch(str(path)) == b"{}"


def test_a_file_that_is_no_key_set_is_refused(tmp_path: Path) -> None:
    """A missing file, a directory, a pipe that nobody writes to, and a file that is too large are refused."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b" " * (SIZE_LIMIT + 1))
    for name in ("missing", "pipe", "large", ""):
        with pytest.raises(NotFetched) as caught:
            fetch(str(tmp_path / name))
        assert str(tmp_path) not in str(caught.value)


def test_a_key_set_is_fetched() -> None:
    """The path and the query are asked for, with the host's name."""
    with key_server(content(b"{}")) as server:
        assert fetch(server.url) == b"{}"
    ((path, headers),) = server.requests
    assert path == "/keys?v=1"
    assert f"http://{headers['host']}{path}" == server.url


def test_a_key_set_may_come_in_chunks() -> None:
    """The length need not be known beforehand."""

    def chunked(request: BaseHTTPRequestHandler) -> None:
        request.protocol_version = "HTTP/1.1"
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.wfile.write(b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n")

    with key_server(chunked) as server:
        assert fetch(server.url) == b"{}"


def test_https_is_verified_by_the_systems_authorities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate of an authority in SSL_CERT_FILE is trusted, and another one is not."""
    authority = Authority(tmp_path)
    with key_server(content(b"{}"), tls(authority)) as server:
        with pytest.raises(NotFetched, match="certificate is not valid"):
            fetch(server.url)
        assert server.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
        assert fetch(server.url) == b"{}"


def test_a_certificate_must_be_the_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate for another host is refused, whoever signed it."""
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    with (
        key_server(content(b"{}"), tls(authority, "elsewhere.example")) as server,
        pytest.raises(NotFetched, match="certificate is not valid"),
    ):
        fetch(server.url)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status: int) -> None:
    """Whoever answers with another place is not obeyed."""
    with key_server(content(b"{}")) as other, key_server(content(b"", status, Location=other.url)) as server:
        with pytest.raises(NotFetched, match=str(status)):
            fetch(server.url)
        assert len(server.requests) == 1
        assert other.requests == []


@pytest.mark.parametrize("status", [201, 204, 404, 500])
def test_other_statuses_are_refused(status: int) -> None:
    """Only 200 comes with a key set."""
    with key_server(content(b"{}", status)) as server, pytest.raises(NotFetched, match=str(status)):
        fetch(server.url)


@pytest.mark.parametrize("length", [True, False])
def test_an_answer_that_is_too_large_is_refused(length: bool) -> None:
    """Of 10 MiB no more than 1 is read, whether the answer says beforehand how long it is or not."""
    sent = 0

    def large(request: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        request.send_response(200)
        if length:
            request.send_header("Content-Length", str(10 << 20))
        request.end_headers()
        for _ in range(160):
            request.wfile.write(bytes(1 << 16))
            sent += 1 << 16

    with key_server(large) as server, pytest.raises(NotFetched, match=r"more than|too large"):
        fetch(server.url)
    assert sent < 10 << 20


def test_a_head_that_is_too_large_is_refused() -> None:
    """Headers without end are not read to their end."""

    def endless(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(1_000_000):
            request.wfile.write(b"x-%d: %s\r\n" % (number, b"x" * 60_000))

    with key_server(endless) as server, pytest.raises(NotFetched):
        fetch(server.url)


def drip(server_closing: threading.Event, request: BaseHTTPRequestHandler, piece: bytes) -> None:
    """Write a piece again and again, slowly, until the client goes."""
    while not server_closing.wait(0.02):
        request.wfile.write(piece)


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"", b"x"),
        (b"HTTP/1.1 200 OK\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"", b""),
    ],
)
def test_a_server_that_trickles_is_given_up_on(begin: bytes, piece: bytes) -> None:
    """The time limit holds for the whole fetch, however often something comes."""

    def trickle(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(begin)
        drip(server.closing, request, piece)

    with key_server(trickle) as server:
        started = monotonic()
        with pytest.raises(NotFetched):
            fetch(server.url, SOON)
        assert monotonic() - started < LONG


def test_a_handshake_that_does_not_come_is_given_up_on() -> None:
    """A server that accepts https and says nothing costs no more time than another."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(NotFetched, match="too long"):
            fetch(f"https://localhost:{port}/keys", SOON)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz",
    ],
)
def test_what_is_no_answer_is_refused(answer: bytes) -> None:
    """A server that speaks something else is refused."""

    def odd(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(answer)

    with key_server(odd) as server, pytest.raises(NotFetched):
        fetch(server.url)


@pytest.mark.parametrize(
    "url",
    [
        "https://",
        "https:///keys",
        "https://localhost:99999/keys",
        "https://localhost:x/keys",
        "https://[::1/keys",
        "http://127.0.0.1:1/a b",
        "https://no-such-host.invalid/keys",
        f"https://{'x' * 300}.example/keys",
    ],
)
def test_a_url_that_leads_nowhere_is_refused(url: str) -> None:
    """Whatever is wrong with a URL, it is said without the URL."""
    with pytest.raises(NotFetched) as caught:
        fetch(url)
    assert url not in str(caught.value)


def test_a_host_that_refuses_connections_is_refused() -> None:
    """A server that is down is an error like any other."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(NotFetched):
        fetch(f"http://127.0.0.1:{port}/keys")


def test_plain_http_is_for_loopback_only() -> None:
    """Another address of this machine is spoken to over https only."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address = probe.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    with socket.create_server((address, 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(NotFetched, match="loopback"):
            fetch(f"http://{address}:{port}/keys")


def test_the_second_address_of_a_host_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose first address does not answer is reached by its second."""
    with key_server(content(b"{}")) as server, socket.create_server(("127.0.0.1", 0)) as closed:
        dead = closed.getsockname()
        closed.close()
        resolve = socket.getaddrinfo
        alive = resolve("127.0.0.1", address_port(server), type=socket.SOCK_STREAM)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(*alive[0][:4], dead), *alive])
        assert fetch(server.url) == b"{}"


def address_port(server: KeyServer) -> int:
    """Return the port of a server."""
    return int(server.url.split(":")[2].partition("/")[0])
