"""Every error of the domain: one tree, one class per reason of the contract.

An error has attributes rather than prose to parse: `reason` is the stable name that clients branch on,
`metadata` what they need to act, `message` what a person should change; `hint` is the end of that, for
clients that say it in other words. `windshift.server.api.errors` decides how they travel (code, details).

Clients may see every message, so none holds the text of an exception, a path or a credential.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

_NOTHING: Mapping[str, str] = {}


class WindshiftError(Exception):
    """Base of all errors that a client may be told about."""

    reason: ClassVar[str]
    """The name of the class in capitals, such as ``STREAM_FULL``. Clients know it: it never changes."""

    def __init_subclass__(cls) -> None:
        cls.reason = re.sub("(?<!^)(?=[A-Z])", "_", cls.__name__).upper()

    def __init__(self, what: str, metadata: Mapping[str, str] = _NOTHING, *, hint: str = "") -> None:
        message = f"{what}; {hint}" if hint else what
        super().__init__(message)
        self.message = message
        self.metadata = metadata
        self.hint = hint


def at_index(error: WindshiftError, index: int) -> WindshiftError:
    """Return an error that says which of several events it is about: `index` in its metadata."""
    if isinstance(error, InvalidField):
        error = InvalidField(f"events[{index}].{error.field}", error.description)
    error.metadata = {**error.metadata, "index": str(index)}
    return error


def of_stream(error: WindshiftError, name: str) -> WindshiftError:
    """Return an error that says which stream it is about, in its text and as `name` in its metadata."""
    if repr(name) not in error.message:
        error.message = f"stream {name!r}: {error.message}"
    error.metadata = {"name": name, **error.metadata}
    return error


def _named(name: str) -> Mapping[str, str]:
    """Return the metadata that says what an error is about, where that is known."""
    return {"name": name} if name else _NOTHING


# What the request says


class InvalidField(WindshiftError):
    """A field of the request is missing, malformed, reserved or out of range.

    `field` is the path of the Protobuf field, such as ``data.type_url``; empty = the request as a whole.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message, {"field": field})
        self.field = field
        self.description = message


class SubscribeExpected(WindshiftError):
    """The first message of a consume call is not `subscribe`."""

    def __init__(self) -> None:
        super().__init__("send `subscribe` as the first message of the call")


class AlreadySubscribed(WindshiftError):
    """A consume call was sent a second `subscribe`."""

    def __init__(self) -> None:
        super().__init__("this call is already subscribed", hint="open another call for another subscription")


class UnsupportedCombination(WindshiftError):
    """Options that are fine one by one but that the broker does not take together."""


class EventTooLarge(WindshiftError):
    """The event, headers included, is larger than `limit` bytes."""

    def __init__(self, limit: int, stream: str = "") -> None:
        raised = (
            f"max_event_size of stream {stream!r}" if stream else "max_payload of NATS, if that is the limit"
        )
        super().__init__(
            f"the message with its headers is larger than {limit} bytes",
            {"limit": str(limit), **_named(stream)},
            hint=f"send less, or raise {raised}",
        )


# What does not exist


class StreamNotFound(WindshiftError):
    """No stream has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"stream {name!r} does not exist", {"name": name}, hint="ensure it first")


class ConsumerNotFound(WindshiftError):
    """The stream has no consumer of this name, or no longer."""

    def __init__(self, name: str) -> None:
        super().__init__(f"consumer {name!r} does not exist", {"name": name}, hint="ensure it first")


class StoreNotFound(WindshiftError):
    """No store has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"store {name!r} does not exist", {"name": name}, hint="ensure it first")


class KeyNotFound(WindshiftError):
    """The store has no value for this key."""

    def __init__(self, key: str) -> None:
        super().__init__(f"key {key!r} does not exist", {"name": key}, hint="set it")


class DeadLetterNotFound(WindshiftError):
    """There is no dead letter of this id, or not any more."""

    def __init__(self, letter: str) -> None:
        super().__init__(
            f"dead letter {letter!r} does not exist; it was replayed, purged, or expired",
            {"name": letter},
        )


class EventNotFound(WindshiftError):
    """The stream holds no such event, or not any more."""

    def __init__(self, stream: str) -> None:
        super().__init__(f"stream {stream!r} holds no such event, or not any more", {"stream": stream})


class UnboundSubject(WindshiftError):
    """No stream takes events of this subject."""

    def __init__(self, subject: str) -> None:
        super().__init__(
            f"no stream is bound to subject {subject!r}", {"subject": subject}, hint="ensure one that is"
        )


# Conflicts with what is stored


class WrongLastId(WindshiftError):
    """The stream's last id is not the expected one; nothing was stored. None is for who may not see it."""

    def __init__(self, expected: int, actual: int | None) -> None:
        metadata = {"expected": str(expected)}
        if actual is None:
            what = (
                f"the stream's last id is not {expected}; you may not see the stream, and so not its last id"
            )
            super().__init__(what, metadata)
        else:
            what = f"the stream's last id is {actual}, not {expected}"
            metadata["actual"] = str(actual)
            super().__init__(what, metadata, hint="read what was added and try again")


class RevisionMismatch(WindshiftError):
    """The key's revision is not the expected one; nothing was stored. 0 means that the key does not exist.

    `key` is given where the request has several.
    """

    def __init__(self, expected: int, actual: int, key: str = "") -> None:
        metadata = {"expected": str(expected), "actual": str(actual)}
        whose = f"the revision of key {key!r}" if key else "the key's revision"
        super().__init__(
            f"{whose} is {actual}, not {expected}",
            metadata | {"key": key} if key else metadata,
            hint="get the key and try again",
        )


class KeyExists(WindshiftError):
    """The key was to be created, but has a value."""

    def __init__(self, key: str, revision: int) -> None:
        super().__init__(
            f"key {key!r} exists already, at revision {revision}",
            {"name": key, "actual": str(revision)},
        )


class DuplicateEvent(WindshiftError):
    """An event of several that are stored all or none was stored before, by its key; none was stored now.

    Its id is given as 0 if another principal may have stored it, and the caller may not see the stream.
    """

    def __init__(self, event_id: int) -> None:
        super().__init__(
            "an event with this key is stored already, but not the whole batch",
            {"id": str(event_id)},
            hint="leave it out, or give it another key",
        )


# Changes that the broker cannot make


class TooManySubjects(WindshiftError):
    """A list of subjects is longer than the broker gives in one piece."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"more than {limit} subjects match", {"limit": str(limit)}, hint="use a narrower filter"
        )


class NotSupportedByBroker(WindshiftError):
    """This version of the broker has no such operation."""

    def __init__(self, operation: str, since: str) -> None:
        super().__init__(f"{operation} needs nats-server {since} or later", {"since": since})


class NotAllowedByStream(WindshiftError):
    """The stream does not allow this. In the metadata, `setting` is the field of EnsureStream that does."""


class SeekNotPossible(WindshiftError):
    """The broker does not move this consumer there."""


class SubjectsOverlap(WindshiftError):
    """Another stream takes some of these subjects already.

    Args:
        subjects: of those that were asked for, those that it takes; empty = not known.
        streams: the names of such streams that the caller may see.
    """

    def __init__(self, subjects: Sequence[str] = (), streams: Sequence[str] = ()) -> None:
        which = ", ".join(map(repr, subjects)) or "some of these subjects"
        who = f"stream {', '.join(map(repr, streams))}" if streams else "another stream"
        metadata = {"subjects": ",".join(subjects)} if subjects else {}
        super().__init__(
            f"{who} takes {which} already",
            {**metadata, **_named(",".join(streams))},
            hint="choose others, or publish to that one",
        )


class StorageChange(WindshiftError):
    """The storage type of a stream is fixed when it is created."""


class MirrorChange(WindshiftError):
    """A mirror stays a mirror, and of the same stream."""


class ReplicasUnavailable(WindshiftError):
    """The broker has not enough servers for this many replicas."""


class TtlNotSupported(WindshiftError):
    """Values of this store cannot expire one by one."""

    def __init__(self, store: str) -> None:
        super().__init__(
            f"values of store {store!r} cannot expire one by one: it keeps a history, or another program or "
            "an older version made it",
            {"name": store},
            hint="make another store, with a history of 1",
        )


class TransactionsNotSupported(WindshiftError):
    """This store cannot write several keys all or none."""

    def __init__(self, store: str) -> None:
        super().__init__(
            f"store {store!r} takes no transactions: another program or an older version made it",
            {"name": store},
            hint="ensure it again, with nats-server 2.12 or later",
        )


class ValueNotAny(WindshiftError):
    """The stored value is no serialized `google.protobuf.Any`: another program wrote it."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the value of key {key!r} is not a google.protobuf.Any; another program wrote it")


# Limits


class StreamFull(WindshiftError):
    """The stream reached a limit and discards new events."""

    def __init__(
        self, what: str = "", hint: str = "raise its limits or remove events", *, stream: str = ""
    ) -> None:
        which = f"stream {stream!r}" if stream else "the stream"
        super().__init__(what or f"{which} is full and refuses new events", _named(stream), hint=hint)


class StorageFull(StreamFull):
    """No stream has room: the broker's storage is used up, or its disk takes nothing; nothing was stored."""


class ConsumerLimit(WindshiftError):
    """The stream, or the broker's account, has as many consumers as it may have; nothing was made."""

    def __init__(self, stream: str) -> None:
        super().__init__(
            f"stream {stream!r}, or the broker's account, has as many consumers as it may have",
            {"name": stream},
            hint="delete some, or have max_consumers raised there",
        )


class StreamLimit(WindshiftError):
    """The broker's account has as many streams as it may have, stores included; nothing was made."""

    def __init__(self) -> None:
        super().__init__(
            "the broker's account has as many streams as it may have, stores included",
            hint="delete some, or have max_streams raised there",
        )


class TooManyInFlight(WindshiftError):
    """The publish waited for its turn and did not get one; nothing was sent."""

    def __init__(self) -> None:
        super().__init__(
            "too many publishes are waiting for the broker; nothing was sent",
            hint="slow down and try again",
        )


# The way to the broker


class BrokerUnavailable(WindshiftError):
    """The broker cannot be reached or has no leader; nothing was stored by this call. Try again."""

    def __init__(self, what: str = "the broker is not available", hint: str = "try again") -> None:
        super().__init__(what, hint=hint)


class ForbiddenByBroker(BrokerUnavailable):
    """The broker does not let this server do what the call needs; nothing was stored by it.

    `subject` is what its NATS user may not publish to; empty = not known.
    """

    def __init__(self, subject: str = "") -> None:
        what = f"publish to {subject!r}" if subject else "do that"
        super().__init__(
            f"the broker does not let this server {what}",
            "its operator must give its NATS user the permission",
        )
        if subject:
            self.metadata = {"subject": subject}


class ShuttingDown(WindshiftError):
    """This server is about to stop. Try again elsewhere."""

    def __init__(self) -> None:
        super().__init__("this server is shutting down", hint="try again")


class OutcomeUnknown(WindshiftError):
    """A write was sent, but the broker did not answer in time: it may have been stored or not."""

    def __init__(
        self,
        message: str = "the broker did not answer in time; the write may have been stored",
    ) -> None:
        super().__init__(message)


# Who may do what


class Unauthenticated(WindshiftError):
    """The call carries no credentials, or none that are valid.

    Both attributes are for the log alone: `why`, and `about`, the principal or issuer of the rules whom the
    credentials name, though they are not its. It is empty for others.
    """

    def __init__(
        self,
        why: str,
        what: str = "the call has no valid credentials",
        hint: str = "connect with a token (`authorization: Bearer`), or a client certificate, that it knows",
        *,
        about: str = "",
    ) -> None:
        super().__init__(what, hint=hint)
        self.why = why
        self.about = about


class IdentityUnavailable(WindshiftError):
    """The token's issuer is known, but its keys cannot be fetched now. Try again."""

    def __init__(self) -> None:
        super().__init__("the keys of the token's issuer cannot be fetched now", hint="try again")


class PermissionDenied(WindshiftError):
    """The caller is known, but may not do this. `rule` is for the log alone."""

    def __init__(self, principal: str, phrase: str, verb: str, resource: str, rule: str) -> None:
        super().__init__(f"{principal!r} may not {phrase}")
        self.principal = principal
        self.verb = verb
        self.resource = resource
        self.rule = rule


class PrincipalNotFound(WindshiftError):
    """The rules know nobody of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the rules have no principal {name!r}", {"name": name})


class ConnectionEnded(WindshiftError):
    """Somebody who may had the connections of a principal ended. Connect again."""

    def __init__(self) -> None:
        super().__init__("an operator ended this connection", hint="try again")


class QuotaExceeded(WindshiftError):
    """Somebody has as much as the rules allow. `quota` is its name there; `used` what there is already."""

    def __init__(
        self, quota: str, limit: float, what: str = "", used: int | None = None, *, hint: str = ""
    ) -> None:
        number = str(limit) if isinstance(limit, int) else f"{limit:g}"
        metadata = {"quota": quota, "limit": number}
        if used is not None:
            metadata["used"] = str(used)
        super().__init__(what or f"no more than {number} of {quota}", metadata, hint=hint)
        self.quota = quota
        self.limit = limit
