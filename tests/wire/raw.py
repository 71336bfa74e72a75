"""Publishing to NATS byte by byte, as no client library would."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from tests.support.nats_server import NatsServer


@dataclass(frozen=True, slots=True)
class Published:
    """A message: its subject, its body, its header lines (None: in the form that has no headers)."""

    subject: str | bytes
    body: bytes
    headers: list[bytes] | None
    version: bytes = b"NATS/1.0"

    def encode(self) -> bytes:
        """Write it in NATS's protocol."""
        subject = self.subject if isinstance(self.subject, bytes) else self.subject.encode()
        if self.headers is None:
            return b"PUB %s %d\r\n%s\r\n" % (subject, len(self.body), self.body)
        block = b"\r\n".join([self.version, *self.headers, b"", b""])
        whole = block + self.body
        return b"HPUB %s %d %d\r\n%s\r\n" % (subject, len(block), len(whole), whole)


def publish_raw(nats_server: NatsServer, *messages: Published) -> None:
    """Publish messages, and return when the broker has taken them."""
    with socket.create_connection(("127.0.0.1", nats_server.port), timeout=30) as connection:
        connection.sendall(
            b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"protocol":1}\r\n'
        )
        connection.sendall(b"".join(message.encode() for message in messages) + b"PING\r\n")
        with connection.makefile("rb") as lines:
            for line in lines:
                if line.startswith(b"PONG"):
                    return
                if line.startswith(b"-ERR"):
                    raise AssertionError(line.decode())
    raise AssertionError("the broker ended the connection")
