"""What a change to a stream's configuration takes away, and the rights that this needs.

A principal that manages a stream may give it any configuration. If that removes events, or makes the stream
receive fewer of them, it needs the same rights as purging them or binding their subjects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import inf
from typing import Any, Final, NamedTuple

from windshift.nats.jetstream.api import JsonObject
from windshift.server.auth.access import require_of
from windshift.server.auth.actions import Bind, Copy, PurgeStream
from windshift.server.auth.policy import Principal
from windshift.server.auth.subjects import SubjectPatterns, tokens
from windshift.server.domain.names import EVERYTHING

_LIMITS: Final = {
    "max_age": "max_age",
    "max_msgs": "max_events",
    "max_msgs_per_subject": "max_events_per_subject",
    "max_bytes": "max_bytes",
}
"""Limits by which the broker removes events, each with the name of the contract's field."""


class Copied(NamedTuple):
    """A subject, or a pattern of some, that a stream copies from another one."""

    stream: str
    subject: str


def require_rights(caller: Principal, before: JsonObject, after: JsonObject) -> None:
    """Raise `PermissionDenied` unless somebody may take from a stream what a change of it takes.

    It does not matter which events it holds now: a smaller limit removes those that come later as well.
    """
    name = after["name"]
    for field in removing(before, after):
        require_of(
            caller,
            PurgeStream(name, EVERYTHING),
            f"remove events of stream {name!r}, as another {field} may do; that needs streams.purge of the "
            f"stream, and {EVERYTHING} in streams.subjects of the same role",
        )
    phrase = f"have stream {name!r} take {{subject!r}}{{source}} no longer"
    _require_inputs(caller, unbound(before, after), no_longer_copied(before, after), phrase)
    for field in refusing(before, after):
        phrase = f"have stream {name!r} refuse {{subject!r}}{{source}} by another {field}"
        _require_inputs(caller, before.get("subjects") or (), copied(before), phrase)


def _require_inputs(
    caller: Principal, subjects: Iterable[str], sources: Iterable[Copied], phrase: str
) -> None:
    for subject in subjects:
        reason = phrase.format(subject=subject, source="")
        require_of(caller, Bind(subject), f"{reason}; that needs it in streams.bind")
    for stream, subject in sources:
        reason = phrase.format(subject=subject, source=f" from stream {stream!r}")
        needs = "that needs them in streams.consume and streams.subjects"
        require_of(caller, Copy(stream, subject), f"{reason}; {needs}")


def removing(before: JsonObject, after: JsonObject) -> Iterator[str]:
    """Yield the contract's names of what makes the broker remove more events than before."""
    for key, field in _LIMITS.items():
        if _limit(after, key) < _limit(before, key):
            yield f"retention_policy.{field}"
    if _discards_new(before) and not _discards_new(after):
        yield "retention_policy.discard_policy"
    if before.get("discard_new_per_subject") and not after.get("discard_new_per_subject"):
        yield "retention_policy.discard_new_per_subject"


def refusing(before: JsonObject, after: JsonObject) -> Iterator[str]:
    """Yield the contract's names of what makes the broker refuse events that it took before."""
    if _limit(after, "max_msg_size") < _limit(before, "max_msg_size"):
        yield "max_event_size"
    if _discards_new(after) and not _discards_new(before):
        yield "retention_policy.discard_policy"
    if after.get("discard_new_per_subject") and not before.get("discard_new_per_subject"):
        yield "retention_policy.discard_new_per_subject"


def unbound(before: JsonObject, after: JsonObject) -> Iterator[str]:
    """Yield the subjects that a stream took, and does not take any more in all that they stand for."""
    kept = SubjectPatterns(after.get("subjects") or ())
    yield from (subject for subject in before.get("subjects") or () if not kept.takes(subject))


def copied(config: JsonObject) -> Iterator[Copied]:
    """Yield what a mirror or aggregate copies."""
    for source in stored_sources(config):
        yield from (Copied(source["name"], subject) for subject in source_filters(source))


def no_longer_copied(before: JsonObject, after: JsonObject) -> Iterator[Copied]:
    """Yield what a mirror or aggregate copied, and does not copy any more in all that it stands for."""
    kept: dict[str, SubjectPatterns] = {}
    for stream, subject in copied(after):
        kept.setdefault(stream, SubjectPatterns()).add(tokens(subject), 0)
    for each in copied(before):
        if each.stream not in kept or not kept[each.stream].takes(each.subject):
            yield each


def _limit(config: JsonObject, key: str) -> float:
    limit = int(config.get(key) or 0)
    return limit if limit > 0 else inf


def _discards_new(config: JsonObject) -> bool:
    return config.get("discard") == "new"


def stored_sources(config: JsonObject) -> list[JsonObject]:
    """Return what a mirror or aggregate copies from, as it is stored."""
    return [*filter(None, (config.get("mirror"),)), *(config.get("sources") or ())]


def source_filters(source: Mapping[str, Any]) -> list[str]:
    """Return the filters of a stored source; `EVERYTHING` where there are none."""
    transforms = source.get("subject_transforms") or ()
    if transforms:
        return [transform.get("src") or EVERYTHING for transform in transforms]
    return [source.get("filter_subject") or EVERYTHING]
