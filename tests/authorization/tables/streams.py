"""Who may make which streams, and of what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.json_format import ParseDict

from tests.authorization.rows import (
    ALLOWED,
    DENIED,
    INVALID,
    NO_STREAM,
    OVERLAP,
    Answer,
    Row,
    invoke,
    method_of,
)
from tests.authorization.world import World
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

_METHOD = "EventsService/EnsureStream"
_MEMORY = pb.EnsureStreamRequest.Storage(type=pb.EnsureStreamRequest.STORAGE_TYPE_MEMORY)

_Sources = tuple[tuple[str, tuple[str, ...]], ...]


def _taking(who: str, name: str, subjects: tuple[str, ...], answer: Answer) -> Row:
    """Ask for a stream of subjects. In them and in the name, ``#`` stands for something new."""

    def request(world: World) -> pb.EnsureStreamRequest:
        new = world.name("n")
        listed = [subject.replace("#", new) for subject in subjects]
        return pb.EnsureStreamRequest(
            name=name.replace("#", new), subjects={"subjects": listed}, storage=_MEMORY
        )

    return Row(_METHOD, who, request, answer, f"{name} taking {' '.join(subjects)}")


def _copying(who: str, kind: str, sources: _Sources, answer: Answer, name: str = "b-#") -> Row:
    """Ask for a stream that copies others."""
    messages = [
        pb.EnsureStreamRequest.StreamSource(name=stream, filter_subjects=subjects)
        for stream, subjects in sources
    ]
    source: dict[str, Any] = (
        {"mirror": messages[0]} if kind == "mirror" else {"aggregate": {"sources": messages}}
    )

    def request(world: World) -> pb.EnsureStreamRequest:
        return pb.EnsureStreamRequest(name=name.replace("#", world.name("n")), storage=_MEMORY, **source)

    told = " and ".join(f"{stream} {' '.join(subjects) or '(all)'}" for stream, subjects in sources)
    return Row(_METHOD, who, request, answer, f"{name} as {kind} of {told}")


_NAMES: dict[str, dict[str, Answer]] = {
    "builder": {
        "b-#": ALLOWED,
        "b-": ALLOWED,
        "b": DENIED,
        "B-#": DENIED,
        "xb-#": DENIED,
        "bb-#": DENIED,
        "": INVALID,
        "*": INVALID,
        "b-*": INVALID,  # is below it, but no name
        "ORDERS": DENIED,
        "KV_cfg": INVALID,
        "WS_DEAD_LETTERS": INVALID,
    },
    "builder-one": {"b-one": ALLOWED, "b-onex": DENIED, "b-on": DENIED, "b-two": DENIED},
    "builder-holes": {"b-lock#": ALLOWED, "b-locked": DENIED, "b-locked-#": DENIED},
    "binder": {"b-#": DENIED, "SHOP": DENIED},
    "ann": {"b-#": DENIED, "SHOP": DENIED},
}

_SUBJECTS: dict[str, dict[tuple[str, ...], Answer]] = {
    "builder": {
        ("b.#.*",): ALLOWED,
        ("b.#.>",): ALLOWED,
        ("b.#.a", "b.#.b"): ALLOWED,
        ("b.>",): OVERLAP,  # let through, but others have some of it
        ("b",): DENIED,
        ("bx.#",): DENIED,
        ("B.#",): DENIED,
        (">",): INVALID,
        ("*.#",): INVALID,
        ("b.#.a", "c.#"): DENIED,
        ("c.#", "b.#.a"): DENIED,
        ("orders.>",): DENIED,
        ("_INBOX.>",): INVALID,
        ("$JS.API.>",): INVALID,
    },
    "builder-star": {
        ("b.#",): ALLOWED,
        ("b.*",): OVERLAP,
        ("b.#.x",): DENIED,
        ("b.#.*",): DENIED,
        ("b.>",): DENIED,
    },
    "builder-holes": {
        ("b.#.open",): ALLOWED,
        ("b.#.internal.x",): ALLOWED,
        ("b.internal.#",): ALLOWED,
        ("b.#.internal",): DENIED,
        ("b.#.*",): DENIED,
        ("b.#.>",): DENIED,
        ("b.#.open", "b.#.internal"): DENIED,
    },
    "namer": {("b.#",): DENIED},
}

_COPIES: dict[str, dict[_Sources, Answer]] = {
    "builder": {
        (("SHOP", ("shop.a.>",)),): ALLOWED,
        (("SHOP", ("shop.a.b", "shop.a.c")),): ALLOWED,
        (("SHOP", ()),): DENIED,
        (("SHOP", (">",)),): DENIED,
        (("SHOP", ("shop.>",)),): DENIED,
        (("SHOP", ("shop.*.b",)),): DENIED,
        (("SHOP", ("shop.a.b", "shop.z")),): DENIED,
        (("PAYMENTS", ("shop.a.>",)),): DENIED,
        (("PAYMENTS", ()),): DENIED,
        (("ABSENT", ("shop.a.>",)),): DENIED,
        (("GONE", ("shop.a.>",)),): NO_STREAM,
        (("KV_vault", ()),): INVALID,
        (("WS_DEAD_LETTERS", ()),): INVALID,
    },
    "builder-holes": {
        (("SHOP", ("shop.z",)),): ALLOWED,
        (("SHOP", ("shop.*.x",)),): DENIED,
        (("SHOP", ()),): DENIED,
        (("SHOP", ("shop.secret.x",)),): DENIED,
        (("PAYMENTS", ("payments.x",)),): DENIED,
    },
    "namer": {(("SHOP", ("shop.a.b",)),): DENIED},
    "binder": {(("SHOP", ("shop.a.b",)),): DENIED},
    "halves": {(("SHOP", ("shop.z",)),): DENIED},
}

_AGGREGATES: dict[str, dict[_Sources, Answer]] = {
    "builder": {
        (("SHOP", ("shop.a.b",)), ("GONE", ("shop.a.b",))): NO_STREAM,
        (("SHOP", ("shop.a.b",)), ("PAYMENTS", ("shop.a.b",))): DENIED,
        (("PAYMENTS", ("payments.x",)), ("SHOP", ("shop.a.b",))): DENIED,
        (("SHOP", ("shop.a.b",)), ("SHOP", ())): DENIED,
    },
    "builder-holes": {(("SHOP", ("shop.a.b",)), ("ORDERS", ("orders.a",))): ALLOWED},
    "all": {(("SHOP", ()), ("PAYMENTS", ())): ALLOWED},
}


# Streams that are there, and changes by what they take away. ``#`` stands for something new.

_Fields = dict[str, Any]


def _subjects(*subjects: str) -> _Fields:
    return {"subjects": {"subjects": subjects}}


def _sources(*sources: tuple[str, str]) -> _Fields:
    return {"aggregate": {"sources": [{"name": name, "filter_subjects": [each]} for name, each in sources]}}


_NEW = pb.EnsureStreamRequest.DISCARD_POLICY_NEW
_LIMITS: _Fields = {
    "max_age": {"seconds": 60},
    "max_events": 100,
    "max_events_per_subject": 10,
    "max_bytes": 10_000,
}


def _only(**limits: Any) -> _Fields:
    return _subjects("b.#") | {"retention_policy": limits}


def _with(**changes: Any) -> _Fields:
    return _only(**{**_LIMITS, **changes})


_LIMITED, _UNLIMITED = _with(), _subjects("b.#")
_REFUSING = _with(discard_policy=_NEW, discard_new_per_subject=True)
_NOT_BOUND = _subjects("b.#", "o.#")

_REMOVING: dict[str, tuple[_Fields, _Fields]] = {
    "a smaller max_age": (_LIMITED, _with(max_age={"nanos": 500_000_000})),
    "a max_age where there was none": (_UNLIMITED, _only(max_age={"seconds": 9})),
    "a smaller max_events": (_LIMITED, _with(max_events=1)),
    "a max_events that nothing reaches yet": (_UNLIMITED, _only(max_events=9_999)),
    "a smaller max_events_per_subject": (_LIMITED, _with(max_events_per_subject=9)),
    "a smaller max_bytes": (_LIMITED, _with(max_bytes=9_999)),
    "old events discarded, not new ones": (_REFUSING, _LIMITED),
    "old events of a subject discarded": (_REFUSING, _with(discard_policy=_NEW)),
}
"""What removes events: before and after."""

_GROWING: dict[str, tuple[_Fields, _Fields]] = {
    "the same again": (_LIMITED, _LIMITED),
    "no limits any more": (_LIMITED, _UNLIMITED),
    "larger limits": (_LIMITED, _with(max_events=101, max_bytes=10_001, max_age={"seconds": 61})),
    "another subject": (_subjects("b.#.a"), _subjects("b.#.a", "b.#.b")),
    "a wider subject": (_subjects("b.#.a"), _subjects("b.#.>")),
    "a smaller subject of its own": (_subjects("b.#.>"), _subjects("b.#.a")),
    "smaller events of its own": (_UNLIMITED, _UNLIMITED | {"max_event_size": 1_000}),
    "new events of its own refused": (_with(), _with(discard_policy=_NEW)),
    "one source less of its own": (
        _sources(("SHOP", "shop.a.b"), ("SHOP", "shop.a.c")),
        _sources(("SHOP", "shop.a.c")),
    ),
    "an aggregate of what it may read": (_UNLIMITED, _sources(("SHOP", "shop.a.b"))),
}
"""What whoever manages the stream may do."""

_TAKING: dict[str, tuple[_Fields, _Fields]] = {
    "a subject less": (_NOT_BOUND, _subjects("b.#")),
    "a smaller subject": (_subjects("o.#.>", "b.#"), _subjects("b.#")),
    "an aggregate in its place": (_NOT_BOUND, _sources(("SHOP", "shop.a.b"))),
    "smaller events": (_NOT_BOUND, _NOT_BOUND | {"max_event_size": 1_000}),
    "a source less": (
        _sources(("SHOP", "shop.a.b"), ("PAYMENTS", "payments.x")),
        _sources(("SHOP", "shop.a.b")),
    ),
    "less of a source": (_sources(("SHOP", "shop.>")), _sources(("SHOP", "shop.a.b"))),
    "subjects in place of sources": (_sources(("SHOP", "shop.z")), _subjects("b.#")),
}
"""What takes away what somebody else has bound, or copied."""


def _changing(who: str, about: str, change: tuple[_Fields, _Fields], answer: Answer) -> Row:
    """Make a stream as somebody who may do all, and ask for a change of it."""

    def request(world: World) -> pb.EnsureStreamRequest:
        new = world.name("n")
        before, after = (
            ParseDict({"name": f"b-{new}", "storage": {"type": "STORAGE_TYPE_MEMORY"}}, message)
            for message in (pb.EnsureStreamRequest(**_named(fields, new)) for fields in change)
        )
        invoke(world.admin, method_of(_METHOD), before)
        return after

    return Row(_METHOD, who, request, answer, f"an existing stream: {about}")


def _named(fields: _Fields, new: str) -> _Fields:
    if "subjects" not in fields:
        return fields
    return fields | {
        "subjects": {"subjects": [each.replace("#", new) for each in fields["subjects"]["subjects"]]}
    }


def _changes() -> Iterator[Row]:
    for about, change in _REMOVING.items():
        for who in ("builder", "builder-purger-part"):
            yield _changing(who, about, change, DENIED)
        for who in ("builder-purger", "builder-and-purger"):
            yield _changing(who, about, change, ALLOWED)
    for about, change in _GROWING.items():
        yield _changing("builder", about, change, ALLOWED)
    for about, change in _TAKING.items():
        yield _changing("builder", about, change, DENIED)
        yield _changing("builder-and-purger", about, change, DENIED)
        yield _changing("all", about, change, ALLOWED)
    yield _changing("stream-purger", "only purging", (_LIMITED, _with(max_events=1)), DENIED)


def _rows() -> Iterator[Row]:
    yield from _changes()
    names = ((who, name, answer) for who, answers in _NAMES.items() for name, answer in answers.items())
    for who, name, answer in names:
        subject = "b.one.#" if who == "builder-one" else "b.#"
        yield _taking(who, name, (subject,), answer)
    for who, by_subjects in _SUBJECTS.items():
        for subjects, answer in by_subjects.items():
            yield _taking(who, "b-#", subjects, answer)
    for kind, table in (("mirror", _COPIES), ("aggregate", _COPIES), ("aggregate", _AGGREGATES)):
        for who, by_sources in table.items():
            for sources, answer in by_sources.items():
                yield _copying(who, kind, sources, answer)
    yield _copying("builder", "mirror", (("SHOP", ("shop.a.b",)),), DENIED, "PAYMENTS")
    yield Row(_METHOD, "builder", pb.EnsureStreamRequest(name="b-none"), INVALID, "without a source")
    yield Row(_METHOD, "ann", pb.EnsureStreamRequest(name="b-none"), INVALID, "without a source")


ROWS = list(_rows())
