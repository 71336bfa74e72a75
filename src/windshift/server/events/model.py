"""Values that the domain of events shares.

Some exist once per event, so they are tuples: creating one costs a third of a frozen dataclass.
"""

from __future__ import annotations

from typing import NamedTuple, NewType, TypeAlias

from windshift.nats.times import Time
from windshift.server.auth.policy import Principal
from windshift.server.domain.errors import WindshiftError
from windshift.server.telemetry.propagation import TraceContext

StreamSeq = NewType("StreamSeq", int)
"""An event's id: its sequence in the stream, which publish returned. Not a consumer's sequence."""


class ConsumerKey(NamedTuple):
    """What names a consumer."""

    stream: str
    name: str


class PublishRequest(NamedTuple):
    """An event to be stored, as a client gave it."""

    subject: str
    type_url: str
    body: bytes
    """The serialized message. Never decoded here."""
    time: Time | None = None
    """When it happened; `None` is now."""
    idempotency_key: str = ""
    """Empty is none."""
    expected_last_id: int | None = None
    """The last id ever assigned in the stream; 0 says that nothing was ever stored."""
    trace: TraceContext | None = None
    caller: Principal | None = None
    """Who publishes; `None` where there are no rules."""
    asker: str = ""
    """The same, or from where: publishes of different askers take turns where they have to wait."""


Item: TypeAlias = PublishRequest | WindshiftError
"""An event of many, or why it is not to be published."""

PublishReceipt: TypeAlias = tuple[int, bool]
"""The broker's word that an event is stored: its id, and whether an earlier publish with the same key had
stored it already. The id is 0 when somebody else may have, and the caller may not see the stream."""


class Results(NamedTuple):
    """What became of several events of a call, that follow each other.

    Attributes:
        first: the place of the first one among all of the call.
        ids: as in receipts; 0 for those that are not stored, too.
        duplicates: the places among all of those that had been stored before.
        errors: why others are not stored, or may not be, by their places among all.
    """

    first: int
    ids: list[int]
    duplicates: list[int]
    errors: dict[int, Exception]
