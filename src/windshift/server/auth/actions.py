"""What a caller can ask for: a verb and its resource.

Subjects may be patterns, which mean everything that they match; names are never patterns. An empty name in an
action on dead letters means all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import ClassVar, Final

_SHOWN: Final = 300
"""Characters shown of a name."""


@dataclass(frozen=True, slots=True)
class Action:
    """What a caller can ask for: each kind is a class of its own.

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
class Publish(Action):
    """Store an event under a subject."""

    subject: str
    _template = "publish to {subject}"


@dataclass(frozen=True, slots=True)
class ManageStream(Action):
    """Create or change a stream."""

    stream: str
    _template = "manage stream {stream}"


@dataclass(frozen=True, slots=True)
class ViewStream(Action):
    """See what a stream is and how much it holds, but no event of it."""

    stream: str
    _template = "view stream {stream}"


@dataclass(frozen=True, slots=True)
class PurgeStream(Action):
    """Remove a subject's events from a stream."""

    stream: str
    subject: str
    _template = "remove events of {subject} from stream {stream}"


@dataclass(frozen=True, slots=True)
class DeleteStream(Action):
    """Delete a stream with all that is in it."""

    stream: str
    _template = "delete stream {stream}"


@dataclass(frozen=True, slots=True)
class Bind(Action):
    """Have a stream take the events of a subject."""

    subject: str
    _template = "bind {subject} to a stream"


@dataclass(frozen=True, slots=True)
class Copy(Action):
    """Have a stream copy a subject's events from another stream."""

    stream: str
    subject: str
    _template = "copy {subject} from stream {stream}"


@dataclass(frozen=True, slots=True)
class Consume(Action):
    """Read a subject's events of a stream through a consumer; None = its own ephemeral one."""

    stream: str
    subject: str
    consumer: str | None
    _template = "consume {subject} of stream {stream} through consumer {consumer}"


@dataclass(frozen=True, slots=True)
class UseConsumer(Action):
    """Look at a consumer, or attach to it, whatever its filters; None = its own ephemeral one."""

    stream: str
    consumer: str | None
    _template = "use consumer {consumer} of stream {stream}"


@dataclass(frozen=True, slots=True)
class MakeEphemeral(Action):
    """Make a consumer without a name of its own."""

    stream: str
    _template = "make an ephemeral consumer of stream {stream} (streams.ephemeral)"


@dataclass(frozen=True, slots=True)
class RejectForGood(Action):
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
class DeleteConsumer(Action):
    """Delete a consumer; None = its own ephemeral one."""

    stream: str
    consumer: str | None
    _template = "delete consumer {consumer} of stream {stream}"


@dataclass(frozen=True, slots=True)
class ControlConsumer(Action):
    """Pause, resume or move a consumer; None = its own ephemeral one."""

    stream: str
    consumer: str | None
    _template = "control consumer {consumer} of stream {stream}"


@dataclass(frozen=True, slots=True)
class ManageStore(Action):
    """Create a store."""

    store: str
    _template = "manage store {store}"


@dataclass(frozen=True, slots=True)
class ViewStore(Action):
    """See that a store is there and how much it holds."""

    store: str
    _template = "view store {store}"


@dataclass(frozen=True, slots=True)
class ReadKey(Action):
    """Read the value of a key."""

    store: str
    key: str
    _template = "read key {key} of store {store}"


@dataclass(frozen=True, slots=True)
class WriteKey(Action):
    """Set or delete a key."""

    store: str
    key: str
    _template = "write key {key} of store {store}"


@dataclass(frozen=True, slots=True)
class ReadDeadLetters(Action):
    """Look at dead letters, the events in them included."""

    stream: str
    consumer: str
    _template = "read dead letters of consumer {consumer} of stream {stream}"


@dataclass(frozen=True, slots=True)
class ReplayDeadLetters(Action):
    """Have dead letters delivered again."""

    stream: str
    consumer: str
    _template = "replay dead letters of consumer {consumer} of stream {stream}"


@dataclass(frozen=True, slots=True)
class PurgeDeadLetters(Action):
    """Remove dead letters for good."""

    stream: str
    consumer: str
    _template = "purge dead letters of consumer {consumer} of stream {stream}"


@dataclass(frozen=True, slots=True)
class ObserveServer(Action):
    """See who calls a server, and what they use of it; all of them when no principal is named."""

    principal: str = ""
    _template = "observe principal {principal} on the server"


@dataclass(frozen=True, slots=True)
class EndConnections(Action):
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
