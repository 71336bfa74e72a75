"""Who may see and manage which streams and consumers, and read events without a consumer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from google.protobuf.message import Message

from tests.authorization.rows import ALLOWED, DENIED, INVALID, NO_STREAM, Answer, Request, Row
from tests.authorization.world import World
from windshift._gen.windshift.admin.v1alpha1 import service_pb2 as pb

# Seeing what a stream is: by principal and stream.

_SEEN: dict[str, dict[str, Answer]] = {
    "viewer": {"SHOP": ALLOWED, "PAYMENTS": DENIED, "SHO": DENIED, "ABSENT": DENIED, "GONE": NO_STREAM},
    "viewer-holes": {"SHOP": ALLOWED, "PAYMENTS": DENIED, "LEDGER": ALLOWED},
    "ann": {"SHOP": ALLOWED, "LEDGER": DENIED},  # consuming suffices
    "builder": {"SHOP": ALLOWED, "ORDERS": DENIED},
    "namer": {"SHOP": DENIED},
    "keeper": {"SHOP": DENIED},  # purging does not
    "all": {"WS_DEAD_LETTERS": INVALID, "KV_cfg": INVALID, "": INVALID},
}

# Explaining events: besides seeing the stream, one has to observe servers, since calls of all are shown.

_EXPLAINED: dict[str, dict[str, Answer]] = {
    "viewer": {"SHOP": DENIED, "PAYMENTS": DENIED},
    "observes": {"SHOP": DENIED},
    "explains": {"SHOP": ALLOWED, "PAYMENTS": DENIED, "ABSENT": DENIED, "GONE": NO_STREAM, "KV_cfg": INVALID},
    "ann": {"SHOP": DENIED},
}

# Reading events: by principal, stream and subjects.

_READ: dict[str, dict[tuple[str, tuple[str, ...]], Answer]] = {
    "ann": {
        ("SHOP", ("shop.a.>",)): ALLOWED,
        ("SHOP", ("shop.a.b", "shop.a.c")): ALLOWED,
        ("SHOP", ()): DENIED,
        ("SHOP", ("shop.>",)): DENIED,
        ("SHOP", ("shop.a.b", "shop.z")): DENIED,
        ("SHOP", ("shop.z",) * 17): INVALID,  # more than anybody may ask for
        ("PAYMENTS", ("shop.a.b",)): DENIED,
        ("GONE", ("shop.a.b",)): NO_STREAM,
        ("WS_DEAD_LETTERS", ("shop.a.b",)): INVALID,
    },
    "ann-holes": {
        ("SHOP", ("shop.a.b",)): ALLOWED,
        ("SHOP", ("shop.secret.x",)): DENIED,
        ("SHOP", ("shop.>",)): DENIED,
    },
    "ann-wide": {("SHOP", ()): ALLOWED},
    "viewer": {("SHOP", ("shop.a.b",)): DENIED},  # what a stream is, and no event of it
    "keeper": {("SHOP", ("shop.a.b",)): DENIED},
}

# Removing: by principal, stream and subject (empty = all).

_PURGED: dict[str, dict[tuple[str, str], Answer]] = {
    "keeper": {
        ("SPARE", "spare.a.b"): ALLOWED,
        ("SPARE", "spare.a.>"): ALLOWED,
        ("SPARE", "spare.>"): DENIED,
        ("SPARE", ""): DENIED,
        ("SHOP", "spare.a.b"): DENIED,
        ("KV_cfg", "spare.a.b"): INVALID,
    },
    "ann-wide": {("SHOP", ""): DENIED},
    "builder": {("SHOP", "shop.a.b"): DENIED},
}

_DELETED: dict[str, dict[str, Answer]] = {
    "keeper": {"spare-#": ALLOWED, "SHOP": DENIED, "KV_cfg": INVALID},
    "builder": {"spare-#": DENIED},
    "namer": {"spare-#": DENIED},
}

# Pausing: by principal, and the consumer: the prefix of its name, or one without a name.

_MADE: dict[str, Callable[[World], str]] = {
    "ephemeral": lambda world: world.ephemeral("shop.a.b"),
    "ephemeral, its own": lambda world: world.ephemeral("shop.a.b", owner="ephemeral"),
    "ephemeral, nobody's": lambda world: world.ephemeral("shop.a.b", owner=""),
    "named like a generated one": lambda world: world.named_like_generated("shop.a.b"),
}

_OF_GENERATED: dict[str, dict[str, Answer]] = {
    "pauser": {"ephemeral": DENIED, "named like a generated one": DENIED},
    "mover": {"ephemeral": DENIED, "named like a generated one": DENIED},
    "controller": {"ephemeral": ALLOWED, "named like a generated one": ALLOWED},
    "ephemeral": {
        "ephemeral": DENIED,
        "ephemeral, its own": ALLOWED,
        "ephemeral, nobody's": ALLOWED,
        "named like a generated one": DENIED,
    },
}

_PAUSED: dict[str, dict[str, Answer]] = {
    **_OF_GENERATED,
    "pauser": {"ann-": ALLOWED, "bob-": DENIED, **_OF_GENERATED["pauser"]},
    "ann": {"ann-": DENIED},
    "ann-wide": {"ann-": DENIED},
}

# Moving: besides that, what the consumer chooses has to be the caller's.

_SOUGHT: dict[str, dict[str, Answer]] = {
    **_OF_GENERATED,
    "mover": {"ann-": ALLOWED, "bob-": DENIED, **_OF_GENERATED["mover"]},
    "mover-narrow": {"ann-": DENIED},  # the consumer chooses more
    "pauser": {"ann-": DENIED},
    "ann": {"ann-": DENIED},
    "ann-wide": {"ann-": DENIED},
}


def _seeing() -> Iterator[Row]:
    for who, streams in _SEEN.items():
        for stream, answer in streams.items():
            one = pb.GetStreamRequest(name=stream)
            yield Row("AdminService/GetStream", who, one, answer, stream)
            subjects = pb.ListSubjectsRequest(stream=stream)
            yield Row("AdminService/ListSubjects", who, subjects, answer, stream)
            if stream:
                consumers = pb.ListConsumersRequest(stream=stream)
                yield Row("AdminService/ListConsumers", who, consumers, answer, stream)
            history = pb.GetHistoryRequest(streams=[stream])  # leaves out what is not seen, or not there
            told = INVALID if answer is INVALID else ALLOWED
            yield Row("AdminService/GetHistory", who, history, told, f"stream {stream}")
            history = pb.GetHistoryRequest(consumers=[f"{stream}/c"])
            yield Row("AdminService/GetHistory", who, history, told, f"consumers of {stream}")


def _explaining() -> Iterator[Row]:
    for who, streams in _EXPLAINED.items():
        for stream, answer in streams.items():
            yield Row(
                "AdminService/ExplainEvent", who, pb.ExplainEventRequest(stream=stream, id=1), answer, stream
            )


def _removing() -> Iterator[Row]:
    for who, purges in _PURGED.items():
        for (stream, subject), answer in purges.items():
            purge = pb.PurgeStreamRequest(stream=stream, subject=subject, up_to_id=1)
            yield Row("AdminService/PurgeStream", who, purge, answer, f"{subject or 'all'} of {stream}")
            if not subject:
                delete = pb.DeleteEventRequest(stream=stream, id=1)
                yield Row("AdminService/DeleteEvent", who, delete, answer, stream)
    for who, streams in _DELETED.items():
        for stream, answer in streams.items():
            yield Row("AdminService/DeleteStream", who, _spare(stream), answer, stream)


def _rows() -> Iterator[Row]:
    yield from _seeing()
    yield from _explaining()
    yield from _removing()
    for who, choices in _READ.items():
        for (stream, subjects), answer in choices.items():
            yield from _reading(who, stream, subjects, answer)
    for who, prefixes in _PAUSED.items():
        for prefix, answer in prefixes.items():
            yield Row("AdminService/PauseConsumer", who, pausing(prefix), answer, prefix)
    for who, prefixes in _SOUGHT.items():
        for prefix, answer in prefixes.items():
            yield Row("AdminService/SeekConsumer", who, seeking(prefix), answer, prefix)


def _reading(who: str, stream: str, subjects: tuple[str, ...], answer: Answer) -> Iterator[Row]:
    about = f"{' '.join(subjects) or 'all'} of {stream}"
    requests: tuple[Message, ...] = (
        pb.ReadEventsRequest(stream=stream, subjects=subjects),
        pb.TailEventsRequest(stream=stream, subjects=subjects),
    )
    for method, request in zip(("ReadEvents", "TailEvents"), requests, strict=True):
        yield Row(f"AdminService/{method}", who, request, answer, about)
    if len(subjects) == 1:
        one = pb.GetEventRequest(stream=stream, id=1, subject=subjects[0])
        yield Row("AdminService/GetEvent", who, one, answer, about)


def _spare(stream: str) -> Request:
    if not stream.endswith("#"):
        return pb.DeleteStreamRequest(name=stream)
    return lambda world: pb.DeleteStreamRequest(name=spare(world))


def spare(world: World) -> str:
    """Make a stream that may go; give its name."""
    name = world.name("spare-")
    return world.admin.ensure_stream(name, f"spare.{name}")


def pausing(prefix: str) -> Request:
    """Give what makes a request to pause a new consumer."""
    return lambda world: pb.PauseConsumerRequest(
        stream="SHOP", consumer=_made(world, prefix), until={"seconds": 4_000_000_000}
    )


def seeking(prefix: str) -> Request:
    """Give what makes a request to move a new consumer."""
    return lambda world: pb.SeekConsumerRequest(
        stream="SHOP", consumer=_made(world, prefix), to={"start": True}
    )


def _made(world: World, prefix: str) -> str:
    return _MADE[prefix](world) if prefix in _MADE else world.consumer(prefix)


ROWS = list(_rows())
