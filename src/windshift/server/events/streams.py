"""Ensures streams: which configuration JetStream gets so that a stream is as a client wants it.

`desired_config` decides, without I/O; `Streams.ensure` reads, decides and writes. A configuration stays
JetStream's JSON object throughout, because what other programs set in it, and fields that this version does
not know, must survive an update.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final, TypeAlias

from windshift.nats import Backoff, NatsError, retry
from windshift.nats.jetstream import codes
from windshift.nats.jetstream.api import ConsumerState, JetStream, JsonObject, StreamState
from windshift.nats.times import nanoseconds
from windshift.server.auth.policy import Principal
from windshift.server.domain.broker_errors import broker_errors, domain_error, is_invalid
from windshift.server.domain.errors import (
    BrokerUnavailable,
    ConsumerNotFound,
    InvalidField,
    MirrorChange,
    NotSupportedByBroker,
    ReplicasUnavailable,
    StorageChange,
    StorageFull,
    StreamNotFound,
    SubjectsOverlap,
    UnsupportedCombination,
    of_stream,
)
from windshift.server.domain.names import EVERYTHING
from windshift.server.events.atomic import OLDEST_BROKER, SETTING
from windshift.server.events.copies import with_copier
from windshift.server.events.losses import require_rights, source_filters, stored_sources
from windshift.server.events.model import ConsumerKey
from windshift.server.events.positions import is_same_start, start_keys, without_start
from windshift.server.events.specs import (
    DEFAULT_DEDUPLICATION_WINDOW,
    AtEnd,
    DiscardPolicy,
    FromAggregate,
    FromMirror,
    FromSubjects,
    SourceSpec,
    StorageType,
    StreamSpec,
)
from windshift.server.events.targets import FAST_INGEST_SINCE
from windshift.server.ownership.ownership import Ownership

UNLIMITED: Final = -1
OVERTAKEN_BACKOFF: Final = Backoff(timedelta(milliseconds=20), timedelta(milliseconds=200))
"""Pauses of a change that others overtake."""


LONGEST_CHOICE: Final = 64 * 1024
"""Bytes that JetStream takes to tell the subjects, sources and filters of one stream or consumer. A page of a
list has 256 of those, and must not be more than nats-server keeps for one connection.
"""
_MOST_LOOKED_UP: Final = 16
"""Subjects of which it is said which streams take them already."""
_OF_THE_STREAM: Final = (
    MirrorChange,
    ReplicasUnavailable,
    StorageChange,
    StorageFull,
    UnsupportedCombination,
)
"""Errors about the stream that was to be made or changed."""


class Streams:
    """The streams of one broker.

    `default_replicas` is what a new stream gets when nobody says anything; `ownership` knows who has what,
    where there are rules.
    """

    def __init__(self, api: JetStream, default_replicas: int, ownership: Ownership | None = None) -> None:
        self._api = api
        self._default_replicas = default_replicas
        self._ownership = ownership

    async def ensure(self, spec: StreamSpec, deadline: float, caller: Principal | None = None) -> None:
        """Create the stream, or change the existing one to what the spec says.

        Any number of callers may do this at once with the same spec. Callers with different specs overwrite
        each other: the last one wins, JetStream has no compare-and-swap for configurations. Raise the errors
        of the contract, and `PermissionDenied` when the change takes from the stream what the caller may not
        take; `deadline` is a time of the running loop.
        """
        refuse_contradictions(spec)
        if spec.atomic_batches and self._api.is_older_than(OLDEST_BROKER):
            raise NotSupportedByBroker(SETTING, "2.12")
        if spec.fast_ingest and self._api.is_older_than(FAST_INGEST_SINCE):
            raise NotSupportedByBroker("fast_ingest", "2.14")
        try:
            await self._ensure(spec, deadline, caller)
        except _OF_THE_STREAM as error:
            raise of_stream(error, spec.name) from error.__cause__
        except NatsError as refusal:
            if refusal.err_code == codes.SUBJECTS_OVERLAP:
                raise await self._overlap(spec, deadline, caller) from refusal
            translated = refusal_error(refusal, spec)
            raise (
                of_stream(translated, spec.name) if isinstance(translated, _OF_THE_STREAM) else translated
            ) from refusal

    async def _overlap(self, spec: StreamSpec, deadline: float, caller: Principal | None) -> SubjectsOverlap:
        """Say which subjects are taken, and by which of the streams that the caller may see."""
        taken: list[str] = []
        others: set[str] = set()
        subjects = spec.source.subjects if isinstance(spec.source, FromSubjects) else ()
        with suppress(NatsError):  # then it is not said
            for subject in subjects[:_MOST_LOOKED_UP]:
                found = set(await self._api.stream_names(subject, deadline)) - {spec.name}
                taken += [subject] * bool(found)
                others |= found
        return SubjectsOverlap(taken, sorted(name for name in others if caller is None or caller.sees(name)))

    async def _ensure(self, spec: StreamSpec, deadline: float, caller: Principal | None) -> None:
        async for _ in retry(deadline, OVERTAKEN_BACKOFF):
            stored = await self._api.find_stream(spec.name, deadline)
            wanted = desired_config(
                stored.config if stored else None,
                spec,
                await self._last_ids(spec, stored, deadline),
                self._default_replicas,
                takes_batches=not self._api.is_older_than(OLDEST_BROKER),
            )
            if caller is not None:
                wanted = with_copier(wanted, caller.name)
                if stored is not None:
                    require_rights(caller, stored.config, wanted)
            if await self._tell(stored, wanted, deadline, caller):
                return
        raise BrokerUnavailable(f"stream {spec.name!r} kept being changed by others")

    async def _tell(
        self, stored: StreamState | None, wanted: JsonObject, deadline: float, caller: Principal | None
    ) -> bool:
        """Create or update; false when another caller was faster and the stored stream must be read again."""
        if stored is not None and wanted == stored.config:
            return True
        tell = self._api.create_stream if stored is None else self._api.update_stream
        try:
            if caller is None or self._ownership is None:
                await tell(wanted, deadline)
                return True
            before = None if stored is None else stored.config
            async with self._ownership.stream(caller, before, wanted, deadline) as config:
                await tell(config, deadline)
        except NatsError as refusal:
            if refusal.err_code in codes.STREAM_OVERTAKEN:
                return False
            raise
        return True

    async def _last_ids(
        self, spec: StreamSpec, stored: StreamState | None, deadline: float
    ) -> dict[str, int]:
        """Look up the last ids of the streams that are copied from; raise `StreamNotFound`."""
        names = _streams_to_look_up(stored.config if stored else {}, spec)
        return {
            name: (await existing_stream(self._api, name, deadline)).last_sequence for name in sorted(names)
        }


async def existing_stream(api: JetStream, name: str, deadline: float) -> StreamState:
    """Look a stream up; raise `StreamNotFound`."""
    stream = await api.find_stream(name, deadline)
    if stream is None:
        raise StreamNotFound(name)
    return stream


async def existing_consumer(api: JetStream, consumer: ConsumerKey, deadline: float) -> ConsumerState:
    """Look a consumer up; raise `ConsumerNotFound` or `StreamNotFound`."""
    with broker_errors(stream=consumer.stream, consumer=consumer.name):
        state = await api.consumer(*consumer, deadline)
    if state is None:
        raise ConsumerNotFound(consumer.name)
    return state


async def missing_consumer(
    api: JetStream, consumer: ConsumerKey, deadline: float
) -> ConsumerNotFound | StreamNotFound | None:
    """Return what `existing_consumer` raises of a consumer that is not there; None if it is."""
    try:
        await existing_consumer(api, consumer, deadline)
    except (ConsumerNotFound, StreamNotFound) as error:
        return error
    return None


# --- Deciding -----------------------------------------------------------------------------------------------


def refuse_contradictions(spec: StreamSpec) -> None:
    """Raise `UnsupportedCombination` for options that exclude each other whatever is stored."""
    retention = spec.retention
    if retention.discard_new_per_subject and not (
        retention.discard is DiscardPolicy.NEW and retention.max_events_per_subject
    ):
        raise UnsupportedCombination(
            "discard_new_per_subject needs discard_policy DISCARD_POLICY_NEW and max_events_per_subject"
        )
    window, max_age = spec.deduplication_window, retention.max_age
    if window and max_age and window > max_age:
        raise UnsupportedCombination("deduplication_window must not be longer than max_age")
    for setting, wanted in (("atomic_batches", spec.atomic_batches), ("fast_ingest", spec.fast_ingest)):
        if wanted and not isinstance(spec.source, FromSubjects):
            raise UnsupportedCombination(f"{setting} is for streams that are published to")


def desired_config(
    stored: JsonObject | None,
    spec: StreamSpec,
    last_ids: Mapping[str, int],
    default_replicas: int,
    *,
    takes_batches: bool = True,
) -> JsonObject:
    """Return the whole JetStream configuration that the stream should have; `stored` is left as it is.

    Everything of the stored configuration stays but what the contract has a field for, and direct gets, by
    which events are read without a consumer. `last_ids` holds the last id of every stream that is copied
    from; `takes_batches` is whether the broker knows atomic batches. Raise `InvalidField` for subjects or
    sources that are too long together, `MirrorChange` or `StorageChange` for what the broker could not do.
    """
    before = stored or {}
    if stored is not None:
        _refuse_another_kind(stored, spec)
    source = _input(before, spec, last_ids)
    refuse_long_choice(_FIELDS[type(spec.source)], before, source)
    if stored is not None:
        _refuse_another_storage(stored, spec)
    dropped = _SET_OR_ABSENT
    if isinstance(spec.source, FromAggregate) and {"subjects", "sources"} <= before.keys():
        dropped -= _OF_PUBLISHING  # another program has it published to as well, which no spec can say
    config = {key: value for key, value in before.items() if key not in dropped}
    config["name"] = spec.name
    config["storage"] = spec.storage.value
    config["num_replicas"] = spec.replicas or before.get("num_replicas") or default_replicas
    config["allow_direct"] = True
    return config | _batches(stored, spec, takes_batches=takes_batches) | _limits(spec) | source


_FIELDS: Final = {FromSubjects: "subjects", FromMirror: "mirror", FromAggregate: "aggregate"}
_BESIDE_SUBJECT: Final = 3
_IN_SOURCE: Final = 20
"""Bytes of JSON around a subject, and around the name or a filter of a source."""


def refuse_long_choice(field: str, stored: JsonObject, wanted: JsonObject) -> None:
    """Raise `InvalidField` for subjects and sources that are too long together, and were not before."""
    length = _length_of_choice(wanted)
    if length > max(LONGEST_CHOICE, _length_of_choice(stored)):
        told = f"needs {length} bytes for subjects, sources and filters, and may have {LONGEST_CHOICE}"
        raise InvalidField(field, f"{told}; use shorter or fewer ones")


def _length_of_choice(config: JsonObject) -> int:
    """Return the bytes of an answer for what a stream or consumer chooses; sources are there twice."""
    subjects = [*(config.get("subjects") or ()), *(config.get("filter_subjects") or ())]
    in_sources = (
        text for source in stored_sources(config) for text in (source["name"], *source_filters(source))
    )
    return sum(len(each) + _BESIDE_SUBJECT for each in subjects) + sum(
        2 * (len(each) + _IN_SOURCE) for each in in_sources
    )


_ATOMIC: Final = "allow_atomic"
_FAST: Final = "allow_batched"
_SET_OR_ABSENT: Final = frozenset(
    {"subjects", "mirror", "sources", "discard_new_per_subject", "duplicate_window", _ATOMIC, _FAST}
)
"""Keys of the contract's fields that the broker leaves out of a configuration where they say nothing."""
_OF_PUBLISHING: Final = frozenset({"subjects", _ATOMIC, _FAST})


def _batches(stored: JsonObject | None, spec: StreamSpec, *, takes_batches: bool) -> JsonObject:
    """Return which ways the stream should have to take several events at once."""
    if not isinstance(spec.source, FromSubjects):
        return {}  # nobody publishes to it, nor may ask for them
    ways: JsonObject = {_ATOMIC: takes_batches}
    if stored is not None:
        ways = {key: stored.get(key) for key in (_ATOMIC, _FAST)}
    if spec.atomic_batches is not None:
        ways[_ATOMIC] = spec.atomic_batches
    if spec.fast_ingest is not None:
        ways[_FAST] = spec.fast_ingest
    return {key: True for key, has in ways.items() if has}  # the broker leaves out the others


def _refuse_another_storage(stored: JsonObject, spec: StreamSpec) -> None:
    storage = stored.get("storage", StorageType.FILE.value)
    if storage != spec.storage.value:
        raise StorageChange(
            f"stream {spec.name!r} is kept in {storage} storage, which cannot be changed",
            hint="name that type whenever it is ensured, or use another name",
        )


def _refuse_another_kind(stored: JsonObject, spec: StreamSpec) -> None:
    if isinstance(spec.source, FromMirror) != ("mirror" in stored):
        raise MirrorChange(
            f"stream {spec.name!r} is {'a' if 'mirror' in stored else 'no'} mirror and must stay so",
            hint="use another name for another kind of stream",
        )


def _limits(spec: StreamSpec) -> JsonObject:
    retention = spec.retention
    limits: JsonObject = {
        "max_age": nanoseconds(retention.max_age) if retention.max_age else 0,
        "max_msgs": retention.max_events or UNLIMITED,
        "max_msgs_per_subject": retention.max_events_per_subject or UNLIMITED,
        "max_bytes": retention.max_bytes or UNLIMITED,
        "max_msg_size": spec.max_event_size or UNLIMITED,
        "discard": retention.discard.value,
    }
    if not isinstance(spec.source, FromMirror):  # which copies what its origin let through, without a window
        limits["duplicate_window"] = nanoseconds(_window(spec))
    if retention.discard_new_per_subject:
        limits["discard_new_per_subject"] = True
    return limits


def _window(spec: StreamSpec) -> timedelta:
    if spec.deduplication_window:
        return spec.deduplication_window
    return min(DEFAULT_DEDUPLICATION_WINDOW, spec.retention.max_age or DEFAULT_DEDUPLICATION_WINDOW)


def _input(stored: JsonObject, spec: StreamSpec, last_ids: Mapping[str, int]) -> JsonObject:
    match spec.source:
        case FromSubjects(subjects):
            return {"subjects": list(subjects)}
        case FromMirror(source):
            return {"mirror": _mirror(stored.get("mirror"), spec.name, source, last_ids)}
        case FromAggregate(sources):
            return {"sources": _aggregate(stored.get("sources", []), sources, last_ids)}


def _mirror(
    stored: JsonObject | None, name: str, spec: SourceSpec, last_ids: Mapping[str, int]
) -> JsonObject:
    matching = stored if stored is not None and _copied(stored) == _copied_by(spec) else None
    wanted = _source(matching, spec, last_ids)
    if stored is not None and wanted != stored:
        raise MirrorChange(
            f"what the mirror {name!r} copies (which stream, from where, which subjects) cannot be changed",
            hint="use another name",
        )
    return wanted


def _aggregate(
    stored: list[JsonObject], specs: tuple[SourceSpec, ...], last_ids: Mapping[str, int]
) -> list[JsonObject]:
    unclaimed = defaultdict[_Copied, deque[JsonObject]](deque)
    for source in stored:
        unclaimed[_copied(source)].append(source)
    wanted = []
    for spec in specs:
        matching = unclaimed.get(_copied_by(spec))
        wanted.append(_source(matching.popleft() if matching else None, spec, last_ids))
    return wanted


def _source(stored: JsonObject | None, spec: SourceSpec, last_ids: Mapping[str, int]) -> JsonObject:
    """Return the source as the broker is to have it.

    A stored source keeps its filters as they are written there: in another order they would be another source
    to the broker, and it would copy everything a second time (measured with 2.15.1).
    """
    if stored is None:
        return {"name": spec.stream} | _filters(spec) | start_keys(spec.start, last_ids[spec.stream])
    if isinstance(spec.start, AtEnd):
        return stored
    start = start_keys(spec.start, 0)
    return stored if is_same_start(stored, start) else without_start(stored) | start


def _filters(spec: SourceSpec) -> JsonObject:
    """One filter has a key of its own; several are transforms that leave the subject as it is."""
    if len(spec.filters) == 1:
        return {"filter_subject": spec.filters[0]}
    if spec.filters:
        return {"subject_transforms": [{"src": subject, "dest": ""} for subject in spec.filters]}
    return {}


_Copied: TypeAlias = tuple[Any, frozenset[str]]
"""The name of the stream that a source is, and its filters: sources that have the same are the same."""


def _copied_by(spec: SourceSpec) -> _Copied:
    return spec.stream, frozenset(spec.filters or (EVERYTHING,))


def _copied(stored: JsonObject) -> _Copied:
    return stored.get("name"), frozenset(source_filters(stored))


def _sources(spec: StreamSpec) -> tuple[SourceSpec, ...]:
    match spec.source:
        case FromMirror(source):
            return (source,)
        case FromAggregate(sources):
            return sources
        case FromSubjects():
            return ()


def _streams_to_look_up(stored: JsonObject, spec: StreamSpec) -> set[str]:
    """Name the streams that are copied from, but not those known to lie in another account or domain.

    One of these that is named more often than it is known is looked up: the others would be new.
    """
    external = Counter(_copied(source) for source in stored_sources(stored) if source.get("external"))
    named = Counter(map(_copied_by, _sources(spec)))
    return {copied[0] for copied in named - external}


# --- What the broker refuses --------------------------------------------------------------------------------


def refusal_error(refusal: NatsError, spec: StreamSpec) -> Exception:
    """Say in the contract's terms why the broker refused a stream."""
    if refusal.err_code == codes.MAX_BYTES_REQUIRED:
        return InvalidField("retention_policy.max_bytes", "this broker requires this limit")
    if refusal.err_code == codes.MAX_BYTES_EXCEEDED and spec.retention.max_bytes:
        return InvalidField(
            "retention_policy.max_bytes", "the broker does not allow a stream that much; ask for less"
        )
    if refusal.err_code in codes.OUT_OF_SPACE and spec.retention.max_bytes:
        return StorageFull("the broker cannot reserve max_bytes", "ask for less, or give it more storage")
    error = domain_error(refusal, stream=spec.name)
    if is_invalid(error):
        return UnsupportedCombination(f"the broker refuses this stream: {error.description}")
    return error
