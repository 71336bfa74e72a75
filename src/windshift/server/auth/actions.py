"""What a caller can ask for: a verb and its resource.

Subjects may be patterns, which mean everything that they match; names are never patterns. An empty name in an
action on dead letters means all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import ClassVar, Final, TypeAlias

_SHOWN: Final = 300
"""Characters shown of a name."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """Base of all actions.

    Attributes:
        verb: the name of the action in documents and commands: that of the class, with dashes.
    """

    verb: ClassVar[str]
    _template: ClassVar[str]
    """The template of `phrase`, with fields in braces."""

    def __init_subclass__(cls) -> None:
        cls.verb = re.sub("(?<!^)(?=[A-Z])", "-", cls.__name__).lower()

    @property
    def resource(self) -> str:
        """The names and subjects that it concerns."""
        return " ".join(_short(getattr(self, field.name)) for field in fields(self))

    @property
    def phrase(self) -> str:
        """The action for people, to follow "may not"."""
        values = {field.name: _quoted(getattr(self, field.name)) for field in fields(self)}
        return self._template.format(**values)


@dataclass(frozen=True, slots=True)
class Publish(_Asked):
    """Store an event under a subject."""

    subject: str
    _template = "publish to {subject}"


@dataclass(frozen=True, slots=True)
class ManageStream(_Asked):
    """Create or change a stream."""

    stream: str
    _template = "manage stream {stream}"


@dataclass(frozen=True, slots=True)
class ViewStream(_Asked):
    """See what a stream is and how much it holds, but no event of it."""

    stream: str
    _template = "view stream {stream}"


@dataclass(frozen=True, slots=True)
class PurgeStream(_Asked):
    """Remove a subject's events from a stream."""

    stream: str
    subject: str
    _template = "remove events of {subject} from stream {stream}"


@dataclass(frozen=True, slots=True)
class DeleteStream(_Asked):
    """Delete a stream with all that is in it."""

    stream: str
    _template = "delete stream {stream}"


@dataclass(frozen=True, slots=True)
class Bind(_Asked):
    """Have a stream take the events of a subject."""

    subject: str
    _template = "bind {subject} to a stream"


@dataclass(frozen=True, slots=True)
class Copy(_Asked):
    """Have a stream copy a subject's events from another stream."""

    stream: str
    subject: str
    _template = "copy {subject} from stream {stream}"


@dataclass(frozen=True, slots=True)
class Consume(_Asked):
    """Read a subject's events of a stream through a consumer; None = its own ephemeral one."""

    stream: str
    subject: str
    consumer: str | None
    _template = "consume {subject} of stream {stream} through consumer {consumer}"


@dataclass(frozen=True, slots=True)
class UseConsumer(_Asked):
    """Look at a consumer, or attach to it, whatever its filters; None = its own ephemeral one."""

    stream: str
    consumer: str | None
    _template = "use consumer {consumer} of stream {stream}"


@dataclass(frozen=True, slots=True)
class MakeEphemeral(_Asked):
    """Make a consumer without a name of its own."""

    stream: str
    _template = "make an ephemeral consumer of stream {stream} (streams.ephemeral)"


@dataclass(frozen=True, slots=True)
class RejectForGood(_Asked):
    """Have events of a consumer that somebody else made kept as dead letters at once, or dropped.

    A consumer without a name of its own is named by its id.
    """

    stream: str
    consumer: str
    _template = (
        "reject events of consumer {consumer} of stream {stream} for good, which somebody else made "
        "(consumers.reject)"
    )


@dataclass(frozen=True, slots=True)
class DeleteConsumer(_Asked):
    """Delete a consumer; None = its own ephemeral one."""

    stream: str
    consumer: str | None
    _template = "delete consumer {consumer} of stream {stream}"


@dataclass(frozen=True, slots=True)
class ControlConsumer(_Asked):
    """Pause, resume or move a consumer; None = its own ephemeral one."""

    stream: str
    consumer: str | None
    _template = "control consumer {consumer} of stream {stream}"


@dataclass(frozen=True, slots=True)
class ManageStore(_Asked):
    """Create a store."""

    store: str
    _template = "manage store {store}"


@dataclass(frozen=True, slots=True)
class ViewStore(_Asked):
    """See that a store is there and how much it holds."""

    store: str
    _template = "view store {store}"


@dataclass(frozen=True, slots=True)
class ReadKey(_Asked):
    """Read the value of a key."""

    store: str
    key: str
    _template = "read key {key} of store {store}"


@dataclass(frozen=True, slots=True)
class WriteKey(_Asked):
    """Set or delete a key."""

    store: str
    key: str
    _template = "write key {key} of store {store}"


@dataclass(frozen=True, slots=True)
class ReadDeadLetters(_Asked):
    """Look at dead letters, the events in them included."""

    stream: str
    consumer: str
    _template = "read dead letters of consumer {consumer} of stream {stream}"


@dataclass(frozen=True, slots=True)
class ReplayDeadLetters(_Asked):
    """Have dead letters delivered again."""

    stream: str
    consumer: str
    _template = "replay dead letters of consumer {consumer} of stream {stream}"


@dataclass(frozen=True, slots=True)
class PurgeDeadLetters(_Asked):
    """Remove dead letters for good."""

    stream: str
    consumer: str
    _template = "purge dead letters of consumer {consumer} of stream {stream}"


@dataclass(frozen=True, slots=True)
class ObserveServer(_Asked):
    """See who calls a server, and what they use of it; all of them when no principal is named."""

    principal: str = ""
    _template = "observe principal {principal} on the server"


@dataclass(frozen=True, slots=True)
class EndConnections(_Asked):
    """End a principal's connections."""

    principal: str
    _template = "end connections of principal {principal}"


def _quoted(name: str | None) -> str:
    return repr(_short(name)) if name else _short(name)


def _short(name: str | None) -> str:
    """Return a name for people, cut to the longest valid one, since a request may have anything."""
    if not name:
        return "(ephemeral)" if name is None else "*"
    return name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"


Action: TypeAlias = (
    Publish
    | ManageStream
    | ViewStream
    | PurgeStream
    | DeleteStream
    | Bind
    | Copy
    | Consume
    | UseConsumer
    | MakeEphemeral
    | RejectForGood
    | DeleteConsumer
    | ControlConsumer
    | ManageStore
    | ViewStore
    | ReadKey
    | WriteKey
    | ReadDeadLetters
    | ReplayDeadLetters
    | PurgeDeadLetters
    | ObserveServer
    | EndConnections
)
