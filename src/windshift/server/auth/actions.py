"""What a caller can ask for: a verb and what it is done to.

Subjects may be patterns with wildcards, where what is asked for is all that they match; names are never
patterns. An empty name in an action on dead letters stands for all there are.
"""

from __future__ import annotations

from typing import ClassVar, Final, NamedTuple, TypeAlias

EVERYTHING: Final = ">"
"""The subject that stands for every one."""


class Publish(NamedTuple):
    """Store an event under a subject."""

    subject: str
    verb: ClassVar[str] = "publish"

    @property
    def resource(self) -> str:
        """What it is done to, for people."""
        return self.subject


class ManageStream(NamedTuple):
    """Create or change a stream."""

    stream: str
    verb: ClassVar[str] = "manage-stream"

    @property
    def resource(self) -> str:
        """What it is done to, for people."""
        return self.stream


class Bind(NamedTuple):
    """Have a stream take the events of a subject."""

    subject: str
    verb: ClassVar[str] = "bind"

    @property
    def resource(self) -> str:
        """What it is done to, for people."""
        return self.subject


class Copy(NamedTuple):
    """Have a stream copy a subject's events from another stream."""

    stream: str
    subject: str
    verb: ClassVar[str] = "copy"

    @property
    def resource(self) -> str:
        """What it is done to, for people."""
        return f"{self.stream} {self.subject}"


class Consume(NamedTuple):
    """Read a subject's events of a stream through a consumer; None = one without a name of its own."""

    stream: str
    subject: str
    consumer: str | None
    verb: ClassVar[str] = "consume"

    @property
    def resource(self) -> str:
        """What it is done to, for people."""
        return f"{self.stream} {self.subject} {self.consumer or '(ephemeral)'}"


class UseConsumer(NamedTuple):
    """Look at a consumer, or attach to it, whatever it chooses; None = one without a name of its own."""

    stream: str
    consumer: str | None
    verb: ClassVar[str] = "use-consumer"

    @property
    def resource(self) -> str:
        """What it is done to, for people."""
        return f"{self.stream} {self.consumer or '(ephemeral)'}"


class DeleteConsumer(NamedTuple):
    """Delete a consumer; None = one without a name of its own."""

    stream: str
    consumer: str | None
    verb: ClassVar[str] = "delete-consumer"

    @property
    def resource(self) -> str:
        """What it is done to, for people."""
        return f"{self.stream} {self.consumer or '(ephemeral)'}"


class ManageStore(NamedTuple):
    """Create a store."""

    store: str
    verb: ClassVar[str] = "manage-store"

    @property
    def resource(self) -> str:
        """What it is done to, for people."""
        return self.store


class ReadKey(NamedTuple):
    """Read the value of a key."""

    store: str
    key: str
    verb: ClassVar[str] = "read-key"

    @property
    def resource(self) -> str:
        """What it is done to, for people."""
        return f"{self.store} {self.key}"


class WriteKey(NamedTuple):
    """Set or delete a key."""

    store: str
    key: str
    verb: ClassVar[str] = "write-key"

    @property
    def resource(self) -> str:
        """What it is done to, for people."""
        return f"{self.store} {self.key}"


class ReadDeadLetters(NamedTuple):
    """Look at dead letters, the events in them included."""

    stream: str
    consumer: str
    verb: ClassVar[str] = "read-dead-letters"

    @property
    def resource(self) -> str:
        """What it is done to, for people."""
        return f"{self.stream or '*'} {self.consumer or '*'}"


class ReplayDeadLetters(NamedTuple):
    """Have dead letters delivered again."""

    stream: str
    consumer: str
    verb: ClassVar[str] = "replay-dead-letters"

    @property
    def resource(self) -> str:
        """What it is done to, for people."""
        return f"{self.stream or '*'} {self.consumer or '*'}"


class PurgeDeadLetters(NamedTuple):
    """Remove dead letters for good."""

    stream: str
    consumer: str
    verb: ClassVar[str] = "purge-dead-letters"

    @property
    def resource(self) -> str:
        """What it is done to, for people."""
        return f"{self.stream or '*'} {self.consumer or '*'}"


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
