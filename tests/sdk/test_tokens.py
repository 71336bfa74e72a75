"""Tokens that are fetched: by functions, programs, from files that change, and from issuers that may hang."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

import windshift as ws
from tests.support.jwks_server import Answer, KeyServer, content, key_server
from windshift.protos import test
from windshift.sdk.contexts import token_of_command
from windshift.sdk.credentials import Credentials

Pairs = tuple[tuple[str, str], ...]


def bearer(text: str) -> Pairs:
    """Return the metadata with a token."""
    return (("authorization", f"Bearer {text}"),)


def in_seconds(seconds: float) -> datetime:
    """Return a time."""
    return datetime.now(UTC) + timedelta(seconds=seconds)


class Issuer:
    """An issuer of tokens.

    Attributes:
        url: the issuer.
        forms: what was asked for, with the header `authorization`.
        metadata: what its metadata has besides.
        token: how it answers who asks for a token; None = with one.
    """

    def __init__(self, server: KeyServer) -> None:
        self.url = server.url.removesuffix("/keys?v=1")
        self.forms: list[tuple[dict[str, list[str]], str | None]] = []
        self.metadata: dict[str, Any] = {}
        self.token: Answer | None = None
        server.answer = self.answer

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a request."""
        if request.command == "GET":
            assert request.path == "/.well-known/openid-configuration"
            known = {"issuer": self.url, "token_endpoint": f"{self.url}/token", **self.metadata}
            content(json.dumps(known).encode())(request)
            return
        form = parse_qs(request.rfile.read(int(request.headers["Content-Length"])).decode())
        self.forms.append((form, request.headers.get("Authorization")))
        token = {"access_token": f"t{len(self.forms)}", "token_type": "Bearer", "expires_in": 3600}
        (self.token or content(json.dumps(token).encode()))(request)

    def credentials(self, **options: Any) -> ws.ClientCredentials:
        """Return credentials for it."""
        return ws.ClientCredentials(issuer=self.url, client_id="ci", client_secret="a b%", **options)


@contextmanager
def issuer() -> Iterator[Issuer]:
    """Run an issuer."""
    with key_server(content(b"")) as server:
        yield Issuer(server)


async def test_client_credentials_give_a_token() -> None:
    """The issuer gets the secret as RFC 6749 says; the token has the life that it says."""
    with issuer() as its:
        token = await its.credentials(audience="windshift", scope="a b")()
        assert token.text == "t1"
        assert token.expires is not None
        assert 3590 < (token.expires - datetime.now(UTC)).total_seconds() <= 3600
        form, authorization = its.forms[0]
        assert form == {"grant_type": ["client_credentials"], "audience": ["windshift"], "scope": ["a b"]}
        assert authorization == "Basic " + base64.b64encode(b"ci:a+b%25").decode()
        its.metadata = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
        await its.credentials()()
        form, authorization = its.forms[1]
        assert (form["client_id"], form["client_secret"], authorization) == (["ci"], ["a b%"], None)
        assert "a b%" not in repr(its.credentials())


def hang(request: BaseHTTPRequestHandler) -> None:
    """Answer a byte now and then, without end."""
    request.send_response(200)
    request.end_headers()
    for _ in range(600):
        request.wfile.write(b" ")
        time.sleep(0.05)


def chunked(request: BaseHTTPRequestHandler) -> None:
    """Answer in chunks."""
    request.protocol_version = "HTTP/1.1"
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    for part in (b'{"access_token":"c",', b'"token_type":"bearer"}', b""):
        request.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (content(b'{"error":"invalid_client","error_description":"who"}', 401), r"401 \(invalid_client"),
        (content(b"", 302, Location="https://elsewhere.example"), "status 302"),
        (content(b"[]"), "something else than a JSON object"),
        (content(b"<html>"), "something else than a JSON object"),
        (content(b'{"access_token":"x","token_type":"mac"}'), "no bearer token"),
        (content(b'{"token_type":"bearer"}'), "no bearer token"),
        (content(b" " * (1 << 21)), "too large"),
        (lambda request: request.wfile.write(b"SSH-2.0-OpenSSH\r\n"), "does not speak HTTP"),
        (lambda _: None, "does not speak HTTP"),
        (hang, "took longer than 0.3 s"),
    ],
)  # fmt: skip
async def test_an_issuer_that_misbehaves(answer: Answer, why: str) -> None:
    """Whatever it does, the error comes in time, says why, and has no secret."""
    with issuer() as its:
        its.token = answer
        with pytest.raises(ws.TokenUnavailable, match=why) as caught:
            await its.credentials(timeout=0.3 if answer is hang else 30.0)()
        assert "a b%" not in str(caught.value)


async def test_an_issuer_that_answers_in_chunks_or_without_a_life() -> None:
    """Both are allowed; such a token is used until it is refused."""
    with issuer() as its:
        its.token = chunked
        assert await its.credentials()() == ws.Token("c")


async def test_an_issuer_is_not_another_one() -> None:
    """Metadata of another issuer, and endpoints beyond this machine without TLS, get no secret."""
    with issuer() as its:
        its.metadata = {"issuer": "https://other.example"}
        with pytest.raises(ws.TokenUnavailable, match="of another issuer"):
            await its.credentials()()
        its.metadata = {"token_endpoint": "http://id.example/token"}
        with pytest.raises(ws.TokenUnavailable, match="use https"):
            await its.credentials()()
        assert its.forms == []
    with pytest.raises(ws.SettingsError, match="use https"):
        ws.ClientCredentials(issuer="http://id.example", client_id="a", client_secret="b")
    with pytest.raises(ws.SettingsError, match="not the URL of a web server"):
        ws.ClientCredentials(issuer="id.example", client_id="a", client_secret="b")
    with pytest.raises(ws.TokenUnavailable, match="Connect call failed"):
        await its.credentials()()


async def test_a_token_is_renewed_before_it_expires_and_kept_while_that_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At 80 % of its life the next one is fetched beside the calls; until then the old one is used."""
    fetched = 0
    failing = asyncio.Event()

    async def fetch() -> ws.Token:
        nonlocal fetched
        fetched += 1
        if fetched == 2:
            failing.set()
            raise OSError
        return ws.Token(f"t{fetched}", in_seconds(2.0 if fetched == 1 else 3600))

    credentials = Credentials(fetch)
    assert await credentials.pairs() == bearer("t1")
    assert credentials.current == bearer("t1")
    seen = set()
    with caplog.at_level(logging.WARNING, "windshift"):
        while (pairs := await credentials.pairs()) != bearer("t3"):
            seen.add(pairs)
            await asyncio.sleep(0.02)
    assert failing.is_set()
    assert seen == {bearer("t1")}
    assert "is used further" in caplog.text


async def test_a_function_that_hangs_fails_the_call_in_its_time(server: str) -> None:
    """The deadline of an operation holds for its token too; others wait beside it, and share the fetch."""
    fetched = 0

    async def fetch() -> ws.Token:
        nonlocal fetched
        fetched += 1
        await asyncio.Event().wait()
        raise AssertionError

    async with ws.connect(server, token=fetch) as client:
        results = await asyncio.gather(
            *(client.publish("x", test.StringValue(), timeout=0.2) for _ in range(5)),
            return_exceptions=True,
        )
    assert all(isinstance(result, ws.TokenUnavailable) for result in results)
    assert fetched == 1


async def test_a_plain_function_runs_in_a_thread() -> None:
    """It may block; what it raises is the cause."""
    threads = []

    def fetch() -> ws.Token:
        threads.append(threading.current_thread())
        return ws.Token("t")

    assert await Credentials(fetch).pairs() == bearer("t")
    assert threads != [threading.main_thread()]
    with pytest.raises(ws.TokenUnavailable, match="ZeroDivisionError"):
        await Credentials(lambda: ws.Token(str(1 // 0))).pairs()
    with pytest.raises(ws.TokenUnavailable, match="NoneType"):
        await Credentials(lambda: None).pairs()  # type: ignore[arg-type] # that is the point
    with pytest.raises(ws.TokenUnavailable, match="returned none"):
        await Credentials(lambda: ws.Token("two words")).pairs()


async def test_a_plain_function_that_hangs_is_not_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for a while: otherwise each fetch would leave a thread behind."""
    began, ended = threading.Semaphore(0), threading.Event()
    calls = 0

    def fetch() -> ws.Token:
        nonlocal calls
        calls += 1
        began.release()
        ended.wait()
        return ws.Token("t")

    credentials = Credentials(fetch)
    try:
        monkeypatch.setattr("windshift.sdk.credentials._FETCH", 0.05)
        with pytest.raises(ws.TokenUnavailable, match="took longer"):
            await credentials.pairs()
        assert await asyncio.to_thread(began.acquire, timeout=30)
        for _ in range(3):
            with pytest.raises(ws.TokenUnavailable, match="took longer"):
                await credentials.pairs()
        assert calls == 1
        monkeypatch.setattr("windshift.sdk.credentials._FETCH", 30.0)
    finally:
        ended.set()
    assert await credentials.pairs() == bearer("t")


async def test_a_plain_function_that_hangs_for_good_is_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """In another thread, after a while: one call that never ends does not take the token away."""
    ended = threading.Event()
    calls = 0

    def fetch() -> ws.Token:
        nonlocal calls
        calls += 1
        if calls == 1:
            ended.wait()
        return ws.Token(f"t{calls}")

    credentials = Credentials(fetch)
    try:
        monkeypatch.setattr("windshift.sdk.credentials._FETCH", 0.05)
        while calls == 0:
            with pytest.raises(ws.TokenUnavailable, match="took longer"):
                await credentials.pairs()
        monkeypatch.setattr("windshift.sdk.credentials._FETCH", 30.0)
        monkeypatch.setattr("windshift.sdk.credentials._HANGS", 0.0)
        assert await credentials.pairs() == bearer("t2")
    finally:
        ended.set()


async def test_a_file_may_be_away_while_it_is_replaced(tmp_path: Path) -> None:
    """A client goes on with the token that it has; after a refusal it needs the new one."""
    file = tmp_path / "token"
    file.write_text("one")
    credentials = Credentials(file)
    assert await credentials.pairs() == bearer("one")
    file.unlink()
    credentials._renew_at = 0.0
    assert await credentials.pairs() == bearer("one")
    credentials.refused(bearer("one"))
    with pytest.raises(ws.TokenUnavailable, match="cannot be read"):
        await credentials.pairs()
    file.write_text("")
    with pytest.raises(ws.TokenUnavailable):
        await credentials.pairs()
    file.write_text("two")
    assert await credentials.pairs() == bearer("two")


async def test_a_command_prints_a_token() -> None:
    """Its output is the token; a failure is told without what it printed."""
    prints = partial(token_of_command, (sys.executable, "-c", "print('t')"))
    assert await Credentials(prints).pairs() == bearer("t")
    with pytest.raises(ws.TokenUnavailable, match="ended with status 3"):
        await token_of_command((sys.executable, "-c", "print('secret'); raise SystemExit(3)"))
    with pytest.raises(ws.TokenUnavailable, match="cannot be run"):
        await token_of_command(("/nowhere/at/all",))
