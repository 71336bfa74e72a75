"""Who calls a server, and an end to their connections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from windshift.protos import principals as pb

from .calling import Caller
from .retry import Repeat
from .times import moment_of


@dataclass(frozen=True, slots=True)
class Credential:
    """How a principal may be known.

    Attributes:
        name: as the audit log calls it: `token` and the first 8 digits of its hash, `jwt` with issuer and
            subject, or `certificate` with the name in it.
        last_used: None = not since the server was started.
        expires: None = never, or that is in the token or certificate itself.
    """

    name: str
    last_used: datetime | None
    expires: datetime | None


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who calls.

    Attributes:
        name: its name in the rules.
        credentials: how it may be known.
        connections: those over which it called last, or has a call open.
        open_streams: its open calls that stream.
    """

    name: str
    credentials: Sequence[Credential]
    connections: int
    open_streams: int


@dataclass(frozen=True, slots=True)
class PrincipalList:
    """All principals of a server.

    Attributes:
        principals: by name.
        since: when the server was started; None = it has no rules, and so no principals.
    """

    principals: Sequence[Principal]
    since: datetime | None


async def principals(caller: Caller) -> PrincipalList:
    """List the principals; see `Client.principals`."""
    request, kind = pb.ListPrincipalsRequest(), pb.ListPrincipalsResponse
    found = await caller.call(request, kind, Repeat.READ)
    return PrincipalList(
        principals=tuple(
            Principal(
                name=each.name,
                credentials=tuple(map(_credential, each.credentials)),
                connections=each.connections,
                open_streams=each.open_streams,
            )
            for each in found.principals
        ),
        since=moment_of(found, "since"),
    )


def _credential(found: pb.Credential) -> Credential:
    return Credential(
        name=found.credential,
        last_used=moment_of(found, "last_used"),
        expires=moment_of(found, "expires"),
    )


async def end_connections(caller: Caller, principal: str) -> int:
    """End the connections of a principal; see `Client.end_connections`."""
    request, kind = pb.EndConnectionsRequest(principal=principal), pb.EndConnectionsResponse
    return (await caller.call(request, kind, Repeat.ONCE)).connections
