"""A client that begins a call and then says nothing more: it holds up a drain."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event, PingAckReceived

PATH = "/grpc.health.v1.Health/Check"


@contextmanager
def unfinished_call(port: int, tls: ssl.SSLContext | None = None) -> Iterator[socket.socket]:
    """Hold a unary call open whose request message never comes, until the block ends."""
    connection = H2Connection(H2Configuration(client_side=True))
    with ExitStack() as stack:
        peer = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
        if tls is not None:
            peer = stack.enter_context(tls.wrap_socket(peer, server_hostname="localhost"))
        connection.initiate_connection()
        connection.send_headers(
            connection.get_next_available_stream_id(),
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", PATH),
                (":authority", "localhost"),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
            ],
        )
        connection.ping(b"received")  # its answer proves that the server has read what came before
        events: list[Event] = []
        while not any(isinstance(event, PingAckReceived) for event in events):
            peer.sendall(connection.data_to_send())
            events += connection.receive_data(peer.recv(65536))
        yield peer
