"""What a caller can ask for: a verb and what it is done to.

Subjects may be patterns with wildcards, where what is asked for is all that they match; names are never
patterns. An empty name in an action on dead letters stands for all there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias

EVERYTHING: Final = ">"
"""The subject that stands for every one."""

_EPHEMERAL: Final = "(ephemeral)"
_TOLD: Final = 300
"""How many characters of a name are told."""


@dataclass(frozen=True, slots=True)
class Publish:
    """Store an event under a subject."""

    subject: str
    verb: ClassVar[str] = "publish"

    @property
    def resource(self) -> str:
        """What it is done to, in few words: names and subjects alone."""
        return _cut(self.subject)

    @property
    def phrase(self) -> str:
        """What it is, for people, as it goes on after "may not"."""
        return f"publish to {_cut(self.subject)!r}"


@dataclass(frozen=True, slots=True)
class ManageStream:
    """Create or change a stream."""

    stream: str
    verb: ClassVar[str] = "manage-stream"

    @property
    def resource(self) -> str:
        """What it is done to, in few words: names and subjects alone."""
        return _cut(self.stream)

    @property
    def phrase(self) -> str:
        """What it is, for people, as it goes on after "may not"."""
        return f"manage stream {_cut(self.stream)!r}"


@dataclass(frozen=True, slots=True)
class Bind:
    """Have a stream take the events of a subject."""

    subject: str
    verb: ClassVar[str] = "bind"

    @property
    def resource(self) -> str:
        """What it is done to, in few words: names and subjects alone."""
        return _cut(self.subject)

    @property
    def phrase(self) -> str:
        """What it is, for people, as it goes on after "may not"."""
        return f"bind {_cut(self.subject)!r} to a stream"


@dataclass(frozen=True, slots=True)
class Copy:
    """Have a stream copy a subject's events from another stream."""

    stream: str
    subject: str
    verb: ClassVar[str] = "copy"

    @property
    def resource(self) -> str:
        """What it is done to, in few words: names and subjects alone."""
        return _joined(self.stream, self.subject)

    @property
    def phrase(self) -> str:
        """What it is, for people, as it goes on after "may not"."""
        return f"copy {_cut(self.subject)!r} from stream {_cut(self.stream)!r}"


@dataclass(frozen=True, slots=True)
class Consume:
    """Read a subject's events of a stream through a consumer; None = one without a name of its own."""

    stream: str
    subject: str
    consumer: str | None
    verb: ClassVar[str] = "consume"

    @property
    def resource(self) -> str:
        """What it is done to, in few words: names and subjects alone."""
        return _joined(self.stream, self.subject, self.consumer or _EPHEMERAL)

    @property
    def phrase(self) -> str:
        """What it is, for people, as it goes on after "may not"."""
        what = f"{_cut(self.subject)!r} of stream {_cut(self.stream)!r}"
        return f"consume {what} through {_consumer(self.consumer)}"


@dataclass(frozen=True, slots=True)
class UseConsumer:
    """Look at a consumer, or attach to it, whatever it chooses; None = one without a name of its own."""

    stream: str
    consumer: str | None
    verb: ClassVar[str] = "use-consumer"

    @property
    def resource(self) -> str:
        """What it is done to, in few words: names and subjects alone."""
        return _joined(self.stream, self.consumer or _EPHEMERAL)

    @property
    def phrase(self) -> str:
        """What it is, for people, as it goes on after "may not"."""
        return f"use {_consumer(self.consumer)} of stream {_cut(self.stream)!r}"


@dataclass(frozen=True, slots=True)
class DeleteConsumer:
    """Delete a consumer; None = one without a name of its own."""

    stream: str
    consumer: str | None
    verb: ClassVar[str] = "delete-consumer"

    @property
    def resource(self) -> str:
        """What it is done to, in few words: names and subjects alone."""
        return _joined(self.stream, self.consumer or _EPHEMERAL)

    @property
    def phrase(self) -> str:
        """What it is, for people, as it goes on after "may not"."""
        return f"delete {_consumer(self.consumer)} of stream {_cut(self.stream)!r}"


@dataclass(frozen=True, slots=True)
class ManageStore:
    """Create a store."""

    store: str
    verb: ClassVar[str] = "manage-store"

    @property
    def resource(self) -> str:
        """What it is done to, in few words: names and subjects alone."""
        return _cut(self.store)

    @property
    def phrase(self) -> str:
        """What it is, for people, as it goes on after "may not"."""
        return f"manage store {_cut(self.store)!r}"


@dataclass(frozen=True, slots=True)
class ReadKey:
    """Read the value of a key."""

    store: str
    key: str
    verb: ClassVar[str] = "read-key"

    @property
    def resource(self) -> str:
        """What it is done to, in few words: names and subjects alone."""
        return _joined(self.store, self.key)

    @property
    def phrase(self) -> str:
        """What it is, for people, as it goes on after "may not"."""
        return f"read key {_cut(self.key)!r} of store {_cut(self.store)!r}"


@dataclass(frozen=True, slots=True)
class WriteKey:
    """Set or delete a key."""

    store: str
    key: str
    verb: ClassVar[str] = "write-key"

    @property
    def resource(self) -> str:
        """What it is done to, in few words: names and subjects alone."""
        return _joined(self.store, self.key)

    @property
    def phrase(self) -> str:
        """What it is, for people, as it goes on after "may not"."""
        return f"write key {_cut(self.key)!r} of store {_cut(self.store)!r}"


@dataclass(frozen=True, slots=True)
class ReadDeadLetters:
    """Look at dead letters, the events in them included."""

    stream: str
    consumer: str
    verb: ClassVar[str] = "read-dead-letters"

    @property
    def resource(self) -> str:
        """What it is done to, in few words: names and subjects alone."""
        return _joined(self.stream or "*", self.consumer or "*")

    @property
    def phrase(self) -> str:
        """What it is, for people, as it goes on after "may not"."""
        return f"read dead letters of {_whose(self.stream, self.consumer)}"


@dataclass(frozen=True, slots=True)
class ReplayDeadLetters:
    """Have dead letters delivered again."""

    stream: str
    consumer: str
    verb: ClassVar[str] = "replay-dead-letters"

    @property
    def resource(self) -> str:
        """What it is done to, in few words: names and subjects alone."""
        return _joined(self.stream or "*", self.consumer or "*")

    @property
    def phrase(self) -> str:
        """What it is, for people, as it goes on after "may not"."""
        return f"replay dead letters of {_whose(self.stream, self.consumer)}"


@dataclass(frozen=True, slots=True)
class PurgeDeadLetters:
    """Remove dead letters for good."""

    stream: str
    consumer: str
    verb: ClassVar[str] = "purge-dead-letters"

    @property
    def resource(self) -> str:
        """What it is done to, in few words: names and subjects alone."""
        return _joined(self.stream or "*", self.consumer or "*")

    @property
    def phrase(self) -> str:
        """What it is, for people, as it goes on after "may not"."""
        return f"purge dead letters of {_whose(self.stream, self.consumer)}"


def _consumer(name: str | None) -> str:
    return "an ephemeral consumer" if name is None else f"consumer {_cut(name)!r}"


def _whose(stream: str, consumer: str) -> str:
    of = f"consumer {_cut(consumer)!r}" if consumer else "all consumers"
    return f"{of} of stream {_cut(stream)!r}" if stream else f"{of} of all streams"


def _joined(*names: str) -> str:
    return " ".join(map(_cut, names))


def _cut(name: str) -> str:
    """Return a name for people: no more of it than any can have, whatever a request holds in its place."""
    return name if len(name) <= _TOLD else f"{name[:_TOLD]}…"


Action: TypeAlias = (
    Publish
    | ManageStream
    | Bind
    | Copy
    | Consume
    | UseConsumer
    | DeleteConsumer
    | ManageStore
    | ReadKey
    | WriteKey
    | ReadDeadLetters
    | ReplayDeadLetters
    | PurgeDeadLetters
)
