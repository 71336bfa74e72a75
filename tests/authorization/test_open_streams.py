"""Open streams of a consumer that others change: nothing gets through that its subscriber may not have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.authorization.rows import DENIED, invoke, method_of
from tests.authorization.world import World
from tests.support.client import Refusal
from tests.wire.burying import ask, bury
from tests.wire.consuming import Call, subscribed
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as dead_letters_pb
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

LIMIT = 30.0


def forbidden(refusal: Refusal | None) -> bool:
    """Tell whether a call ended because of the rules."""
    return refusal is not None and (refusal.code, refusal.reason) == DENIED


def publish(world: World, subject: str) -> int:
    """Publish to SHOP as somebody who may."""
    return world.admin.publish(subject)


@contextmanager
def opened(world: World, *subjects: str, who: str = "ann") -> Iterator[tuple[Call, str]]:
    """Open a stream of a new consumer, and take all that is there already."""
    name = world.consumer("ann-", *subjects)
    stored = world.witness.consumer("SHOP", name)
    assert stored is not None
    with subscribed(world.caller(who), "SHOP", consumer=name) as call:
        for event in call.events(int(stored["num_pending"])):
            call.ack(event.id)
            call.told()
        yield call, name


def change(world: World, name: str, subjects: list[str]) -> None:
    """Change a consumer's filters behind the server's back."""
    stored = world.witness.consumer("SHOP", name)
    assert stored is not None
    config = {
        key: value
        for key, value in stored["config"].items()
        if key not in ("filter_subject", "filter_subjects")
    }
    config["filter_subjects"] = subjects
    request = {"stream_name": "SHOP", "config": config, "action": "update"}
    answer = world.witness.ask(f"CONSUMER.CREATE.SHOP.{name}", request)
    assert "error" not in answer, answer


def test_somebody_widens_a_consumer(world: World) -> None:
    """Its subscriber's stream ends, whatever the other may have."""
    with opened(world, "shop.a.>") as (call, name):
        world.named_consumer(name, "shop.>")
        assert forbidden(call.end(LIMIT))


@pytest.mark.parametrize("attempt", range(5))
def test_nothing_gets_through_meanwhile(world: World, attempt: int) -> None:
    """Not even an event that is published right after a consumer was widened."""
    with opened(world, "shop.a.b") as (call, name):
        world.named_consumer(name, "shop.>")
        publish(world, "shop.z")
        assert forbidden(call.end(LIMIT))
        call.nothing(0)


def test_a_change_that_nobody_tells(world: World) -> None:
    """A consumer that is widened with NATS's own means hands out nothing that is forbidden either."""
    with opened(world, "shop.a.b") as (call, name):
        change(world, name, ["shop.a.b", "shop.z"])
        allowed = publish(world, "shop.a.b")
        assert call.event(LIMIT).id == allowed
        call.ack(allowed)
        assert call.told()[1] == [allowed]
        publish(world, "shop.z")
        assert forbidden(call.end(LIMIT))
        call.nothing(0)
    stored = world.witness.consumer("SHOP", name)
    assert stored is not None
    assert stored["num_pending"] + stored["num_ack_pending"] == 1  # the event waits for somebody who may


def test_a_consumer_that_stays_within_the_rules(world: World) -> None:
    """A stream goes on when its consumer is changed to something that is allowed as well."""
    with opened(world, "shop.a.b") as (call, name):
        world.named_consumer(name, "shop.a.*")
        event = publish(world, "shop.a.new")
        assert call.event(LIMIT).id == event
        call.ack(event)
        assert call.told()[1] == [event]


def test_a_replay_of_what_is_forbidden(world: World) -> None:
    """A dead letter from the time when a consumer chose more is not replayed to who may have less."""
    seq = publish(world, "shop.z")
    with opened(world, "shop.a.b") as (call, name):
        (letter,) = bury(world.nats, "SHOP", seq, consumer=name)
        replayed = ask(world.admin, "Replay", dead_letters_pb.ReplayRequest(ids=[letter]))
        assert replayed.replayed == 1
        assert forbidden(call.end(LIMIT))
        call.nothing(0)
    with subscribed(world.admin, "SHOP", consumer=name) as call:
        assert call.event(LIMIT).id == seq
        call.ack(seq)
        assert call.told()[1] == [seq]


def test_acknowledging_what_another_call_holds(world: World) -> None:
    """Ids of another call mean nothing, whoever makes it, and change nothing."""
    mine = world.consumer("ann-", "shop.a.b")
    with opened(world, "shop.a.c") as (call, name):
        held = publish(world, "shop.a.c")
        assert call.event().id == held
        with subscribed(world.caller("ann"), "SHOP", consumer=name) as other:
            other.ack(held)
            assert other.told() == ("ack", [], [held], [])
            other.reject(held, permanently=True)
            assert other.told() == ("reject", [], [held], [])
        with subscribed(world.caller("ann"), "SHOP", consumer=mine) as other:
            first = other.event().id
            other.ack(held)
            assert other.told() == ("ack", [], [held], [])
            other.ack(first)
            other.told()
        call.ping(held)
        assert call.told() == ("ping", [held], [], [])
        call.ack(held)
        assert call.told() == ("ack", [held], [], [])


def test_the_own_ephemeral_consumer(world: World) -> None:
    """Who made one without a name uses, sees and deletes it by its id; nobody else of another stream does."""
    ann = world.caller("ann")
    request = pb.EnsureConsumerRequest(stream="SHOP", subjects=["shop.a.e"])
    made = invoke(ann, method_of("EventsService/EnsureConsumer"), request).responses[0].id
    publish(world, "shop.a.e")
    with subscribed(ann, "SHOP", consumer=made) as call:
        call.ack(call.event().id)
        call.told()
    seen = pb.GetConsumerRequest(stream="SHOP", id=made)
    gone = pb.DeleteConsumerRequest(stream="SHOP", id=made)
    other = world.caller("half-consumers")
    for method, asked in (("GetConsumer", seen), ("DeleteConsumer", gone)):
        assert invoke(other, method_of(f"EventsService/{method}"), asked).answer == DENIED
    for method, asked in (("GetConsumer", seen), ("DeleteConsumer", gone)):
        assert invoke(ann, method_of(f"EventsService/{method}"), asked).refusal is None
    assert world.witness.consumer("SHOP", made) is None
