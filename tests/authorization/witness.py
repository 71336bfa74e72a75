"""What really lies in NATS: a plain client that asks JetStream, and nothing of Windshift in it."""

from __future__ import annotations

import json
import secrets
import socket
from typing import Any

from tests.support.nats_server import NatsServer
from windshift.server.domain.names import INTERNAL

Json = dict[str, Any]


class Witness:
    """One connection to NATS, on which one request after the other is made."""

    def __init__(self, server: NatsServer) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        self._lines = self._socket.makefile("rb")
        self._inbox = f"_INBOX.{secrets.token_hex(8)}"
        self._send(b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n')
        self._send(b"SUB %s 1\r\n" % self._inbox.encode())

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def ask(self, name: str, body: Json | None = None) -> Json:
        """Make a request of JetStream's API."""
        text = b"" if body is None else json.dumps(body).encode()
        self._send(b"PUB $JS.API.%s %s %d\r\n%s\r\n" % (name.encode(), self._inbox.encode(), len(text), text))
        answer: Json = json.loads(self._answer())
        return answer

    def streams(self) -> dict[str, Json]:
        """Return all streams: their configurations and what they hold."""
        found = self.ask("STREAM.LIST")["streams"] or []
        return {
            stream["config"]["name"]: {"config": stream["config"], "state": stream["state"]}
            for stream in found
        }

    def consumers(self, stream: str) -> dict[str, Json]:
        """Return the consumers of a stream, but those that servers made for themselves."""
        found = self.ask(f"CONSUMER.LIST.{stream}")["consumers"] or []
        kept = ("config", "delivered", "ack_floor", "num_pending", "num_ack_pending")
        return {
            consumer["name"]: {key: consumer[key] for key in kept}
            for consumer in found
            if INTERNAL not in consumer["config"]["metadata"]
        }

    def consumer(self, stream: str, name: str) -> Json | None:
        """Return a consumer."""
        answer = self.ask(f"CONSUMER.INFO.{stream}.{name}")
        return None if "error" in answer else answer

    def stream(self, name: str) -> Json | None:
        """Return a stream."""
        answer = self.ask(f"STREAM.INFO.{name}")
        return None if "error" in answer else answer

    def message(self, stream: str, **which: Any) -> Json | None:
        """Return a stored message: `seq`, or `last_by_subj`."""
        answer = self.ask(f"STREAM.MSG.GET.{stream}", which)
        return None if "error" in answer else answer["message"]

    def stream_of(self, subject: str) -> str | None:
        """Return the stream that takes a subject."""
        names = self.ask("STREAM.NAMES", {"subject": subject})["streams"] or []
        return names[0] if names else None

    def everything(self) -> dict[str, Any]:
        """Return all that requests can change: every stream, and the consumers of each."""
        streams = self.streams()
        return {
            "streams": streams,
            "consumers": {
                name: self.consumers(name)
                for name, each in streams.items()
                if each["state"]["consumer_count"]
            },
        }

    def _send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def _answer(self) -> bytes:
        for line in self._lines:
            words = line.split()
            if words[0] == b"PING":
                self._send(b"PONG\r\n")
            elif words[0] in (b"MSG", b"HMSG"):
                body = self._lines.read(int(words[-1]) + 2)[:-2]
                return body[int(words[-2]) :] if words[0] == b"HMSG" else body
            elif words[0] == b"-ERR":
                raise AssertionError(line.decode())
        raise AssertionError("the broker ended the connection")
