"""Notes from server to server: that something happened which others may want to look at now.

A note is a core NATS message, ``_WS.note.<kind>.<stream>.<consumer>``, most without a body. It may be lost,
and it is not heard while there is no connection, so no promise may depend on one: it only makes things
faster, or less likely what is not promised. JetStream's advisory that a consumer has another leader is passed
on alike.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeAlias

from windshift.nats import Connection, Message, NotConnected

log = logging.getLogger(__name__)

REPLAY: Final = "replay"
"""An event is to be delivered again to the consumer."""
CONSUMER: Final = "consumer"
"""The consumer's configuration was changed."""
DEAD: Final = "dead"
"""The consumer gave up on an event, and its dead letter is written."""

SETTLED: Final = "settled"
"""Events of the consumer are settled that may be on their way to others nevertheless. Has a body."""
FORGETTABLE: Final = "forgettable"
"""Events of the consumer were settled just before the broker was lost. Has a body."""
TAKEN: Final = "taken"
"""A call goes on with deliveries that another one was given. Has a body."""
OBJECTED: Final = "objected"
"""Some of what a call wants to go on with is not its any more. Has a body."""
ELECTED: Final = "elected"
"""The consumer has another leader. No server sends this: JetStream says it in an advisory."""

_PREFIX: Final = "_WS.note"
_ELECTIONS: Final = b"$JS.EVENT.ADVISORY.CONSUMER.LEADER_ELECTED.*.*"

Read: TypeAlias = Callable[[str, str, bytes], None]
Heard: TypeAlias = Callable[[], None]
_Topic: TypeAlias = tuple[str, str, str]


class Notes:
    """Sends notes, and tells listeners of this process of those that anybody sent, this process included."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._listeners: dict[_Topic, dict[object, Heard]] = {}
        self._readers: dict[str, Read] = {}

    def start(self) -> None:
        """Hear notes from now on, across reconnects."""
        self._connection.subscribe(f"{_PREFIX}.*.*.*".encode(), self._on_message)
        self._connection.subscribe(_ELECTIONS, self._on_election)

    def read(self, kind: str, callback: Read) -> None:
        """Call `callback` with stream, consumer and body of each note of a kind. It must not block."""
        self._readers[kind] = callback

    def listen(self, kind: str, stream: str, consumer: str, callback: Heard) -> Callable[[], None]:
        """Call `callback` at each such note, and stop when what is returned is called.

        An empty `stream` or `consumer` is any. The callback must neither block nor raise.
        """
        topic, key = (kind, stream, consumer), object()
        self._listeners.setdefault(topic, {})[key] = callback

        def stop() -> None:
            listeners = self._listeners.get(topic)
            if listeners is not None and listeners.pop(key, None) is not None and not listeners:
                del self._listeners[topic]

        return stop

    def send(self, kind: str, stream: str, consumer: str, body: bytes = b"") -> None:
        """Tell all servers, this one included. Without a connection nobody is told."""
        with suppress(NotConnected):
            self._connection.publish(f"{_PREFIX}.{kind}.{stream}.{consumer}".encode(), body)

    def _on_message(self, message: Message) -> None:
        tokens = message.subject.decode(errors="replace").split(".")
        if len(tokens) != 5:
            return
        _, _, kind, stream, consumer = tokens
        self.tell(kind, stream, consumer, message.body)

    def _on_election(self, message: Message) -> None:
        stream, _, consumer = message.subject.decode(errors="replace").rpartition(".")
        self.tell(ELECTED, stream.rpartition(".")[2], consumer)

    def tell(self, kind: str, stream: str, consumer: str, body: bytes = b"") -> None:
        """Tell this process only."""
        reader = self._readers.get(kind)
        if reader is not None:
            try:
                reader(stream, consumer, body)
            except Exception:
                log.exception("a note cannot be read")
        for topic in {(kind, s, c) for s in (stream, "") for c in (consumer, "")}:
            for callback in list(self._listeners.get(topic, {}).values()):
                try:
                    callback()
                except Exception:
                    log.exception("a listener to notes failed")
