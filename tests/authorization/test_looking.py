"""What is shown, and to whom: lists leave out what the caller may not see."""

from __future__ import annotations

from tests.authorization.world import World
from tests.wire.looking import ask


def test_streams_that_a_caller_may_see(world: World) -> None:
    """A list has the streams that one of the caller's roles lets it view, and says how many these are."""
    for who, expected in (
        ("viewer", ["SHOP"]),
        ("ann", ["SHOP"]),
        ("nothing", []),
        ("refused", []),
    ):
        page = ask(world.caller(who), "ListStreams")
        assert [stream.spec.name for stream in page.streams] == expected, who
        assert page.total == len(expected)
    everything = {stream.spec.name for stream in ask(world.admin, "ListStreams", pageSize=1000).streams}
    assert everything >= {"SHOP", "PAYMENTS", "LEDGER", "ORDERS"}
    seen = {
        each.spec.name for each in ask(world.caller("viewer-holes"), "ListStreams", pageSize=1000).streams
    }
    assert seen == {name for name in everything if not name.startswith("PAY")}


def test_consumers_that_a_caller_may_see(world: World) -> None:
    """A list of all consumers has those of the streams that the caller may view."""
    found = ask(world.caller("viewer"), "ListConsumers", pageSize=1000).consumers
    assert found
    assert {each.consumer.stream for each in found} == {"SHOP"}
    assert not ask(world.caller("nothing"), "ListConsumers").consumers


def test_ephemeral_consumers_that_a_caller_may_see(world: World) -> None:
    """Lists have the caller's own, and those of others only where it may use a consumer of that name."""
    own, others = (world.ephemeral("shop.a.b", owner=owner) for owner in ("ann", "ephemeral"))
    nobodys = world.ephemeral("shop.a.b", owner="")
    named, like_generated = world.consumer("bob-"), world.named_like_generated("shop.a.b")
    ephemeral = {own, others, nobodys}
    for who, expected in (
        ("ann", {own}),
        ("ephemeral", {others}),
        ("viewer", set[str]()),
        ("prefix", ephemeral),
        ("all", ephemeral),
    ):
        for stream in ({"stream": "SHOP"}, {}):
            page = ask(world.caller(who), "ListConsumers", pageSize=1000, **stream)
            found = {each.consumer.id for each in page.consumers if each.consumer.stream == "SHOP"}
            assert found & {*ephemeral, named, like_generated} == {*expected, named, like_generated}, who
            assert page.total == len(page.consumers)


def test_who_calls(world: World) -> None:
    """A caller learns its name, what its roles grant and deny, and what decides about a question."""
    checks = [
        {"verb": "consume", "resource": "SHOP shop.a.b ann-1"},
        {"verb": "consume", "resource": "SHOP shop.secret.x ann-1"},
        {"verb": "publish", "resource": "orders.new"},
    ]
    answer = ask(world.caller("ann-holes"), "WhoAmI", checks=checks)
    assert (answer.principal, answer.credential, answer.HasField("expires")) == ("ann-holes", "token", False)
    granted = {(grant.verb, grant.resource, grant.role) for grant in answer.granted}
    assert ("streams.consume", "SHOP", "ann-holes") in granted
    assert ("!streams.subjects", "shop.secret.>", "ann-holes") in granted
    assert [check.allowed for check in answer.checks] == [True, False, False]
    assert "deny.streams.subjects" in answer.checks[1].rule
    assert all(check.rule for check in answer.checks)
