"""Translates the errors of `windshift.nats` to those of the domain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeGuard

from windshift import nats
from windshift.nats.jetstream import codes
from windshift.server.domain.errors import (
    BrokerUnavailable,
    ConsumerLimit,
    ConsumerNotFound,
    EventTooLarge,
    ForbiddenByBroker,
    MirrorChange,
    OutcomeUnknown,
    ReplicasUnavailable,
    StorageFull,
    StoreNotFound,
    StreamFull,
    StreamLimit,
    StreamNotFound,
    SubjectsOverlap,
    TooManyInFlight,
    TransactionsNotSupported,
    TtlNotSupported,
    UnboundSubject,
    UnsupportedCombination,
    WindshiftError,
)


def domain_error(error: nats.NatsError, *, stream: str = "", consumer: str = "") -> Exception:
    """Say in the domain's terms what an error means; return the error itself if nothing is known.

    What one operation knows better (the size limit of a stream, the revision of a key) it maps itself, first.
    """
    for kind, make in _BY_KIND:
        if isinstance(error, kind):
            return make(error)
    return _refusal(error, stream, consumer) if isinstance(error, nats.JetStreamError) else error


_BY_KIND: Final[tuple[tuple[type[nats.NatsError], Callable[[Any], WindshiftError]], ...]] = (
    (nats.Forbidden, lambda error: ForbiddenByBroker(error.subject)),
    (nats.Busy, lambda _: BrokerUnavailable(_BUSY, "try again, with fewer calls at once")),
    (nats.Unanswered, lambda _: BrokerUnavailable(_UNANSWERED)),
    (nats.Unavailable, lambda _: BrokerUnavailable()),
    (nats.NotConnected, lambda _: BrokerUnavailable()),
    (nats.NoDirectGet, lambda _: BrokerUnavailable()),
    (nats.OutcomeUnknown, lambda error: OutcomeUnknown(error.text) if error.text else OutcomeUnknown()),
    (nats.TooManyInFlight, lambda _: TooManyInFlight()),
    (nats.StorageFull, lambda error: StorageFull(error.text, "")),
    (nats.NoStream, lambda error: UnboundSubject(error.subject)),
    (nats.NoBucket, lambda error: StoreNotFound(error.bucket)),
    (nats.NoBatches, lambda error: TransactionsNotSupported(error.bucket)),
    (nats.NoTtl, lambda error: TtlNotSupported(error.bucket)),
    (nats.MessageTooLarge, lambda error: EventTooLarge(error.limit)),
)
"""Most special first."""


PASSING: Final = (BrokerUnavailable, ConsumerLimit)
"""Errors after which who follows a stream may try again: consumers that were lost go a little later."""


def is_invalid(error: Exception) -> TypeGuard[nats.JetStreamError]:
    """Whether the broker refused a request as invalid, and nothing better is known of why."""
    if not isinstance(error, nats.JetStreamError) or domain_error(error) is not error:
        return False
    return error.code == 400 or error.err_code == codes.INVALID_CONFIG


class broker_errors:  # noqa: N801 - used like a function, of which this costs a fifth
    """Let the library's errors leave the block as the domain's."""

    __slots__ = ("_consumer", "_stream")

    def __init__(self, *, stream: str = "", consumer: str = "") -> None:
        self._stream = stream
        self._consumer = consumer

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Raise the domain's error for one of the library's."""
        if isinstance(error, nats.NatsError):
            translated = domain_error(error, stream=self._stream, consumer=self._consumer)
            # As its own cause, or held by this frame, it would wait for the garbage collector, with all that
            # it holds.
            try:
                if translated is not error:
                    raise translated from error
            finally:
                del translated


@contextmanager
def follower_errors(*, stream: str) -> Iterator[None]:
    """Do the same for who follows a stream or counts it: the consumers that it makes are nobody's writes.

    A work queue takes none of them: what those have not received would wait for them.
    """
    try:
        with broker_errors(stream=stream):
            yield
    except OutcomeUnknown as error:
        raise BrokerUnavailable from error
    except nats.JetStreamError as error:
        if not is_invalid(error):
            raise
        what = f"the broker does not let {stream!r} be followed or counted: {error.description}"
        raise UnsupportedCombination(what) from error


def _refusal(error: nats.JetStreamError, stream: str, consumer: str) -> Exception:
    code = error.err_code
    if codes.is_broken_disk(error):
        return BrokerUnavailable(_CANNOT_STORE)
    if codes.is_full(error):
        return StreamFull(stream=stream)
    make = _BY_CODE.get(code)
    return error if make is None else make(stream, consumer)


_NO_MAX_BYTES = "the broker's account requires max_bytes of every stream"
_WITH_ITS_TOOLS = "make this with NATS's own tools, with it"
_BATCH_TOO_LARGE = "the broker's operator allows fewer writes at once (max_batch_size)"
_SEVERAL = "make several transactions of it"
_BUSY = "more is being read from the broker than it can answer in time"
_UNANSWERED = "the broker does not answer, or has no leader for what was asked"
_CANNOT_STORE = "the broker cannot store anything now"
_NO_JETSTREAM = "the broker keeps nothing for this server"
_ENABLE = "enable JetStream for its account, then try again"
_NO_ROOM = "the broker has no room left"
_NO_REPLICAS = "the broker has not enough servers for this many replicas"
_FILTERS_OVERLAP = "subjects of the same source or consumer must not overlap"
_MIRROR_FIXED = "a mirror cannot become anything else, nor change what it mirrors"

_BY_CODE: Final[Mapping[int, Callable[[str, str], WindshiftError]]] = {
    **dict.fromkeys(codes.TEMPORARY, lambda *_: BrokerUnavailable()),
    **dict.fromkeys(codes.OUT_OF_SPACE, lambda *_: StorageFull(_NO_ROOM, "give it more, or remove events")),
    **dict.fromkeys(codes.NOT_ENABLED, lambda *_: BrokerUnavailable(_NO_JETSTREAM, _ENABLE)),
    **dict.fromkeys(
        codes.TOO_FEW_SERVERS, lambda *_: ReplicasUnavailable(_NO_REPLICAS, hint="ask for fewer")
    ),
    **dict.fromkeys(codes.FILTERS_OVERLAP, lambda *_: UnsupportedCombination(_FILTERS_OVERLAP)),
    codes.MAXIMUM_CONSUMERS: lambda stream, _: ConsumerLimit(stream),
    codes.MAXIMUM_STREAMS: lambda *_: StreamLimit(),
    codes.MAX_BYTES_REQUIRED: lambda *_: UnsupportedCombination(_NO_MAX_BYTES, hint=_WITH_ITS_TOOLS),
    codes.BATCH_TOO_LARGE: lambda *_: UnsupportedCombination(_BATCH_TOO_LARGE, hint=_SEVERAL),
    codes.STREAM_NOT_FOUND: lambda stream, _: StreamNotFound(stream),
    codes.CONSUMER_NOT_FOUND: lambda _, consumer: ConsumerNotFound(consumer),
    codes.CONSUMER_DOES_NOT_EXIST: lambda _, consumer: ConsumerNotFound(consumer),
    codes.STORE_FAILED: lambda *_: BrokerUnavailable(_CANNOT_STORE),
    codes.SUBJECTS_OVERLAP: lambda *_: SubjectsOverlap(),
    codes.MIRROR_IMMUTABLE: lambda *_: MirrorChange(_MIRROR_FIXED, hint="make another stream"),
}
