"""Tokens of deliveries belong to a principal."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from tests.authorization.rows import DENIED, invoke, method_of
from tests.authorization.world import World
from tests.wire.consuming import calling
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift.server.events.token_key import KEY


def test_the_token_of_another_principal(world: World) -> None:
    """It is worth nothing, though both may consume; to its own it is, with whatever credentials."""
    name = world.consumer("ann-", "shop.a.>")
    stored = world.witness.consumer("SHOP", name)
    assert stored is not None
    count = int(stored["num_pending"])
    assert count
    with calling(world.caller("ann")) as call:
        call.subscribe("SHOP", name, count, linger=30)
        events = call.events(count)
    ids, tokens = sorted(event.id for event in events), [event.token for event in events]
    with calling(world.admin) as other:
        other.subscribe("SHOP", name, count, resume=tokens)
        other.ping(*ids)
        assert other.told() == ("ping", [], ids, [])
        other.nothing()
        with calling(world.caller("ann")) as call:
            call.subscribe("SHOP", name, count, resume=tokens)
            call.ack(*ids)
            assert call.told() == ("ack", ids, [], [])


def test_who_may_not_consume_changes_no_consumer(world: World) -> None:
    """One without a key for tokens gets one for a call that resumes, not for one that is denied."""
    name = world.consumer("ann-", "shop.secret.>")
    stored = world.witness.consumer("SHOP", name)
    assert stored is not None
    del stored["config"]["metadata"][KEY]
    request = {"stream_name": "SHOP", "config": stored["config"], "action": "update"}
    assert "error" not in world.witness.ask(f"CONSUMER.CREATE.SHOP.{name}", request)
    subscribe = pb.EventsRequest.Subscribe(stream="SHOP", consumer=name, linger=Duration(seconds=30))
    answer = invoke(
        world.caller("ann"), method_of("EventsService/Consume"), pb.EventsRequest(subscribe=subscribe)
    )
    assert answer.answer == DENIED
    after = world.witness.consumer("SHOP", name)
    assert after is not None
    assert KEY not in after["config"]["metadata"]
