"""`windshift auth list` and `windshift auth end`: calls to a running server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn, TypeVar

import click
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from windshift._gen.windshift.admin.v1alpha1 import principals_pb2 as pb
from windshift.cli.failing import fail
from windshift.rpc import Channel, RpcError
from windshift.rpc.tls import client_tls

_SERVICE: Final = "/windshift.admin.v1alpha1.PrincipalsService/"
_TIMEOUT: Final = 10.0
_FAILED: Final = 1

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """How a server is reached, and with which credentials.

    Attributes:
        target: ``host:port``.
        token: sent with the call; empty = none.
        tls: whether to use TLS with the system's authorities.
        ca: authorities to trust instead; None = see `tls`.
        cert: a client certificate.
        key: its private key.
    """

    target: str
    token: str = ""
    tls: bool = False
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


def list_principals(where: Where) -> None:
    """Print a line for each credential of each principal, and end with 1 if that cannot be had."""
    response = _call(where, "ListPrincipals", pb.ListPrincipalsRequest(), pb.ListPrincipalsResponse)
    rows = [("PRINCIPAL", "OPEN", "CREDENTIAL", "LAST USED", "EXPIRES"), *_rows(response)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
    known = f"since {_time(response.since)}, when the server was started"
    click.echo(f"\n{known}" if response.HasField("since") else "the server has no rules")


def end_connections(where: Where, principal: str) -> None:
    """End the connections of a principal, and say how many there were; end with 1 if that fails."""
    request = pb.EndConnectionsRequest(principal=principal)
    response = _call(where, "EndConnections", request, pb.EndConnectionsResponse)
    click.echo(f"connections that were ended: {response.connections}")


def _rows(response: pb.ListPrincipalsResponse) -> Iterator[tuple[str, str, str, str, str]]:
    for principal in response.principals:
        name = principal.name
        used = f"{principal.connections} connections, {principal.open_streams} streams"
        for each in principal.credentials:
            last = _time(each.last_used) if each.HasField("last_used") else "never"
            yield name, used, each.credential, last, _time(each.expires) if each.HasField("expires") else ""
            name = used = ""


def _time(moment: Timestamp) -> str:
    return f"{moment.ToDatetime():%Y-%m-%dT%H:%M:%SZ}"


def _call(where: Where, method: str, request: Message, answer: type[M]) -> M:
    """Make one call, or end with what the server says, or why it cannot be reached."""

    async def call() -> M:
        secure = where.tls or where.ca is not None or where.cert is not None
        ssl = client_tls(where.ca, where.cert, where.key) if secure else None
        metadata = (("authorization", f"Bearer {where.token}"),) if where.token else ()
        async with Channel(where.target, ssl=ssl) as channel:
            return await channel.unary(
                f"{_SERVICE}{method}", request, answer, timeout=_TIMEOUT, metadata=metadata
            )

    try:
        return asyncio.run(call())
    except RpcError as error:
        _fail(f"{error.code.name}: {error.message}")
    except (OSError, ValueError) as error:
        _fail(str(error))


def _fail(why: str) -> NoReturn:
    fail(_FAILED, why)
