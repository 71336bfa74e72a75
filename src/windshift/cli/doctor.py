"""`windshift doctor`: what stands between this machine and its events, and what to do about it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

import click

import windshift as ws
from windshift.cli.failing import FAILED, Failure
from windshift.cli.options import Command
from windshift.cli.session import Session, status_of, with_session
from windshift.cli.values import show_duration, show_size

_SOON: Final = 30 * 86_400.0
"""Seconds before its end that a certificate or a token is worth a word."""
_FULL: Final = 0.9
_CONNECT_SECONDS: Final = 5.0
_COLORS: Final = {"ok": "green", "warn": "yellow", "FAIL": "red"}


@dataclass(frozen=True, slots=True)
class Check:
    """What was found.

    Attributes:
        state: how it is.
        name: what was looked at.
        found: what it is.
        hint: what to do.
    """

    state: Literal["ok", "warn", "FAIL"]
    name: str
    found: str
    hint: str = ""


@click.command(cls=Command, examples=["windshift doctor", "windshift doctor -o json"])
@with_session
async def doctor(session: Session) -> None:
    """Look for what is wrong between here and the server, and in it; say what to do.

    It looks at names, connections, TLS, the token, rights, the broker, streams that are nearly full, and
    consumers that nobody attends to. It changes nothing. Exits with 1 if something is broken.
    """
    checks = []
    async for check in _all(session):
        checks.append(check)
        if not session.out.json:
            state = session.out.style(f"{check.state:4}", session.out.stdout, fg=_COLORS[check.state])
            hint = f"\n{'':18}→ {check.hint}" if check.hint else ""
            session.out.lines(f"{state}  {check.name:10}  {check.found}{hint}")
    if session.out.json:
        session.out.table([asdict(check) for check in checks], (), ())
    if failed := [check for check in checks if check.state == "FAIL"]:
        raise Failure(f"{len(failed)} of {len(checks)} checks failed", FAILED)


async def _all(session: Session) -> AsyncIterator[Check]:
    settings = session.settings
    yield Check("ok", "settings", _settings(session))
    reachable = False
    for target in settings.targets:
        async for check in _connection(target, settings.tls):
            reachable = reachable or check.name == "TCP"
            yield check
    if not reachable:
        return
    broken = False
    async for check in _server(session):
        broken = broken or check.state == "FAIL"
        yield check
    if not broken:
        async for check in _contents(session):
            yield check


def _settings(session: Session) -> str:
    settings = session.settings
    parts = [", ".join(settings.targets), "TLS" if settings.tls else "plain text"]
    parts.append("a token" if settings.credentials.has_token else "no token")
    if settings.names.namespace:
        parts.append(f"namespace {settings.names.namespace}")
    return ", ".join(parts)


async def _connection(target: str, tls: ssl.SSLContext | None) -> AsyncIterator[Check]:
    host, _, port = target.rpartition(":")
    host = host.strip("[]")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        yield Check("FAIL", "DNS", f"{host}: {error.strerror}", "is the name right, and a name server there?")
        return
    addresses = sorted({str(each[4][0]) for each in found})
    yield Check("ok", "DNS", f"{host} is {', '.join(addresses)}")
    started = time.monotonic()
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, int(port))
    except OSError as error:
        hint = "is the server running? is a firewall in between?"
        yield Check("FAIL", "TCP", f"{target}: {error.strerror or 'no answer'}", hint)
        return
    writer.close()
    yield Check("ok", "TCP", f"{target} in {(time.monotonic() - started) * 1000:.1f} ms")
    if tls is not None:
        for check in await _handshake(host, int(port), tls):
            yield check


async def _handshake(host: str, port: int, tls: ssl.SSLContext) -> list[Check]:
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, port, ssl=tls)
    except ssl.SSLCertVerificationError as error:
        hint = "is the right --tls-ca given, and the name one of the certificate?"
        return [Check("FAIL", "TLS", f"{host}: {error.verify_message}", hint)]
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or "no answer"
        hint = "does the server speak TLS? does it ask for a client certificate (--tls-cert)?"
        return [Check("FAIL", "TLS", f"{host}: {reason}", hint)]
    certificate: dict[str, Any] = writer.get_extra_info("peercert") or {}
    protocol = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    writer.close()
    names = ", ".join(str(value) for _, value in certificate.get("subjectAltName", ()))
    checks = [_ending("TLS", names, certificate, "renew the server's certificate")] if certificate else []
    checks += [
        _ending(
            "TLS CA", _name_of(authority), authority, "have the authority renewed, and its file everywhere"
        )
        for authority in tls.get_ca_certs()
        if authority["subject"] == certificate.get("issuer")
    ]
    if protocol != "h2":
        return [*checks, Check("FAIL", "HTTP/2", f"{host} does not speak it", "is that the port of the API?")]
    return [*checks, Check("ok", "HTTP/2", f"{host} speaks it")]


def _ending(what: str, name: str, certificate: Any, hint: str) -> Check:
    """Say when a certificate expires, and warn before that."""
    left = ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()
    soon = left < _SOON
    found = f"{name}, expires in {show_duration(max(0.0, left // 86_400 * 86_400))}"
    return Check("warn" if soon else "ok", what, found, hint if soon else "")


def _name_of(certificate: Any) -> str:
    return ", ".join(value for part in certificate["subject"] for _, value in part)


async def _server(session: Session) -> AsyncIterator[Check]:
    client = session.client
    try:
        identity = await client.who_am_i()
        server = await client.server()
    except ws.WindshiftError as error:
        hint = {6: "ask for a valid token, and name it with --token-file"}.get(
            status_of(error), "is that port a Windshift server's API?"
        )
        yield Check("FAIL", "server", str(error), hint)
        return
    yield _version(server)
    yield _identity(identity, rules=server.rules)
    if server.rules:
        yield _rights(identity)
    trip = server.broker_round_trip
    time_there = "" if trip is None else f", {trip.total_seconds() * 1000:.1f} ms away"
    if server.broker_connected:
        yield Check("ok", "broker", f"NATS {server.broker_version}{time_there}")
    else:
        yield Check("FAIL", "broker", "the server has no connection to NATS", "look at its log and at NATS")


def _version(server: ws.ServerInfo) -> Check:
    uptime = (datetime.now(UTC) - server.started).total_seconds()
    found = f"windshift {server.version} for {show_duration(uptime // 60 * 60)}, this is {ws.__version__}"
    if uptime < -60:
        hint = "set the clocks by NTP: leases, tokens and times depend on them"
        return Check("warn", "clocks", f"the server's is {-uptime:.0f} s ahead, or more", hint)
    ours, theirs = ws.__version__.split(".")[:2], server.version.split(".")[:2]
    hint = "" if ours == theirs else "some commands may need the newer one"
    return Check("ok" if ours == theirs else "warn", "server", found, hint)


def _identity(identity: ws.Identity, *, rules: bool) -> Check:
    if not rules:
        return Check("ok", "identity", "there are no rules: everybody may do everything")
    found = f"{identity.principal}, by {identity.credential}"
    if identity.expires is None:
        return Check("ok", "identity", found)
    left = (identity.expires - datetime.now(UTC)).total_seconds()
    soon = left < _SOON and identity.credential != "jwt"
    ends = f"{found}, expires in {show_duration(left // 60 * 60)}"
    return Check("warn" if soon else "ok", "identity", ends, "have it renewed" if soon else "")


def _rights(identity: ws.Identity) -> Check:
    lists = sorted({name for name, _ in identity.granted if not name.startswith("!")})
    if not lists:
        return Check("warn", "rights", "none", "give the principal a role in the rules")
    return Check("ok", "rights", ", ".join(lists))


async def _contents(session: Session) -> AsyncIterator[Check]:
    client, count, size, worries = session.client, 0, 0, 0
    try:
        async for info in client.streams.list():
            count, size = count + 1, size + info.bytes
            for check in _fullness(info):
                worries += 1
                yield check
            async for consumer in client.stream(info.name).consumers.list():
                if lonely := _attended(info.name, consumer):
                    worries += 1
                    yield lonely
    except ws.WindshiftError as error:
        yield Check("warn", "streams", str(error))
        return
    if not worries:
        yield Check(
            "ok", "streams", f"{count} with {show_size(size)}, none nearly full, all consumers attended to"
        )


def _fullness(info: ws.StreamInfo) -> list[Check]:
    """Say where a stream that refuses new events is nearly full; others drop old ones, as they are to."""
    if info.spec.discard != "new":
        return []
    limits = ((info.bytes, info.spec.max_bytes, "bytes"), (info.events, info.spec.max_events, "events"))
    return [
        Check("warn", "stream", f"{info.name}: {used / limit:.0%} of its {unit}", "raise the limit, or purge")
        for used, limit, unit in limits
        if limit and used / limit >= _FULL
    ]


def _attended(stream: str, info: ws.ConsumerInfo) -> Check | None:
    name = f"{stream} {info.name}"
    if info.paused_until is not None and info.pending:
        return Check(
            "warn",
            "consumer",
            f"{name} is paused with {info.pending} pending",
            "`windshift consumers resume`",
        )
    if info.pending and not info.subscriptions and not info.unsettled:
        hint = "is its program running? if nobody needs it: `windshift consumers rm`"
        return Check("warn", "consumer", f"{name} has {info.pending} pending, and nobody is subscribed", hint)
    return None
