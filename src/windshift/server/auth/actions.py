"""What a caller can ask for: a verb and its resource.

Subjects may be patterns, which mean everything that they match; names are never patterns. An empty name in an
action on dead letters means all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Final, dataclass_transform

_SHOWN: Final = 300
"""Characters shown of a name."""


@dataclass_transform(frozen_default=True)
class Action:
    """What a caller can ask for: each kind is a frozen dataclass of its own.

    Attributes:
        verb: the name of the action in documents and commands: that of the class, with dashes.
    """

    verb: ClassVar[str]
    _template: ClassVar[str]

    def __init_subclass__(cls, *, phrase: str) -> None:
        """Make a kind. `phrase` is the template of its `phrase`, with fields in braces."""
        dataclass(frozen=True)(cls)
        cls.verb = re.sub("(?<!^)(?=[A-Z])", "-", cls.__name__).lower()
        cls._template = phrase

    @property
    def resource(self) -> str:
        """The names and subjects that it concerns."""
        return " ".join(map(_short, vars(self).values()))

    @property
    def phrase(self) -> str:
        """The action for people, to follow "may not"."""
        values = {name: _quoted(value) for name, value in vars(self).items()}
        return self._template.format(**values)


class Publish(Action, phrase="publish to {subject}"):
    """Store an event under a subject."""

    subject: str


class ManageStream(Action, phrase="manage stream {stream}"):
    """Create or change a stream."""

    stream: str


class ViewStream(Action, phrase="view stream {stream}"):
    """See what a stream is and how much it holds, but no event of it."""

    stream: str


class PurgeStream(Action, phrase="remove events of {subject} from stream {stream}"):
    """Remove a subject's events from a stream."""

    stream: str
    subject: str


class DeleteStream(Action, phrase="delete stream {stream}"):
    """Delete a stream with all that is in it."""

    stream: str


class Bind(Action, phrase="bind {subject} to a stream"):
    """Have a stream take the events of a subject."""

    subject: str


class Copy(Action, phrase="copy {subject} from stream {stream}"):
    """Have a stream copy a subject's events from another stream."""

    stream: str
    subject: str


class Consume(Action, phrase="consume {subject} of stream {stream} through consumer {consumer}"):
    """Read a subject's events of a stream through a consumer; None = its own ephemeral one."""

    stream: str
    subject: str
    consumer: str | None


class UseConsumer(Action, phrase="use consumer {consumer} of stream {stream}"):
    """Look at a consumer, or attach to it, whatever its filters; None = its own ephemeral one."""

    stream: str
    consumer: str | None


class MakeEphemeral(Action, phrase="make an ephemeral consumer of stream {stream} (streams.ephemeral)"):
    """Make a consumer without a name of its own."""

    stream: str


class RejectForGood(
    Action,
    phrase=(
        "reject events of consumer {consumer} of stream {stream} for good, which somebody else made "
        "(consumers.reject)"
    ),
):
    """Have events of a consumer that somebody else made kept as dead letters at once, or dropped.

    A consumer without a name of its own is named by its id.
    """

    stream: str
    consumer: str


class DeleteConsumer(Action, phrase="delete consumer {consumer} of stream {stream}"):
    """Delete a consumer; None = its own ephemeral one."""

    stream: str
    consumer: str | None


class ControlConsumer(Action, phrase="control consumer {consumer} of stream {stream}"):
    """Pause, resume or move a consumer; None = its own ephemeral one."""

    stream: str
    consumer: str | None


class ManageStore(Action, phrase="manage store {store}"):
    """Create a store."""

    store: str


class ViewStore(Action, phrase="view store {store}"):
    """See that a store is there and how much it holds."""

    store: str


class ReadKey(Action, phrase="read key {key} of store {store}"):
    """Read the value of a key."""

    store: str
    key: str


class WriteKey(Action, phrase="write key {key} of store {store}"):
    """Set or delete a key."""

    store: str
    key: str


class ReadDeadLetters(Action, phrase="read dead letters of consumer {consumer} of stream {stream}"):
    """Look at dead letters, the events in them included."""

    stream: str
    consumer: str


class ReplayDeadLetters(Action, phrase="replay dead letters of consumer {consumer} of stream {stream}"):
    """Have dead letters delivered again."""

    stream: str
    consumer: str


class PurgeDeadLetters(Action, phrase="purge dead letters of consumer {consumer} of stream {stream}"):
    """Remove dead letters for good."""

    stream: str
    consumer: str


class ObserveServer(Action, phrase="observe principal {principal} on the server"):
    """See who calls a server, and what they use of it; all of them when no principal is named."""

    principal: str = ""


class EndConnections(Action, phrase="end connections of principal {principal}"):
    """End a principal's connections."""

    principal: str


def _quoted(name: str | None) -> str:
    return repr(_short(name)) if name else _short(name)


def _short(name: str | None) -> str:
    """Return a name for people, cut to the longest valid one, since a request may have anything."""
    if not name:
        return "(ephemeral)" if name is None else "*"
    return name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"
