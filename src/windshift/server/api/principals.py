"""``PrincipalsService``: who calls this server, and an end to their connections."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from math import inf
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from windshift._gen.windshift.admin.v1alpha1 import principals_pb2 as pb
from windshift.rpc import ServerCall
from windshift.rpc.server_connection import ServerConnection
from windshift.server.api.callers import identity_of, peer_of
from windshift.server.auth.authorization import Authorization
from windshift.server.auth.last_use import NEVER
from windshift.server.auth.policy import Principal
from windshift.server.domain.errors import ConnectionEnded, InvalidField, PrincipalNotFound

PRINCIPALS = pb.DESCRIPTOR.services_by_name["PrincipalsService"]

_NAME: Final = re.compile("[A-Za-z0-9_-]{1,64}")


def read_principal(request: pb.EndConnectionsRequest) -> str:
    """Read whose connections are meant; raise `InvalidField`."""
    if _NAME.fullmatch(request.principal) is None:
        raise InvalidField("principal", "use 1 to 64 characters of A-Z a-z 0-9 _ -")
    return request.principal


class PrincipalsService:
    """Lists principals, and ends their connections.

    Args:
        authorization: the rules; None = there are none.
        connections: gives the connections that are open.
    """

    def __init__(
        self, authorization: Authorization | None, connections: Callable[[], Iterable[ServerConnection]]
    ) -> None:
        self._authorization = authorization
        self._connections = connections

    async def list_principals(
        self, _: pb.ListPrincipalsRequest, call: ServerCall
    ) -> pb.ListPrincipalsResponse:
        """List who there is, and what each uses."""
        rules = self._authorization
        if rules is None:
            return pb.ListPrincipalsResponse()
        connections = Counter(name for each in self._connections() for name in _users(each))
        response = pb.ListPrincipalsResponse(since=_timestamp(rules.uses.since))
        for name, principal in sorted(rules.access.authenticator.principals.items()):
            told = response.principals.add(
                name=name,
                connections=connections[name],
                open_streams=int(rules.access.usage(principal, call.started).streams.total),
            )
            for credential, expires in _credentials(principal):
                use = rules.uses.of(name, credential).at
                told.credentials.add(
                    credential=credential,
                    last_used=None if use == NEVER else _timestamp(use),
                    expires=None if expires == inf else _timestamp(expires),
                )
        return response

    async def end_connections(
        self, request: pb.EndConnectionsRequest, _: ServerCall
    ) -> pb.EndConnectionsResponse:
        """End those of one principal."""
        name = read_principal(request)
        found = [each for each in self._connections() if name in _users(each)]
        rules = self._authorization
        if not found and (rules is None or name not in rules.access.authenticator.principals):
            raise PrincipalNotFound(name)
        for connection in found:
            connection.end(ConnectionEnded())
        return pb.EndConnectionsResponse(connections=len(found))


def _users(connection: ServerConnection) -> set[str]:
    """Name those who called over a connection last, or have a call open on it."""
    callers = [peer_of(connection.http2).caller, *map(identity_of, connection.active_calls)]
    return {caller.principal.name for caller in callers if caller is not None}


def _credentials(principal: Principal) -> Iterator[tuple[str, float]]:
    """Give the credentials of a principal, as the audit log calls them, and when they expire."""
    for token in principal.tokens:
        yield f"token {token.digest.hex()[:8]}", inf if token.expires is None else token.expires
    for subject in principal.jwt:
        yield f"jwt {subject.issuer} {subject.sub}", inf
    for name in principal.mtls:
        yield f"certificate {name}", inf


def _timestamp(moment: float) -> Timestamp:
    seconds = int(moment)
    return Timestamp(seconds=seconds, nanos=int((moment - seconds) * 1e9))
