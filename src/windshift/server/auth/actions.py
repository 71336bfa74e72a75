"""What a caller can ask for: a verb and what it is done to.

Subjects may be patterns with wildcards, where what is asked for is all that they match; names are never
patterns. An empty name in an action on dead letters stands for all there are.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Final, TypeAlias

EVERYTHING: Final = ">"
"""The subject that stands for every one."""

_TOLD: Final = 300
"""How many characters of a name are told."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What all actions have.

    Attributes:
        verb: what is to be done, in the word that documents and commands use.
    """

    verb: ClassVar[str]
    _told_as: ClassVar[str]
    """What `phrase` is made from: the fields stand in braces."""

    @property
    def resource(self) -> str:
        """What it is done to, in few words: names and subjects alone."""
        return " ".join(_short(getattr(self, field.name)) for field in fields(self))

    @property
    def phrase(self) -> str:
        """What it is, for people, as it goes on after "may not"."""
        told = {field.name: _quoted(getattr(self, field.name)) for field in fields(self)}
        return self._told_as.format(**told)


@dataclass(frozen=True, slots=True)
class Publish(_Asked):
    """Store an event under a subject."""

    subject: str
    verb = "publish"
    _told_as = "publish to {subject}"


@dataclass(frozen=True, slots=True)
class ManageStream(_Asked):
    """Create or change a stream."""

    stream: str
    verb = "manage-stream"
    _told_as = "manage stream {stream}"


@dataclass(frozen=True, slots=True)
class ViewStream(_Asked):
    """See what a stream is and how much it holds, but no event of it."""

    stream: str
    verb = "view-stream"
    _told_as = "view stream {stream}"


@dataclass(frozen=True, slots=True)
class PurgeStream(_Asked):
    """Remove a subject's events from a stream."""

    stream: str
    subject: str
    verb = "purge-stream"
    _told_as = "remove events of {subject} from stream {stream}"


@dataclass(frozen=True, slots=True)
class Bind(_Asked):
    """Have a stream take the events of a subject."""

    subject: str
    verb = "bind"
    _told_as = "bind {subject} to a stream"


@dataclass(frozen=True, slots=True)
class Copy(_Asked):
    """Have a stream copy a subject's events from another stream."""

    stream: str
    subject: str
    verb = "copy"
    _told_as = "copy {subject} from stream {stream}"


@dataclass(frozen=True, slots=True)
class Consume(_Asked):
    """Read a subject's events of a stream through a consumer; None = one without a name of its own."""

    stream: str
    subject: str
    consumer: str | None
    verb = "consume"
    _told_as = "consume {subject} of stream {stream} through consumer {consumer}"


@dataclass(frozen=True, slots=True)
class UseConsumer(_Asked):
    """Look at a consumer, or attach to it, whatever it chooses; None = one without a name of its own."""

    stream: str
    consumer: str | None
    verb = "use-consumer"
    _told_as = "use consumer {consumer} of stream {stream}"


@dataclass(frozen=True, slots=True)
class MakeEphemeral(_Asked):
    """Make a consumer without a name of its own."""

    stream: str
    verb = "make-ephemeral"
    _told_as = "make an ephemeral consumer of stream {stream} (streams.ephemeral)"


@dataclass(frozen=True, slots=True)
class RejectForGood(_Asked):
    """Have events of a consumer that somebody else made kept as dead letters at once, or dropped.

    A consumer without a name of its own is named by its id.
    """

    stream: str
    consumer: str
    verb = "reject-for-good"
    _told_as = (
        "reject events of consumer {consumer} of stream {stream} for good, which somebody else made "
        "(consumers.reject)"
    )


@dataclass(frozen=True, slots=True)
class DeleteConsumer(_Asked):
    """Delete a consumer; None = one without a name of its own."""

    stream: str
    consumer: str | None
    verb = "delete-consumer"
    _told_as = "delete consumer {consumer} of stream {stream}"


@dataclass(frozen=True, slots=True)
class ManageStore(_Asked):
    """Create a store."""

    store: str
    verb = "manage-store"
    _told_as = "manage store {store}"


@dataclass(frozen=True, slots=True)
class ReadKey(_Asked):
    """Read the value of a key."""

    store: str
    key: str
    verb = "read-key"
    _told_as = "read key {key} of store {store}"


@dataclass(frozen=True, slots=True)
class WriteKey(_Asked):
    """Set or delete a key."""

    store: str
    key: str
    verb = "write-key"
    _told_as = "write key {key} of store {store}"


@dataclass(frozen=True, slots=True)
class ReadDeadLetters(_Asked):
    """Look at dead letters, the events in them included."""

    stream: str
    consumer: str
    verb = "read-dead-letters"
    _told_as = "read dead letters of consumer {consumer} of stream {stream}"


@dataclass(frozen=True, slots=True)
class ReplayDeadLetters(_Asked):
    """Have dead letters delivered again."""

    stream: str
    consumer: str
    verb = "replay-dead-letters"
    _told_as = "replay dead letters of consumer {consumer} of stream {stream}"


@dataclass(frozen=True, slots=True)
class PurgeDeadLetters(_Asked):
    """Remove dead letters for good."""

    stream: str
    consumer: str
    verb = "purge-dead-letters"
    _told_as = "purge dead letters of consumer {consumer} of stream {stream}"


def _quoted(name: str | None) -> str:
    return repr(_short(name)) if name else _short(name)


def _short(name: str | None) -> str:
    """Return a name for people: no more of it than any can have, whatever a request holds in its place."""
    if not name:
        return "(ephemeral)" if name is None else "*"
    return name if len(name) <= _TOLD else f"{name[:_TOLD]}…"


Action: TypeAlias = (
    Publish
    | ManageStream
    | ViewStream
    | PurgeStream
    | Bind
    | Copy
    | Consume
    | UseConsumer
    | MakeEphemeral
    | RejectForGood
    | DeleteConsumer
    | ManageStore
    | ReadKey
    | WriteKey
    | ReadDeadLetters
    | ReplayDeadLetters
    | PurgeDeadLetters
)
