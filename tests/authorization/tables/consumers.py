"""Who may make, see, use and delete which consumers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.message import Message

from tests.authorization.rows import ALLOWED, DENIED, INVALID, NO_CONSUMER, NO_STREAM, Answer, Row
from tests.authorization.world import NAMED_LIKE_GENERATED, World, subscribe
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

_GUESSED = "fedcba9876543210fedcba98"
"""A name that looks like a generated one, and that no consumer has."""

# EnsureConsumer: by principal, stream, name (# = something new, empty = none) and subjects.

_ENSURED: dict[str, dict[tuple[str, str, tuple[str, ...]], Answer]] = {
    "ann": {
        ("SHOP", "ann-#", ("shop.a.>",)): ALLOWED,
        ("SHOP", "ann-#", ("shop.a.b",)): ALLOWED,
        ("SHOP", "ann-#", ("shop.a.*",)): ALLOWED,
        ("SHOP", "ann-#", ("shop.a.b", "shop.a.c")): ALLOWED,
        ("SHOP", "ann-", ("shop.a.b",)): ALLOWED,
        ("SHOP", "", ("shop.a.b",)): ALLOWED,
        ("SHOP", "ann-#", ()): DENIED,
        ("SHOP", "ann-#", (">",)): DENIED,
        ("SHOP", "ann-#", ("shop.>",)): DENIED,
        ("SHOP", "ann-#", ("shop.*.b",)): DENIED,
        ("SHOP", "ann-#", ("*.a.b",)): DENIED,
        ("SHOP", "ann-#", ("shop.a",)): DENIED,
        ("SHOP", "ann-#", ("shopx.a.b",)): DENIED,
        ("SHOP", "ann-#", ("shop.a.b", "shop.z")): DENIED,
        ("SHOP", "ann-#", ("shop.z", "shop.a.b")): DENIED,
        ("SHOP", "", ()): DENIED,
        ("SHOP", "", ("shop.z",)): DENIED,
        ("SHOP", "ann", ("shop.a.b",)): DENIED,
        ("SHOP", "bob-#", ("shop.a.b",)): DENIED,
        ("SHOP", "Ann-#", ("shop.a.b",)): DENIED,
        ("SHOP", "xann-#", ("shop.a.b",)): DENIED,
        ("SHOP", "*", ("shop.a.b",)): INVALID,
        ("SHOP", _GUESSED, ("shop.a.b",)): DENIED,
        ("SHOP", NAMED_LIKE_GENERATED, ("shop.a.b",)): DENIED,
        ("SHOPX", "ann-#", ("shop.a.b",)): DENIED,
        ("SHO", "ann-#", ("shop.a.b",)): DENIED,
        ("shop", "ann-#", ("shop.a.b",)): DENIED,
        ("PAYMENTS", "ann-#", ("shop.a.b",)): DENIED,
        ("WS_DEAD_LETTERS", "ann-#", ("shop.a.b",)): INVALID,
        ("KV_cfg", "ann-#", ("shop.a.b",)): INVALID,
        ("ABSENT", "ann-#", ("shop.a.b",)): DENIED,
        ("GONE", "ann-#", ("shop.a.b",)): NO_STREAM,
        ("", "ann-#", ("shop.a.b",)): INVALID,
    },
    "ann-star": {
        ("SHOP", "ann-#", ("shop.z",)): ALLOWED,
        ("SHOP", "ann-#", ("shop.*",)): ALLOWED,
        ("SHOP", "ann-#", ("shop.a.b",)): DENIED,
        ("SHOP", "ann-#", ("shop.>",)): DENIED,
        ("SHOP", "ann-#", ("shop",)): DENIED,
    },
    "ann-holes": {
        ("SHOP", "ann-#", ("shop.a.>",)): DENIED,  # shop.a.hidden
        ("SHOP", "ann-#", ("shop.a.b",)): ALLOWED,
        ("SHOP", "ann-#", ("shop.*.b",)): DENIED,  # shop.secret.b
        ("SHOP", "ann-#", ("shop.>",)): DENIED,
        ("SHOP", "ann-#", ("shop.secret.x",)): DENIED,
        ("SHOP", "ann-#", ("shop.x.hidden",)): DENIED,
        ("SHOP", "ann-private", ("shop.a.b",)): DENIED,
        ("SHOP", "ann-private-#", ("shop.a.b",)): DENIED,
        ("SHOP", "ann-priv", ("shop.a.b",)): ALLOWED,
        ("SHOP", "ann-kept", ("shop.a.b",)): ALLOWED,
    },
    "ann-wide": {
        ("SHOP", "ann-#", ()): ALLOWED,
        ("SHOP", "ann-#", (">",)): ALLOWED,
        ("SHOP", "", ()): ALLOWED,
    },
    "ephemeral": {
        ("SHOP", "", ("shop.a.b",)): ALLOWED,
        ("SHOP", "", ("shop.z",)): DENIED,
        ("SHOP", "ann-#", ("shop.a.b",)): DENIED,
        ("SHOP", _GUESSED, ("shop.a.b",)): DENIED,
    },
    "ephemeral-elsewhere": {("SHOP", "", ("shop.a.b",)): DENIED},
    "ephemeral-denied": {
        ("SHOP", "", ("shop.a.b",)): DENIED,
        ("SHOP", "ann-#", ("shop.a.b",)): ALLOWED,
    },
    "only-ephemeral": {("SHOP", "", ("shop.a.b",)): DENIED},
    "prefix-and-ephemeral": {
        ("SHOP", "", ("shop.a.b",)): ALLOWED,
        ("SHOP", "", ("shop.z",)): DENIED,
    },
    "prefix": {
        ("SHOP", "", ("shop.a.b",)): DENIED,
        ("SHOP", "any-#", ("shop.a.b",)): ALLOWED,
        ("SHIP", "any-#", ("shop.a.b",)): NO_STREAM,
        ("S", "any-#", ("shop.a.b",)): DENIED,
    },
    "halves": {
        ("SHOP", "", ("shop.z",)): ALLOWED,
        ("PAYMENTS", "ann-#", ("payments.x",)): ALLOWED,
        ("SHOP", "ann-#", ("shop.z",)): DENIED,
        ("PAYMENTS", "ann-#", ("shop.z",)): DENIED,
        ("SHOP", "", ("payments.x",)): DENIED,
    },
    "all": {("SHOP", "ann-#", ("shop.a..b",)): INVALID, ("SHOP", "a.b", ("shop.a.b",)): INVALID},
}


def _ensuring(who: str, stream: str, name: str, subjects: tuple[str, ...], answer: Answer) -> Row:
    def request(world: World) -> pb.EnsureConsumerRequest:
        named: dict[str, Any] = {"name": name.replace("#", world.name("n"))} if name else {}
        return pb.EnsureConsumerRequest(stream=stream, subjects=subjects, **named)

    about = f"{name or '(ephemeral)'} of {stream} choosing {' '.join(subjects) or 'all'}"
    return Row("EventsService/EnsureConsumer", who, request, answer, about)


# Consumers that are there: how each comes to be, and who may do what with it.


def _made(*subjects: str, prefix: str = "ann-", stream: str = "SHOP") -> Callable[[World], str]:
    return lambda world: world.consumer(prefix, *subjects, stream=stream)


def _ephemeral(*subjects: str, owner: str = "all") -> Callable[[World], str]:
    return lambda world: world.ephemeral(*subjects, owner=owner)


def _widened(world: World) -> str:
    return world.named_consumer(world.ephemeral("shop.a.b", owner="ann"))


def _called(name: str) -> Callable[[World], str]:
    return lambda _: name


_MADE: dict[str, tuple[str, Callable[[World], str]]] = {
    "hers": ("SHOP", _made("shop.a.b")),
    "hers, of two subjects": ("SHOP", _made("shop.a.b", "shop.a.c")),
    "hers, of a star": ("SHOP", _made("shop.a.*")),
    "hers, of shop.z": ("SHOP", _made("shop.z")),
    "hers, of more": ("SHOP", _made("shop.a.b", "shop.z")),
    "hers, wider": ("SHOP", _made("shop.>")),
    "hers, of all": ("SHOP", _made()),
    "hers, of what is secret": ("SHOP", _made("shop.secret.x")),
    "hers, private": ("SHOP", _made("shop.a.b", prefix="ann-private")),
    "hers, kept": ("SHOP", _made("shop.a.b", prefix="ann-kept")),
    "his": ("SHOP", _made("shop.a.b", prefix="bob-")),
    "one with nearly her name": ("SHOP", _made("shop.a.b", prefix="ann")),
    "of another stream": ("PAYMENTS", _made("payments.x", stream="PAYMENTS")),
    "ephemeral": ("SHOP", _ephemeral("shop.a.b")),
    "ephemeral, wider": ("SHOP", _ephemeral()),
    "ephemeral, hers": ("SHOP", _ephemeral("shop.a.b", owner="ann")),
    "ephemeral, hers, wider": ("SHOP", _widened),
    "ephemeral, its own": ("SHOP", _ephemeral("shop.a.b", owner="ephemeral")),
    "ephemeral, nobody's": ("SHOP", _ephemeral("shop.a.b", owner="")),
    "ephemeral, nobody's, wider": ("SHOP", _ephemeral(owner="")),
    "named like a generated one": (
        "SHOP",
        lambda world: world.named_consumer(NAMED_LIKE_GENERATED, "shop.a.b"),
    ),
    "absent": ("SHOP", _called("ann-absent")),
    "absent, not hers": ("SHOP", _called("bob-absent")),
    "guessed": ("SHOP", _called(_GUESSED)),
    "guessed, of another stream": ("PAYMENTS", _called(_GUESSED)),
    "of a stream that is not there": ("ABSENT", _called("ann-1")),
    "of a stream that is gone": ("GONE", _called("ann-1")),
}

_USED: dict[str, dict[str, tuple[Answer, Answer, Answer]]] = {
    # How GetConsumer, DeleteConsumer, and Events and Consume are answered.
    "ann": {
        "hers": (ALLOWED, ALLOWED, ALLOWED),
        "hers, of two subjects": (ALLOWED, ALLOWED, ALLOWED),
        "hers, of a star": (ALLOWED, ALLOWED, ALLOWED),
        "hers, of more": (ALLOWED, ALLOWED, DENIED),
        "hers, wider": (ALLOWED, ALLOWED, DENIED),
        "hers, of all": (ALLOWED, ALLOWED, DENIED),
        "his": (DENIED, DENIED, DENIED),
        "one with nearly her name": (DENIED, DENIED, DENIED),
        "of another stream": (DENIED, DENIED, DENIED),
        "ephemeral": (DENIED, DENIED, DENIED),
        "ephemeral, hers": (ALLOWED, ALLOWED, ALLOWED),
        "ephemeral, hers, wider": (ALLOWED, ALLOWED, DENIED),
        "ephemeral, its own": (DENIED, DENIED, DENIED),
        "ephemeral, nobody's": (ALLOWED, ALLOWED, ALLOWED),
        "ephemeral, nobody's, wider": (ALLOWED, ALLOWED, DENIED),
        "absent": (NO_CONSUMER, NO_CONSUMER, NO_CONSUMER),
        "absent, not hers": (DENIED, DENIED, DENIED),
        "guessed": (NO_CONSUMER, NO_CONSUMER, NO_CONSUMER),
        "guessed, of another stream": (DENIED, DENIED, DENIED),
        "of a stream that is not there": (DENIED, DENIED, DENIED),
        "of a stream that is gone": (NO_STREAM, NO_STREAM, NO_STREAM),
    },
    "ann-star": {
        "hers": (ALLOWED, DENIED, DENIED),
        "hers, of shop.z": (ALLOWED, DENIED, ALLOWED),
        "his": (DENIED, DENIED, DENIED),
    },
    "ann-holes": {
        "hers": (ALLOWED, ALLOWED, ALLOWED),
        "hers, wider": (ALLOWED, ALLOWED, DENIED),
        "hers, of what is secret": (ALLOWED, ALLOWED, DENIED),
        "hers, private": (DENIED, ALLOWED, DENIED),
        "hers, kept": (ALLOWED, DENIED, ALLOWED),
    },
    "ann-wide": {
        "hers, of all": (ALLOWED, ALLOWED, ALLOWED),
        "ephemeral, wider": (DENIED, DENIED, DENIED),
        "ephemeral, nobody's, wider": (ALLOWED, ALLOWED, ALLOWED),
    },
    "ephemeral": {
        "hers": (DENIED, DENIED, DENIED),
        "ephemeral": (DENIED, DENIED, DENIED),
        "ephemeral, hers": (DENIED, DENIED, DENIED),
        "ephemeral, its own": (ALLOWED, ALLOWED, ALLOWED),
        "ephemeral, nobody's": (ALLOWED, ALLOWED, ALLOWED),
        "guessed": (NO_CONSUMER, NO_CONSUMER, NO_CONSUMER),
    },
    "halves": {
        "hers": (DENIED, DENIED, DENIED),
        "hers, of shop.z": (DENIED, DENIED, DENIED),
        "of another stream": (ALLOWED, ALLOWED, ALLOWED),
    },
    "prefix": {
        "his": (ALLOWED, ALLOWED, ALLOWED),
        "of another stream": (DENIED, DENIED, DENIED),
        "ephemeral": (ALLOWED, ALLOWED, ALLOWED),  # any name
        "ephemeral, wider": (ALLOWED, ALLOWED, DENIED),
    },
    "controller": {"ephemeral": (ALLOWED, DENIED, ALLOWED)},
    "all": {"hers, of all": (ALLOWED, ALLOWED, ALLOWED), "absent": (NO_CONSUMER, NO_CONSUMER, NO_CONSUMER)},
    "builder": {"hers": (DENIED, DENIED, DENIED), "ephemeral": (DENIED, DENIED, DENIED)},
}


def _using(who: str, made: str, answers: tuple[Answer, Answer, Answer]) -> Iterator[Row]:
    stream, make = _MADE[made]

    def get(world: World) -> Message:
        return pb.GetConsumerRequest(stream=stream, id=make(world))

    def delete(world: World) -> Message:
        return pb.DeleteConsumerRequest(stream=stream, id=make(world))

    def consume(world: World) -> Message:
        return subscribe(stream, make(world))

    yield Row("EventsService/GetConsumer", who, get, answers[0], made)
    yield Row("EventsService/DeleteConsumer", who, delete, answers[1], made)
    yield Row("EventsService/Events", who, consume, answers[2], made)
    yield Row("EventsService/Consume", who, consume, answers[2], made)


def _rows() -> Iterator[Row]:
    for who, answers in _ENSURED.items():
        for (stream, name, subjects), answer in answers.items():
            yield _ensuring(who, stream, name, subjects, answer)
    for who, by_made in _USED.items():
        for made, three in by_made.items():
            yield from _using(who, made, three)
    for who, answer in (("ann", DENIED), ("ephemeral", DENIED), ("prefix", ALLOWED)):
        yield from _using(who, "named like a generated one", (answer, answer, answer))


ROWS = list(_rows())
