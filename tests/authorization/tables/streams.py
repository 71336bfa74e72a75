"""Who may make which streams, and of what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.authorization.rows import ALLOWED, DENIED, INVALID, NO_STREAM, OVERLAP, Answer, Row
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


def _rows() -> Iterator[Row]:
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
