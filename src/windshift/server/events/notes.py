"""Notes from server to server: that something happened which others may want to look at now.

A note is a core NATS message without a body, ``_WS.note.<kind>.<stream>.<consumer>``. It may be lost, and it
is not heard while there is no connection, so nothing may depend on one: it only makes things faster.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, TypeAlias

from windshift.nats import Connection, Message, NotConnected

log = logging.getLogger(__name__)

REPLAY: Final = "replay"
"""An event is to be delivered again to the consumer."""
CONSUMER: Final = "consumer"
"""The consumer's configuration was changed."""
DEAD: Final = "dead"
"""The consumer gave up on an event, and its dead letter is written."""

_PREFIX: Final = "_WS.note"

Heard: TypeAlias = Callable[[], None]
_Topic: TypeAlias = tuple[str, str, str]


class Notes:
    """Sends notes, and tells listeners of this process of those that anybody sent, this process included."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._listeners: dict[_Topic, dict[object, Heard]] = {}

    def start(self) -> None:
        """Hear notes from now on, across reconnects."""
        self._connection.subscribe(f"{_PREFIX}.*.*.*".encode(), self._on_message)

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

    def send(self, kind: str, stream: str, consumer: str) -> None:
        """Tell all servers, this one included. Without a connection nobody is told."""
        send_note(self._connection, kind, stream, consumer)

    def _on_message(self, message: Message) -> None:
        tokens = message.subject.decode(errors="replace").split(".")
        if len(tokens) == 5:
            self.tell(tokens[2], tokens[3], tokens[4])

    def tell(self, kind: str, stream: str, consumer: str) -> None:
        """Tell listeners of this process only."""
        for topic in {(kind, s, c) for s in (stream, "") for c in (consumer, "")}:
            for callback in list(self._listeners.get(topic, {}).values()):
                try:
                    callback()
                except Exception:
                    log.exception("a listener to notes failed")


def send_note(connection: Connection, kind: str, stream: str, consumer: str) -> None:
    """Tell all servers. Without a connection nobody is told."""
    try:
        connection.publish(f"{_PREFIX}.{kind}.{stream}.{consumer}".encode())
    except NotConnected:
        pass
