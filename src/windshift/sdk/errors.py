"""What a call may raise: a class per reason of the server, a class per kind of reason, all `WindshiftError`.

The reasons are stable; an unknown one falls to the class of its gRPC code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from windshift.rpc import RpcError, StatusCode

DOMAIN = "windshift"
_HINT = "hint"  # in the metadata of the server: the end of its message, which says what to do
_NOTHING: Mapping[str, str] = MappingProxyType({})
_PASSING = frozenset(
    {"calls", "connections", "replays", "dead_letters", "dead_letter_bytes", "max_streams", "max_rps"}
)


class WindshiftError(Exception):
    """Whatever went wrong.

    Attributes:
        message: what happened.
        hint: what to do about it; empty = there is nothing, or the message says it.
        reason: the server's stable name for it; empty if it is not the server's.
        metadata: what the server tells besides, such as limits.
        code: the status of the call; None if there was none.
    """

    retryable = False
    """Whether nothing happened, and the same call may succeed a little later."""

    def __init__(
        self,
        message: str = "",
        *,
        hint: str = "",
        reason: str = "",
        metadata: Mapping[str, str] = _NOTHING,
        code: StatusCode | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.reason = reason
        self.metadata: Mapping[str, str] = dict(metadata)
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).__new__, (type(self),), {**self.__dict__, "args": self.args}

    def __str__(self) -> str:
        text = f"{self.message}; {self.hint}" if self.hint else self.message
        return f"{text} ({self.reason})" if self.reason else text

    @property
    def index(self) -> int | None:
        """Position, from 0 up, of the event of an atomic batch that it is about; None = no such event."""
        return self._number("index")

    def _number(self, name: str) -> int | None:
        value = self.metadata.get(name, "")
        return int(value) if value.isdigit() else None


class _Named(WindshiftError):
    @property
    def name(self) -> str:
        """What the request named, without the client's namespace only if the server's text is."""
        return self.metadata.get("name", "")


# --- The request is wrong -------------------------------------------------------------------------


class InvalidRequest(WindshiftError):
    """The request can never succeed as it is."""


class InvalidField(InvalidRequest):
    """A field is missing, malformed, reserved or out of range."""

    @property
    def field(self) -> str:
        """Path of the Protobuf field, such as `data.type_url`."""
        return self.metadata.get("field", "")


class UnsupportedCombination(InvalidRequest):
    """Options that the broker does not take together."""


class EventTooLarge(InvalidRequest):
    """The event or value, headers included, is too large."""

    @property
    def limit(self) -> int | None:
        """The largest size, in bytes."""
        return self._number("limit")


class SubscribeExpected(InvalidRequest):
    """A consume call did not begin with a subscription."""


class AlreadySubscribed(InvalidRequest):
    """A consume call had two subscriptions."""


# --- It does not exist ----------------------------------------------------------------------------


class NotFound(_Named):
    """What the request names does not exist."""


class StreamNotFound(NotFound):
    """No stream has this name."""


class ConsumerNotFound(NotFound):
    """The stream has no such consumer."""


class StoreNotFound(NotFound):
    """No store has this name."""


class KeyNotFound(NotFound):
    """The store has no value for this key."""


class EventNotFound(NotFound):
    """The stream holds no such event, or not any more."""


class DeadLetterNotFound(NotFound):
    """There is no such dead letter, or not any more."""


class PrincipalNotFound(NotFound):
    """The rules know nobody of this name."""


# --- Somebody else was first ----------------------------------------------------------------------


class Conflict(WindshiftError):
    """What is stored is not what the request expects; nothing was stored."""


class _Expected(Conflict):
    @property
    def expected(self) -> int | None:
        """What the request expected."""
        return self._number("expected")

    @property
    def actual(self) -> int | None:
        """What is stored; None if the caller may not know."""
        return self._number("actual")


class WrongLastId(_Expected):
    """The stream's last id is not `expected` but `actual`."""


class RevisionMismatch(_Expected):
    """The key's revision is not `expected` but `actual`; 0 = the key does not exist."""

    @property
    def key(self) -> str:
        """The key, of a transaction; empty elsewhere."""
        return self.metadata.get("key", "")


class KeyExists(Conflict):
    """The key was to be created, but has a value."""

    @property
    def key(self) -> str:
        """The key."""
        return self.metadata.get("name", "")

    @property
    def revision(self) -> int | None:
        """Its revision."""
        return self._number("actual")


class DuplicateEvent(Conflict):
    """An event of an atomic batch was stored before, by its key; none of the batch was stored now."""

    @property
    def id(self) -> int | None:
        """Its id in the stream; 0 if the caller may not know."""
        return self._number("id")


# --- The broker cannot ----------------------------------------------------------------------------


class Refused(_Named):
    """The request is well formed, but cannot be done in this state."""


class UnboundSubject(Refused):
    """No stream takes events of this subject."""

    @property
    def subject(self) -> str:
        """The subject, with the client's namespace."""
        return self.metadata.get("subject", "")


class SubjectsOverlap(Refused):
    """Another stream takes some of these subjects."""


class StorageChange(Refused):
    """The storage of a stream cannot be changed."""


class MirrorChange(Refused):
    """A mirror stays a mirror, and of the same stream."""


class ReplicasUnavailable(Refused):
    """The broker has too few servers for so many replicas."""


class ValueNotAny(Refused):
    """Another program wrote a value that is no `google.protobuf.Any`."""


class TtlNotSupported(Refused):
    """Values of this store cannot expire one by one."""


class TransactionsNotSupported(Refused):
    """The store cannot write several keys all or none; ensure it again."""


class TooManySubjects(Refused):
    """More subjects match than can be listed."""


class SeekNotPossible(Refused):
    """The broker does not move this consumer there; the message says what to do."""


class NotSupportedByBroker(Refused):
    """The broker's version cannot do this."""


class NotAllowedByStream(Refused):
    """The stream does not allow this; ensure it with the setting that does, if there is one."""

    @property
    def subject(self) -> str:
        """A subject of the stream, with the client's namespace; empty if the message names the stream."""
        return self.metadata.get("subject", "")

    @property
    def setting(self) -> str:
        """The field of EnsureStream that allows it; empty = there is none."""
        return self.metadata.get("setting", "")


class ForbiddenByBroker(Refused):
    """The broker does not let the server do this: its NATS user lacks a permission."""


# --- Limits ---------------------------------------------------------------------------------------


class Exhausted(WindshiftError):
    """A limit is reached; nothing was stored."""


class StreamFull(Exhausted):
    """The stream is full and refuses new events."""


class StorageFull(StreamFull):
    """The broker's storage is full."""


class ConsumerLimit(Exhausted):
    """There are as many consumers as there may be."""


class StreamLimit(Exhausted):
    """There are as many streams and stores as there may be."""


class TooManyInFlight(Exhausted):
    """Too many publishes wait for the broker; nothing was sent."""

    retryable = True


class QuotaExceeded(Exhausted):
    """The caller has as much as the rules allow. It is retryable where to wait is enough."""

    @property
    def retryable(self) -> bool:  # type: ignore[override] # it depends on the quota
        """Whether the quota is of what passes, such as calls; not of what is stored, such as streams."""
        return self.quota in _PASSING

    @property
    def quota(self) -> str:
        """Name of the quota in the rules."""
        return self.metadata.get("quota", "")

    @property
    def limit(self) -> float | None:
        """Its value."""
        try:
            return float(self.metadata.get("limit", ""))
        except ValueError:
            return None


# --- Not now --------------------------------------------------------------------------------------


class Unavailable(WindshiftError):
    """Nothing happened. The client has tried until the timeout; try again later."""

    retryable = True


class Unreachable(Unavailable):
    """No server could be reached, or none took the call in time."""


class BrokerUnavailable(Unavailable):
    """The server has no connection to its broker, or the broker has no leader."""


class ShuttingDown(Unavailable):
    """The server is about to stop."""


class IdentityUnavailable(Unavailable):
    """The server cannot fetch the keys of the token's issuer."""


class ConnectionEnded(Unavailable):
    """An operator ended the connection."""


class TokenUnavailable(Unavailable):
    """The client's own token function failed; its error is the cause."""


class DeadlineExceeded(WindshiftError, TimeoutError):
    """A read was not answered in time."""

    retryable = True


class OutcomeUnknown(WindshiftError, TimeoutError):
    """A write may have been stored or not, and repeating it could do it twice."""


# --- Who may --------------------------------------------------------------------------------------


class Denied(WindshiftError):
    """The caller may not do this."""


class Unauthenticated(Denied):
    """The call has no valid credentials."""


class PermissionDenied(Denied):
    """The rules do not allow it."""


# --- Of the client itself -------------------------------------------------------------------------


class SettingsError(WindshiftError):
    """Settings are wrong; the message names all problems."""


class WrongLoop(WindshiftError):
    """A client is used in another event loop, or another process, than at its first call."""


class ClientClosed(WindshiftError):
    """The client is closed."""


class UnknownType(WindshiftError):
    """The type of a payload is not known in this process: import its generated module.

    Attributes:
        type_name: full name of the type.
    """

    def __init__(self, type_name: str) -> None:
        super().__init__(f"the type {type_name!r} is not known here", hint="import its generated module")
        self.type_name = type_name


class Undecodable(WindshiftError):
    """The bytes of a payload are not a message of its type, or the type is not the one asked for.

    Attributes:
        type_name: full name of the payload's type.
    """

    def __init__(self, type_name: str, why: str) -> None:
        super().__init__(f"a payload of type {type_name!r} {why}")
        self.type_name = type_name


class LeaseLost(WindshiftError):
    """The event was settled too late: somebody else has it, or will get it.

    Attributes:
        id: its id.
    """

    def __init__(self, id: int) -> None:  # noqa: A002 -- the field's name
        super().__init__(f"event {id} is not held any more: it was settled, or its lease ended")
        self.id = id


class NotSettled(WindshiftError):
    """What became of an event could not be stored; it may be delivered again."""


class PublishManyError(WindshiftError):
    """Not all of the events were stored.

    Attributes:
        results: for each event that was taken its receipt, its error, or None if it was not tried.
    """

    def __init__(self, results: list[object]) -> None:
        failed = [result for result in results if isinstance(result, Exception)]
        super().__init__(f"{len(failed)} of {len(results)} events failed, first: {failed[0]}")
        self.results = results


def _reasons(kind: type[WindshiftError]) -> dict[str, type[WindshiftError]]:
    """Return the classes below one, by the server's reasons: their names in capitals."""
    found: dict[str, type[WindshiftError]] = {}
    for each in kind.__subclasses__():
        found |= {re.sub("(?<!^)(?=[A-Z])", "_", each.__name__).upper(): each} | _reasons(each)
    return found


_BY_REASON = _reasons(WindshiftError)

_BY_CODE: dict[StatusCode, type[WindshiftError]] = {
    StatusCode.INVALID_ARGUMENT: InvalidRequest,
    StatusCode.OUT_OF_RANGE: InvalidRequest,
    StatusCode.NOT_FOUND: NotFound,
    StatusCode.ALREADY_EXISTS: Conflict,
    StatusCode.ABORTED: Conflict,
    StatusCode.FAILED_PRECONDITION: Refused,
    StatusCode.RESOURCE_EXHAUSTED: Exhausted,
    StatusCode.UNAVAILABLE: Unavailable,
    StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    StatusCode.UNAUTHENTICATED: Unauthenticated,
    StatusCode.PERMISSION_DENIED: PermissionDenied,
}


def reason_of(error: RpcError) -> tuple[str, Mapping[str, str]]:
    """Return the server's reason with its metadata; empty if something else answered, or nobody."""
    from google.rpc.error_details_pb2 import ErrorInfo  # noqa: PLC0415 -- most calls have none

    info = error.detail(ErrorInfo)
    if info is None or info.domain != DOMAIN:
        return "", _NOTHING
    return info.reason, dict(info.metadata)


def from_rpc(error: RpcError) -> WindshiftError:
    """Return the error of the SDK for a call that ended so."""
    reason, metadata = reason_of(error)
    kind = _BY_REASON.get(reason) or _BY_CODE.get(error.code, WindshiftError)
    if not error.sent and error.code in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED):
        kind = Unreachable
    hint = metadata.get(_HINT, "")
    message = error.message.removesuffix(f"; {hint}") or error.code.name
    metadata = {name: value for name, value in metadata.items() if name != _HINT}
    return kind(message, hint=hint, reason=reason, metadata=metadata, code=error.code)
