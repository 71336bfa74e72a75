"""What is known of the failed attempts of events, for the dead letters that they may become.

JetStream counts attempts and says nothing else of them. What a server remembers beside that is bounded, is
its own, and ends with it. No I/O, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from windshift.server.events.model import ConsumerKey, StreamSeq

MOST: Final = 20_000
"""Events of which something is remembered."""

EventKey: TypeAlias = tuple[ConsumerKey, StreamSeq]


@dataclass(slots=True)
class Attempts:
    """The failed attempts of one event. Times are nanoseconds since 1970.

    Attributes:
        first_ns: when the first of them began.
        last_ns: when the last of them began.
        reason: what the last subscriber said that rejected the event.
        error_type: the same.
    """

    first_ns: int
    last_ns: int
    reason: str = ""
    error_type: str = ""


class FailedAttempts:
    """The failed attempts of events; those that failed longest ago are forgotten first."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._known: dict[EventKey, Attempts] = {}

    def __len__(self) -> int:
        return len(self._known)

    def failed(self, key: EventKey, began_ns: int, reason: str = "", error_type: str = "") -> None:
        """Note that an attempt failed which began at `began_ns`."""
        known = self._known.pop(key, None) or Attempts(began_ns, began_ns)
        known.last_ns = began_ns
        if reason or error_type:
            known.reason, known.error_type = reason, error_type
        self._known[key] = known
        if len(self._known) > self._most:
            del self._known[next(iter(self._known))]

    def get(self, key: EventKey) -> Attempts | None:
        """Return what is known of an event."""
        return self._known.get(key)

    def forget(self, key: EventKey) -> None:
        """Forget an event: it is settled."""
        self._known.pop(key, None)
