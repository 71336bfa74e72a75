"""Who may not have something does not learn whether it is there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf.message import Message

from tests.authorization.rows import DENIED, UNKNOWN, invoke, method_of
from tests.authorization.world import NOBODY, STRANGER, World, subscribe
from tests.support.client import Refusal, any_of
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as dead_letters_pb
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as state_pb

Pair = tuple[str, tuple[str, str], Message, Message]


def _streams(name: str) -> Message:
    request = pb.EnsureStreamRequest(name=name)
    request.subjects.subjects.append("shop.>")
    return request


def _mirror(name: str) -> Message:
    return pb.EnsureStreamRequest(name="b-mirror", mirror=pb.EnsureStreamRequest.StreamSource(name=name))


def _letter(consumer: str) -> Message:
    return dead_letters_pb.GetRequest(id=f"LEDGER.{consumer}.1.1")


def pairs() -> Iterator[Pair]:
    """Give methods with a request for something that is there, and the same for something that is not."""
    there, absent = ("PAYMENTS", "ABSENT")
    yield "EventsService/EnsureStream", (there, absent), _streams(there), _streams(absent)
    yield "EventsService/EnsureStream", (there, absent), _mirror(there), _mirror(absent)
    for method, kind in (
        ("GetConsumer", pb.GetConsumerRequest),
        ("DeleteConsumer", pb.DeleteConsumerRequest),
    ):
        yield (
            f"EventsService/{method}",
            (there, absent),
            kind(stream=there, id="ann-1"),
            kind(stream=absent, id="ann-1"),
        )
        names = ("bob-1", "bob-x")
        yield (
            f"EventsService/{method}",
            names,
            kind(stream="LEDGER", id=names[0]),
            kind(stream="LEDGER", id=names[1]),
        )
    for method in ("Events", "Consume"):
        yield (
            f"EventsService/{method}",
            (there, absent),
            subscribe(there, "ann-1"),
            subscribe(absent, "ann-1"),
        )
        names = ("bob-1", "bob-x")
        yield f"EventsService/{method}", names, subscribe("LEDGER", names[0]), subscribe("LEDGER", names[1])
    consumers = [pb.EnsureConsumerRequest(stream=name, name="ann-1") for name in (there, absent)]
    yield "EventsService/EnsureConsumer", (there, absent), consumers[0], consumers[1]
    for method in ("Publish", "PublishEvent"):
        subjects = ("payments.x", "nobody.x")
        events = [pb.PublishEventRequest(subject=subject, data=any_of("x")) for subject in subjects]
        yield f"EventsService/{method}", subjects, events[0], events[1]
    stores = ("vault", "absent")
    for method, of_state in (
        ("EnsureStore", [state_pb.EnsureStoreRequest(store=store) for store in stores]),
        ("Get", [state_pb.GetRequest(store=store, key="open.a") for store in stores]),
        ("Set", [state_pb.SetRequest(store=store, key="open.a", value=any_of("x")) for store in stores]),
        ("Delete", [state_pb.DeleteRequest(store=store, key="open.a") for store in stores]),
    ):
        yield f"StateService/{method}", stores, of_state[0], of_state[1]
    keys = ("secret.a", "secret.b")
    gets = [state_pb.GetRequest(store="cfg", key=key) for key in keys]
    yield "StateService/Get", keys, gets[0], gets[1]
    for method, by_filter in (
        ("List", dead_letters_pb.ListRequest),
        ("Watch", dead_letters_pb.WatchRequest),
        ("Replay", dead_letters_pb.ReplayRequest),
        ("Purge", dead_letters_pb.PurgeRequest),
    ):
        filters = [dead_letters_pb.Filter(stream=name) for name in (there, absent)]
        yield (
            f"DeadLettersService/{method}",
            (there, absent),
            by_filter(filter=filters[0]),
            by_filter(filter=filters[1]),
        )
    yield "DeadLettersService/Get", ("bob-1", "bob-x"), _letter("bob-1"), _letter("bob-x")


PAIRS = list(pairs())


@pytest.mark.parametrize("who", [NOBODY, STRANGER, "nothing", "ann", "refused"])
@pytest.mark.parametrize("pair", PAIRS, ids=[f"{pair[0]} {pair[1][0]}" for pair in PAIRS])
def test_the_same_answer(world: World, pair: Pair, who: str) -> None:
    """What is there and what is not are refused in the same words, but for their names."""
    method, names, *requests = pair
    answers: list[Refusal] = []
    for name, request in zip(names, requests, strict=True):
        outcome = invoke(world.caller(who), method_of(method), request)
        assert outcome.answer == (UNKNOWN if who in (NOBODY, STRANGER) else DENIED)
        refusal = outcome.refusal
        assert refusal is not None
        answers.append(
            Refusal(
                refusal.code,
                refusal.reason,
                refusal.metadata,
                refusal.fields,
                refusal.message.replace(repr(name), "(name)"),
                refusal.hint,
            )
        )
    assert answers[0] == answers[1]
    assert answers[0].metadata == {}


def test_the_words_are_plain(world: World) -> None:
    """A refusal says who may not do what, and nothing of the rules."""
    request = pb.GetConsumerRequest(stream="PAYMENTS", id="ann-1")
    refusal = invoke(world.caller("ann"), method_of("EventsService/GetConsumer"), request).refusal
    assert refusal is not None
    assert refusal.message == "'ann' may not use consumer 'ann-1' of stream 'PAYMENTS'"
