"""Tokens of deliveries belong to a principal."""

from __future__ import annotations

from tests.authorization.world import World
from tests.wire.consuming import calling


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
