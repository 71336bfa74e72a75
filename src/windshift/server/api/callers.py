"""The caller of a call, for handlers."""

from __future__ import annotations

from windshift.rpc import ServerCall
from windshift.rpc.connection import Connection
from windshift.server.auth.access import AuthorizedCall
from windshift.server.auth.authenticate import Identity
from windshift.server.auth.certificates import CertificateNames
from windshift.server.auth.policy import Principal


class Peer:
    """The other side of a connection.

    Attributes:
        certificate: the names in its certificate; None = they were not read yet.
        caller: who made the last call; None = nobody who is known.
    """

    __slots__ = ("caller", "certificate")

    def __init__(self) -> None:
        self.certificate: CertificateNames | None = None
        self.caller: Identity | None = None


def peer_of(connection: Connection) -> Peer:
    """Return what is known of the other side of a connection."""
    peer = connection.state
    if not isinstance(peer, Peer):
        peer = connection.state = Peer()
    return peer


def identity_of(call: ServerCall) -> Identity | None:
    """Return who makes a call, and how that is known; None where there are no rules."""
    state = call.state
    if isinstance(state, AuthorizedCall):
        return state.identity
    return state if isinstance(state, Identity) else None


def caller_of(call: ServerCall) -> Principal | None:
    """Return who makes a call; None where there are no rules."""
    identity = identity_of(call)
    return None if identity is None else identity.principal


def asker_of(call: ServerCall) -> str:
    """Return on whose behalf the broker is asked: a principal, or a connection where there are no rules."""
    caller = caller_of(call)
    return call.peer if caller is None else caller.name


def admission_of(call: ServerCall) -> AuthorizedCall | None:
    """Return what a call that lasts may do; None where there are no rules."""
    return call.state if isinstance(call.state, AuthorizedCall) else None
