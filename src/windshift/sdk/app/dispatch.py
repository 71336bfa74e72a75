"""Which handler takes an event: by the type of its payload and by its subject."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from windshift.sdk.subjects import EVERYTHING, overlap

H = TypeVar("H")


class Routes(Generic[H]):
    """The handlers of a consumer. At most one of them takes an event."""

    def __init__(self) -> None:
        self._by_type: dict[type, list[tuple[str, H]]] = {}

    def __len__(self) -> int:
        return len(self._by_type)

    def __iter__(self) -> Iterator[tuple[type, str, H]]:
        """Yield a type, a filter and a handler."""
        for kind, handlers in self._by_type.items():
            for subject, handler in handlers:
                yield kind, subject, handler

    def add(self, types: Iterable[type], subject: str, handler: H) -> None:
        """Add a handler for types of payloads, on the subjects that match.

        Raises:
            TypeError: another handler could take the same event.
        """
        for kind in types:
            for taken, other in self._by_type.get(kind, ()):
                if overlap(taken, subject):
                    raise TypeError(f"{handler} and {other} both take {kind.__name__} on {subject!r}")
            self._by_type.setdefault(kind, []).append((subject, handler))

    def find(self, kind: type | None, subject: str) -> H | None:
        """Return the handler of an event, if there is one."""
        for taken, handler in self._by_type.get(kind, ()) if kind else ():
            if taken == EVERYTHING or overlap(taken, subject):
                return handler
        return None
