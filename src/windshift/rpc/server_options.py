"""The limits and timers of a server, and its observers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .admission import AdmissionOptions, Network
from .call import ServerCall
from .options import ConnectionOptions
from .status import RpcError, StatusCode


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that did not end with OK, for those who keep a record of it.

    Attributes:
        method: the path of the call, as far as the server knows it.
        peer: the client's address.
        error: what the client was told; its ``fault`` is what nobody expected.
        fields: the headers of the request.
    """

    method: str
    peer: str
    error: RpcError
    fields: Mapping[bytes, bytes] = field(repr=False)

    def header(self, name: bytes) -> str:
        """Return an ASCII header of the request, empty when absent."""
        return self.fields.get(name, b"").decode("latin-1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Limits and timers of a server.

    Attributes:
        connection: those of each connection.
        max_message_size: bytes of one request message, after decompression too.
        admission: which connections get in, and which addresses have to wait.
        proxy_protocol: addresses of proxies each of whose connections begins with a PROXY header.
        authenticate_timeout: seconds in which somebody must authenticate on a connection: by a call that
            ``Method.on_headers`` lets through, or a client certificate. Until then the connection is a
            stranger's, see ``turns``. None = nobody need.
        certificate_suffices: whether a client certificate gives a connection the place of somebody who is
            known; otherwise only such a call does.
        request_timeout: seconds in which the request message of a call without streams must arrive.
        first_request_timeout: seconds in which a connection's first call must begin.
        connection_age: seconds, give or take a tenth, after which a connection is drained, so that clients
            spread over servers anew. None = never.
        connection_age_grace: seconds that its calls then have until they are ended with UNAVAILABLE.
        discard_timeout: seconds in which a client must end its side after the status was sent; then the
            stream is reset.
        max_held: bytes that clients together may make the server hold, of messages that are not whole and of
            answers that they do not read; when it is more, the connections that hold most are dropped. None =
            no bound.
        tick_interval: seconds between two looks at the timers above, and at what is held.
        drain_ping_timeout: seconds that a drain waits for a client to have seen the first GOAWAY, and for
            handshakes that have begun.
        pace: takes a call and the coroutine that does its work and answers it, where that takes a task, and
            returns what runs it step by step, so that it can wait while others have their turn.
        translate: says what a client sees of an error, given the call's path, raised by a handler, by an
            interceptor or by the gRPC layer itself. None = what the gRPC layer would send.
        on_call_finished: called with each call and its status when it ends; must be quick and not raise.
        on_call_refused: the same for a request that was answered before it became a call, with the path of
            its method; None = there is no such method.
        on_call_failed: called once with each call, refused ones included, that did not end with OK, and once
            more when a handler fails after its client went away; must be quick and not raise. None = what
            nobody expected is logged, and nothing else.
    """

    connection: ConnectionOptions = field(default_factory=ConnectionOptions)
    max_message_size: int = 4 * 1024 * 1024
    admission: AdmissionOptions = field(default_factory=AdmissionOptions)
    proxy_protocol: tuple[Network, ...] = ()
    authenticate_timeout: float | None = None
    certificate_suffices: bool = True
    request_timeout: float = 30.0
    first_request_timeout: float = 10.0
    connection_age: float | None = None
    connection_age_grace: float = 60.0
    discard_timeout: float = 5.0
    max_held: int | None = None
    tick_interval: float = 1.0
    drain_ping_timeout: float = 1.0
    pace: Callable[[ServerCall, Any], Awaitable[Any]] = lambda _call, work: work
    translate: Callable[[str, Exception], RpcError | None] = lambda _path, _error: None
    on_call_finished: Callable[[ServerCall, StatusCode], None] | None = None
    on_call_refused: Callable[[str | None, StatusCode], None] | None = None
    on_call_failed: Callable[[Failure], None] | None = None
