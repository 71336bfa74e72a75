"""How events end, whatever is late, lost, frozen or restarted: each once."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.server.events.ending import SOME_POLICIES, WINDOW, Server, World, check, play
from windshift.server.events.consuming.commands import Ack, Reject
from windshift.server.events.model import StreamSeq
from windshift.server.events.retries import RetryPolicy

MOVES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 8), st.integers(0, 44)), max_size=150)


@settings(max_examples=50)
@given(st.sampled_from(SOME_POLICIES), st.integers(1, 3), MOVES)
def test_an_event_ends_once(policy: object, servers: int, moves: list[tuple[int, int, int]]) -> None:
    """Acknowledged, dropped or as a dead letter, and whoever was told so was told the truth."""
    play(policy, servers, moves)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(20))
def test_an_event_ends_once_in_long_runs(seed: int) -> None:
    """The same, with more that can go wrong in one run."""
    luck = random.Random(seed)
    for _ in range(20):
        moves = [(luck.randrange(10), luck.randrange(9), luck.randrange(45)) for _ in range(400)]
        play(luck.choice(SOME_POLICIES), luck.randrange(1, 4), moves)


def test_a_last_attempt_that_came_while_a_server_slept() -> None:
    """Its inbox was changed before it had looked at that; another one gives up on the event."""
    world = World(RetryPolicy(2, dead_letters=True), events=2 * WINDOW + 1)
    world.start(2)
    asleep, awake = world.servers
    for _ in range(world.events):
        world.publish()
    for server in world.servers:
        _settle(server)
    event, *_ = asleep.held
    asleep.says(Reject([StreamSeq(event)], permanently=False, delay_ns=None))
    for move in (asleep.sends, asleep.hears, asleep.sends, asleep.sleeps):
        move()
    awake.says(Ack([StreamSeq(each) for each in awake.held]))
    _settle(awake)
    world.pass_time(10.5)
    asleep.sleeps()
    while asleep.up or asleep.down:
        asleep.hears()
        asleep.sends()
    world.pass_time(0.5)  # only then the consumer is seen
    _settle(asleep)
    _settle(awake)
    if event in asleep.held:
        asleep.says(Ack([StreamSeq(event)]))
        _settle(asleep)
    check(world)
    assert world.ends.keys() == {event}


def _settle(server: Server) -> None:
    """Let the messages of one server move until none is left."""
    while server.up or server.down or server.aside:
        server.sends()
        server.looks_up()
        server.hears()
