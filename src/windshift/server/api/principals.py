"""``PrincipalsService``: who calls this server, and an end to their connections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import TypeAlias

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from windshift._gen.windshift.admin.v1alpha1 import principals_pb2 as pb
from windshift.rpc import ServerCall
from windshift.rpc.server_connection import ServerConnection
from windshift.server.api.callers import identity_of, peer_of
from windshift.server.auth.authorization import Authorization
from windshift.server.auth.last_use import NEVER
from windshift.server.auth.policy import NAME, NAME_RULE
from windshift.server.domain.errors import ConnectionEnded, InvalidField, OutcomeUnknown, PrincipalNotFound

PRINCIPALS = pb.DESCRIPTOR.services_by_name["PrincipalsService"]

_LIST, _END = "ListPrincipals", "EndConnections"


def read_principal(request: pb.EndConnectionsRequest) -> str:
    """Read whose connections are meant; raise `InvalidField`."""
    if NAME.fullmatch(request.principal) is None:
        raise InvalidField("principal", NAME_RULE)
    return request.principal


AskOthers: TypeAlias = Callable[[str, bytes], Awaitable[list[bytes | None]]]
"""Asks the other workers of this server: takes a method's name and a request, and returns what `answer` of
each gave; None of one that did not answer."""


@dataclass(frozen=True, slots=True)
class PrincipalsService:
    """Lists principals, and ends their connections."""

    _authorization: Authorization | None
    """The rules; None = there are none."""
    _connections: Callable[[], Iterable[ServerConnection]]
    """Gives the connections that are open."""
    _ask_others: AskOthers | None
    """Asks the other workers; None = there are none."""

    def answer(self, method: str, request: bytes, now: float) -> bytes:
        """Answer another worker, for this one alone. `now` is the loop's time."""
        if method == _LIST:
            return self._list(now).SerializeToString()
        ended = self._end(pb.EndConnectionsRequest.FromString(request).principal)
        return pb.EndConnectionsResponse(connections=ended).SerializeToString()

    async def list_principals(
        self, request: pb.ListPrincipalsRequest, call: ServerCall
    ) -> pb.ListPrincipalsResponse:
        """List who there is, and what each uses."""
        response = self._list(call.started)
        for answer in await self._others(_LIST, request):
            if answer is not None:
                _add_up(response, pb.ListPrincipalsResponse.FromString(answer))
        return response

    async def _others(self, method: str, request: Message) -> list[bytes | None]:
        if self._ask_others is None:
            return []
        return await self._ask_others(method, request.SerializeToString())

    def _list(self, now: float) -> pb.ListPrincipalsResponse:
        rules = self._authorization
        if rules is None:
            return pb.ListPrincipalsResponse()
        connections = Counter(name for each in self._connections() for name in _users(each))
        response = pb.ListPrincipalsResponse(since=_timestamp(rules.uses.since))
        for name, principal in sorted(rules.access.authenticator.principals.items()):
            shown = response.principals.add(
                name=name,
                connections=connections[name],
                open_streams=int(rules.access.usage(principal, now).streams.own),
            )
            for credential, expires in principal.credentials():
                use = rules.uses.of(name, credential).at
                shown.credentials.add(
                    credential=credential,
                    last_used=None if use == NEVER else _timestamp(use),
                    expires=None if expires == inf else _timestamp(expires),
                )
        return response

    async def end_connections(
        self, request: pb.EndConnectionsRequest, call: ServerCall
    ) -> pb.EndConnectionsResponse:
        """End those of one principal, on this worker last: the caller's own may be one of them.

        This call is answered all the same.
        """
        name = read_principal(request)
        others = await self._others(_END, request)
        ended = self._end(name, but=call)
        for answer in others:
            if answer is None:
                raise OutcomeUnknown("a worker of this server did not answer; try again")
            ended += pb.EndConnectionsResponse.FromString(answer).connections
        rules = self._authorization
        if not ended and (rules is None or name not in rules.access.authenticator.principals):
            raise PrincipalNotFound(name)
        return pb.EndConnectionsResponse(connections=ended)

    def _end(self, name: str, but: ServerCall | None = None) -> int:
        found = [each for each in self._connections() if name in _users(each)]
        for connection in found:
            connection.end(ConnectionEnded(), but)
        return len(found)


def _add_up(total: pb.ListPrincipalsResponse, more: pb.ListPrincipalsResponse) -> None:
    """Add what principals use of another worker; one that knows them since later knows less of them."""
    if total.since.ToNanoseconds() < more.since.ToNanoseconds():
        total.since.CopyFrom(more.since)
    known = {each.name: each for each in more.principals}
    for principal in total.principals:
        other = known.get(principal.name, pb.Principal())
        principal.connections += other.connections
        principal.open_streams += other.open_streams
        uses = {each.credential: each.last_used for each in other.credentials}
        for credential in principal.credentials:
            used = uses.get(credential.credential)
            if used is not None and used.ToNanoseconds() > credential.last_used.ToNanoseconds():
                credential.last_used.CopyFrom(used)


def _users(connection: ServerConnection) -> set[str]:
    """Name those who called over a connection last, or have a call open on it."""
    callers = [peer_of(connection.http2).caller, *map(identity_of, connection.active_calls)]
    return {caller.principal.name for caller in callers if caller is not None}


def _timestamp(moment: float) -> Timestamp:
    seconds = int(moment)
    return Timestamp(seconds=seconds, nanos=int((moment - seconds) * 1e9))
