"""`windshift doctor`: what stands between this machine and its events, and what to do about it."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import click

import windshift as ws
from windshift.cli.certificates import expiry
from windshift.cli.ensuring import idle_filters
from windshift.cli.failing import FAILED, Failure
from windshift.cli.options import Command
from windshift.cli.output import plain
from windshift.cli.session import Session, with_session
from windshift.cli.values import show_duration, show_size

_SOON: Final = 30 * 86_400.0
"""Seconds before its end that a certificate or a token is worth a word."""
_FULL: Final = 0.9
_UNLIMITED: Final = "; the account has no limits, those of NATS servers (max_file_store) are not told"
_CONNECT_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 5.0
_APART: Final = 1.0
"""Seconds that two clocks may differ by."""
_COLORS: Final = {"ok": "green", "skip": "cyan", "warn": "yellow", "FAIL": "red"}

_HTTP2: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""How a client begins, with a frame of settings (RFC 9113, section 3.4)."""
_SETTINGS: Final = 4
"""The type of the frame that a server begins with."""
_NATS: Final = b"INFO {"
"""How a NATS server begins."""
_ALERT: Final = 0x15
"""The type of the record that a server of TLS answers with."""

_VERIFYING: Final = {
    9: "is this machine's clock right?",
    10: "renew the server's certificate; if it is new: is this machine's clock right?",
    62: "connect by a name of its certificate, or have it issued for this one, too",
    64: "connect by a name of its certificate, or have it issued for this address, too",
}
"""What to do, by the code with which OpenSSL refuses a certificate (X509_V_ERR_…)."""

_NEEDS_BROKER: Final = (2, 14)
_NEARLY: Final = {
    "storage": "raise max_file of the account in NATS, give streams limits, or purge some",
    "memory": "raise max_mem of the account in NATS, give streams limits, or purge some",
    "streams": "raise max_streams of the account in NATS, or delete some",
    "consumers": "raise max_consumers of the account in NATS, or delete some",
}


@dataclass(frozen=True, slots=True)
class Check:
    """What was found.

    Attributes:
        state: how it is; `skip` = it could not be looked at, which is not wrong in itself.
        name: what was looked at.
        found: what it is.
        hint: what to do.
    """

    state: Literal["ok", "skip", "warn", "FAIL"]
    name: str
    found: str
    hint: str = ""


@click.command(cls=Command, examples=["windshift doctor", "windshift doctor -o json"])
@with_session
async def doctor(session: Session) -> None:
    """Look for what is wrong between here and the server, and in it; say what to do.

    It looks at names, connections, TLS and its certificates, HTTP/2, the token, rights, versions, the broker,
    all servers, what is used of JetStream's limits, clocks, streams that are nearly full, and consumers that
    nobody attends to or whose filters nothing matches. It changes nothing. Exits with 1 if something is
    broken.
    """
    checks = []
    async for check in _all(session):
        checks.append(check)
        if not session.out.json:
            state = session.out.style(f"{check.state:4}", session.out.stdout, fg=_COLORS[check.state])
            hint = f"\n{'':18}→ {plain(check.hint)}" if check.hint else ""
            session.out.lines(f"{state}  {check.name:10}  {plain(check.found)}{hint}")
    if session.out.json:
        session.out.table([asdict(check) for check in checks], (), ())
    if failed := [check for check in checks if check.state == "FAIL"]:
        raise Failure(f"{len(failed)} of {len(checks)} checks failed", FAILED)


async def _all(session: Session) -> AsyncIterator[Check]:
    settings = session.settings
    yield Check("ok", "settings", _settings(session))
    if settings.certificate is not None:
        yield own_certificate(settings.certificate)
    reachable = False
    for target in settings.targets:
        async for check in _connection(target, settings.tls):
            reachable = reachable or (check.name, check.state) == ("HTTP/2", "ok")
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
    if addresses != [host]:
        yield Check("ok", "DNS", f"{host} is {', '.join(addresses)}")
    started = time.monotonic()
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, int(port))
    except OSError as error:
        hint = "is the server running? is a firewall in between?"
        reason = os.strerror(error.errno) if error.errno else "nobody answers"
        yield Check("FAIL", "TCP", f"{target}: {reason}", hint)
        return
    writer.close()
    yield Check("ok", "TCP", f"{target} in {(time.monotonic() - started) * 1000:.1f} ms")
    if tls is None:
        yield await _http2(host, int(port))
        return
    async for check in _handshake(host, int(port), tls):
        yield check


async def _http2(host: str, port: int) -> Check:
    """Begin as a client without TLS does, and see what is answered."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                writer.write(_HTTP2)
                answer = await reader.read(9)
        finally:
            writer.close()
    except TimeoutError:
        found = f"{host} does not answer in {_ANSWER_SECONDS:g} s"
        return Check("FAIL", "HTTP/2", found, "does the server hang? is its machine too busy?")
    except OSError:
        answer = b""
    if answer[3:4] == bytes([_SETTINGS]):
        return Check("ok", "HTTP/2", f"{host} speaks it")
    if answer[:1] == bytes([_ALERT]):
        return Check("FAIL", "HTTP/2", f"{host} speaks TLS", "say --tls, or --tls-ca with its authorities")
    if answer.startswith(_NATS):
        return Check("FAIL", "HTTP/2", f"{host} has NATS at port {port}", "give the address of Windshift")
    hint = "is that the port of the API (GRPC_PORT), not that of the health checks? does it want TLS (--tls)?"
    return Check("FAIL", "HTTP/2", f"{host} does not speak it at port {port}", hint)


async def _handshake(host: str, port: int, tls: ssl.SSLContext) -> AsyncIterator[Check]:
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, port, ssl=tls)
    except ssl.SSLCertVerificationError as error:
        hint = _VERIFYING.get(error.verify_code, "is the right --tls-ca given?")
        yield Check("FAIL", "TLS", f"{host}: {error.verify_message}", hint)
        return
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or "no answer"
        hint = "does the server speak TLS? does it ask for a client certificate (--tls-cert)?"
        yield Check("FAIL", "TLS", f"{host}: {reason}", hint)
        return
    certificate: dict[str, Any] = writer.get_extra_info("peercert") or {}
    protocol = writer.get_extra_info("ssl_object").selected_alpn_protocol()
    writer.close()
    if certificate:
        names = ", ".join(str(value) for _, value in certificate.get("subjectAltName", ()))
        yield _ending("TLS", names, _end_of(certificate), "renew the server's certificate")
    for authority in tls.get_ca_certs():
        if authority["subject"] == certificate.get("issuer"):
            hint = "have the authority renewed, and its file everywhere"
            yield _ending("TLS CA", _name_of(authority), _end_of(authority), hint)
    if protocol == "h2":
        yield Check("ok", "HTTP/2", f"{host} speaks it")
    else:
        yield Check("FAIL", "HTTP/2", f"{host} does not speak it", "is that the port of the API?")


def own_certificate(file: Path) -> Check:
    """Say when the client's certificate expires."""
    try:
        ends = expiry(file).timestamp()
    except (OSError, ValueError) as error:
        return Check("warn", "TLS own", f"{file}: {error}", "is it a PEM file with a certificate?")
    return _ending("TLS own", str(file), ends, "renew the client's certificate")


def _ending(what: str, name: str, ends: float, hint: str) -> Check:
    """Say when a certificate expires (seconds since 1970), and warn before that."""
    left = ends - time.time()
    if left <= 0:
        return Check("FAIL", what, f"{name}, expired {show_duration(-left // 86_400 * 86_400)} ago", hint)
    soon = left < _SOON
    unit = 86_400 if left >= 86_400 else 60
    found = f"{name}, expires in {show_duration(left // unit * unit)}"
    return Check("warn" if soon else "ok", what, found, hint if soon else "")


def _end_of(certificate: Any) -> float:
    return ssl.cert_time_to_seconds(certificate["notAfter"])


def _name_of(certificate: Any) -> str:
    return ", ".join(value for part in certificate["subject"] for _, value in part)


async def _server(session: Session) -> AsyncIterator[Check]:
    client = session.client
    try:
        who = await client.who_am_i()
        asked = datetime.now(UTC)
        server = await client.server()
        answered = datetime.now(UTC)
    except ws.WindshiftError as error:
        hint = "is that port a Windshift server's API?"
        if isinstance(error, ws.Denied):
            hint = "ask for a valid token, and name it with --token-file"
        elif session.settings.tls is not None:
            hint += " does it want a client certificate (--tls-cert)?"
        yield Check("FAIL", "server", str(error), hint)
        return
    yield version(server)
    yield identity(who, rules=server.rules)
    if server.rules:
        yield _rights(who)
    yield broker(server)
    ahead = None if server.time is None else apart(server.time, asked, answered)
    for check in await _all_servers(client, server, ahead):
        yield check


def version(server: ws.ServerInfo) -> Check:
    """Compare the server's version with ours."""
    uptime = max(0.0, (datetime.now(UTC) - server.started).total_seconds())
    running = show_duration(uptime // 60 * 60) if uptime >= 60 else f"{uptime:.0f}s"
    found = f"windshift {server.version}, running for {running}; this is {ws.__version__}"
    if _minor(server.version) == _minor(ws.__version__):
        return Check("ok", "server", found)
    return Check("warn", "server", found, "some commands may need the newer one")


def _minor(version: str) -> tuple[int, ...]:
    """Return the first two numbers of a version; of what is none, nothing."""
    numbers = version.removeprefix("v").split(".")[:2]
    return tuple(int(number) for number in numbers if number.isdecimal())


def broker(server: ws.ServerInfo) -> Check:
    """Say how the server's connection to NATS is, and whether that is new enough."""
    if not server.broker_connected:
        return Check("FAIL", "broker", "the server has no connection to NATS", "look at its log and at NATS")
    trip = server.broker_round_trip
    time_there = "" if trip is None else f", {trip.total_seconds() * 1000:.1f} ms away"
    found, version = f"NATS {server.broker_version}{time_there}", _minor(server.broker_version)
    if version < _NEEDS_BROKER:
        return Check("FAIL", "broker", found, "Windshift needs 2.14 or newer: upgrade it")
    return Check("ok", "broker", found)


async def _all_servers(client: ws.Client, own: ws.ServerInfo, ahead: float | None) -> list[Check]:
    """Look at what only the operators of servers may see: all of them, JetStream's limits, and its clock.

    That of the server that answers (`own`) is so many seconds ahead of ours; None = it does not tell.
    """
    asked = datetime.now(UTC)
    try:
        found = await client.servers(account=True)
    except ws.WindshiftError as error:
        why = Check("warn", "servers", str(error))
        if isinstance(error, ws.Denied):
            hint = 'a role with server = { observe = ["*"] } shows them'
            why = Check("skip", "servers", "others, and the limits and the clock of NATS: not allowed", hint)
        return [why, *clocks({"the server": ahead}, None)]
    answered = datetime.now(UTC)
    checks = [*servers(found)]
    if own.broker_connected:
        checks += limits(found.usage)
    others = {
        f"server {each.info.name}": apart(each.info.time, asked, answered)
        for each in found.servers
        if each.info.time is not None and each.info.id != own.id
    }
    checks += clocks({"the server": ahead} | others, found.broker_clock_ahead)
    if found.broker_clock_ahead is None and own.broker_connected and ahead is not None:
        hint = "let the server's NATS user publish to $SYS.REQ.USER.INFO"
        checks.append(Check("skip", "clocks", "that of NATS is not told", hint))
    return checks


def servers(found: ws.ServerList) -> Iterator[Check]:
    """Say which servers are not ready, do not answer, or are of another version."""
    idle = [each for each in found.servers if each.not_ready]
    for each in idle:
        yield Check("FAIL", "servers", f"{each.info.name} is not ready: {each.not_ready}", "look at its log")
    for name in found.missing:
        hint = "was it killed, does it hang, is it cut off from NATS? look at its log"
        yield Check("warn", "servers", f"the one with id {name} did not answer", hint)
    versions = sorted({each.info.version for each in found.servers})
    ready = len(found.servers) - len(idle)
    summary = f"{ready} ready, of version {', '.join(versions)}"
    if len(versions) > 1:
        yield Check("warn", "servers", summary, "bring all to the same version")
    elif ready:
        yield Check("ok", "servers", summary)


def limits(usage: Sequence[ws.Usage]) -> Iterator[Check]:
    """Say what is used of what the account may have."""
    if not usage:
        hint = "let the server's NATS user publish to $JS.API.INFO, or upgrade the server"
        yield Check("skip", "JetStream", "the limits of the account are not told", hint)
        return
    nearly = [each for each in usage if each.limit and max(each.used, each.reserved) >= _FULL * each.limit]
    for each in nearly:
        full = each.used >= (each.limit or 0) and each.resource in {"storage", "memory"}
        yield Check("FAIL" if full else "warn", "JetStream", _used(each), _NEARLY[each.resource])
    if enough := [each for each in usage if each not in nearly]:
        limited = "" if any(each.limit is not None for each in usage) else _UNLIMITED
        yield Check("ok", "JetStream", ", ".join(map(_used, enough)) + limited)


def _used(usage: ws.Usage) -> str:
    """Say how much there is, of how much: `storage 1.2G of 10G (3G reserved)`."""
    show = show_size if usage.resource in {"storage", "memory"} else str
    limit = "" if usage.limit is None else f" of {show(usage.limit)}"
    reserved = f" ({show(usage.reserved)} reserved)" if usage.reserved else ""
    tier = f"{usage.tier} " if usage.tier else ""
    return f"{tier}{usage.resource} {show(usage.used)}{limit}{reserved}"


def apart(time: datetime, asked: datetime, answered: datetime) -> float:
    """Return how many seconds a clock is ahead, at least: it was read between two times of ours."""
    return max(0.0, (time - answered).total_seconds()) - max(0.0, (asked - time).total_seconds())


def clocks(servers: Mapping[str, float | None], broker_ahead: timedelta | None) -> Iterator[Check]:
    """Compare clocks.

    Args:
        servers: seconds that theirs are ahead of ours, at least, by what to call each; None = not known.
        broker_ahead: how far that of NATS is ahead of the server's.
    """
    compared = [(name, ahead, "this machine's") for name, ahead in servers.items() if ahead is not None]
    if broker_ahead is not None:
        compared.append(("NATS", broker_ahead.total_seconds(), "the server's"))
    wrong = [each for each in compared if abs(each[1]) >= _APART]
    for name, ahead, other in wrong:
        found = f"that of {name} is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} {other}"
        hint = (
            "set all by NTP: the times of events, pauses and schedules, and the end of tokens, depend on them"
        )
        yield Check("warn", "clocks", found, hint)
    if not compared:
        yield Check("skip", "clocks", "the server does not tell what time it is", "upgrade it")
    elif not wrong:
        names = ", ".join(name for name, *_ in compared)
        yield Check("ok", "clocks", f"within {_APART:g} s of this machine's: {names}")


def identity(who: ws.Identity, *, rules: bool) -> Check:
    """Say who we are, and for how long."""
    if not rules:
        return Check("ok", "identity", "there are no rules: everybody may do everything")
    found = f"{who.principal}, by {who.credential}"
    if who.expires is None:
        return Check("ok", "identity", found)
    left = (who.expires - datetime.now(UTC)).total_seconds()
    soon = left < _SOON and who.credential != "jwt"
    ends = f"{found}, expires in {show_duration(left // 60 * 60)}"
    return Check("warn" if soon else "ok", "identity", ends, "have it renewed" if soon else "")


def _rights(who: ws.Identity) -> Check:
    lists = sorted({name for name, _ in who.granted if not name.startswith("!")})
    if not lists:
        return Check("warn", "rights", "none", "give the principal a role in the rules")
    return Check("ok", "rights", ", ".join(lists))


async def _contents(session: Session) -> AsyncIterator[Check]:
    client, streams, worries = session.client, dict[str, ws.StreamInfo](), 0
    try:
        async for info in client.streams.list():
            streams[info.name] = info
            for check in _fullness(info):
                worries += 1
                yield check
        async for consumer in client.stream("").consumers.list():
            if stream := streams.get(consumer.stream):  # else it was made meanwhile
                for check in _consumer(stream, consumer):
                    worries += 1
                    yield check
    except ws.WindshiftError as error:
        yield Check("warn", "streams", str(error))
        return
    if not worries:
        held = show_size(sum(info.bytes for info in streams.values()))
        found = f"{len(streams)} with {held}, none nearly full, all consumers attended to"
        yield Check("ok", "streams", found)


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


def _consumer(stream: ws.StreamInfo, info: ws.ConsumerInfo) -> Iterator[Check]:
    name = f"{stream.name} {info.name}"
    if info.paused_until is not None and info.pending:
        found, hint = f"{name} is paused with {info.pending} pending", "`windshift consumers resume`"
        yield Check("warn", "consumer", found, hint)
    elif (info.pending or info.unsettled) and not info.subscriptions:
        held = f" and {info.unsettled} unsettled" if info.unsettled else ""
        hint = "is its program running? if nobody needs it: `windshift consumers rm`"
        found = f"{name} has {info.pending} pending{held}, and nobody is subscribed"
        yield Check("warn", "consumer", found, hint)
    if idle := idle_filters(info.subjects, stream.spec):
        found = f"{name} is for {', '.join(idle)}, and the stream has {', '.join(stream.spec.subjects)} alone"
        yield Check("warn", "consumer", found, "ensure the consumer or the stream with other subjects")
