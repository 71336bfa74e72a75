"""Dead letters by filter, counted, summarized, replayed and left alone again, at a real server."""

from __future__ import annotations

from typing import Any

import pytest

import windshift as ws
from windshift.protos import state, test

Text = test.StringValue
LIMIT = 30.0
"""Seconds that anything may take on a busy machine."""


class TimedOut(Exception):
    """A kind of failure."""


@pytest.fixture
async def consumer(client: ws.Client) -> ws.Consumer:
    """Make a consumer ``w`` of ``s`` that gave up on events 1 to 6, for three kinds of reasons."""
    stream = await client.streams.ensure("s", subjects=["s.>"])
    consumer = await stream.consumers.ensure("w", start=ws.START)

    async def handle(delivery: ws.Delivery[Any]) -> None:
        number = delivery.event.id
        if number <= 3:
            raise ws.GiveUp(f"the bank timed out\nafter {number} s") from TimedOut()
        if number <= 5:
            raise ws.GiveUp("no number") from ValueError()
        await delivery.dead_letter()

    for number in range(1, 6):
        await client.publish(f"s.{'even' if number % 2 == 0 else 'odd'}", Text(value=f"{number}"))
    await client.publish("s.odd", state.SetResponse(revision=1))
    async with consumer.running(handle, concurrency=1, prefetch=0):
        await consumer.idle(LIMIT)
    return consumer


async def ids(client: ws.Client, **which: Any) -> list[int]:
    """List the ids of the events of dead letters."""
    return [letter.event.id async for letter in client.dead_letters.list(**which)]


@pytest.mark.usefixtures("consumer")
@pytest.mark.parametrize(
    ("which", "found"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"newest_first": True}, [6, 5, 4, 3, 2, 1]),
        ({"stream": "s", "consumer": "w", "newest_first": True}, [6, 5, 4, 3, 2, 1]),
        ({"stream": "s", "consumer": "other"}, []),
        ({"stream": "s", "error_types": ["TimedOut"]}, [1, 2, 3]),
        ({"stream": "s", "error_types": ["TimedOut", "ValueError"], "newest_first": True}, [5, 4, 3, 2, 1]),
        ({"text": "TIMED out"}, [1, 2, 3]),
        ({"stream": "s", "text": "even"}, [2, 4]),
        ({"subjects": ["s.even"]}, [2, 4]),
        ({"subjects": ["*.even", "s.odd"]}, [1, 2, 3, 4, 5, 6]),
        ({"subjects": ["even"]}, []),
        ({"stream": "s", "event_ids": [5, 1, 77]}, [1, 5]),
        ({"stream": "s", "event_ids": [5, 1], "error_types": ["TimedOut"]}, [1]),
        ({"type": state.SetResponse}, [6]),
        ({"causes": ["max_attempts"]}, []),
        ({"causes": ["rejected", "max_attempts"], "text": "number"}, [4, 5]),
    ],
)
async def test_a_filter_lets_through_what_matches(
    client: ws.Client, which: dict[str, Any], found: list[int]
) -> None:
    """Each part restricts, in the client's own names; all must hold; the order is that of writing."""
    assert await ids(client, **which) == found


@pytest.mark.usefixtures("consumer")
async def test_the_same_filter_serves_every_method(client: ws.Client) -> None:
    """It is counted, watched, replayed, cancelled and purged by it."""
    late: ws.DeadLetterFilter = {"stream": "s", "error_types": ["TimedOut"], "subjects": ["s.odd"]}
    assert await client.dead_letters.count(**late) == 2
    assert await client.dead_letters.count(stream="s") == 6
    assert await client.dead_letters.count(stream="none") == 0
    watched = client.dead_letters.watch(existing=True, **late)
    assert [(await anext(watched)).event.id, (await anext(watched)).event.id] == [1, 3]
    assert (await client.dead_letters.replay(**late)).replayed == 2
    assert [each.event.id async for each in client.dead_letters.list(stream="s") if each.replaying] == [1, 3]
    cancelled = await client.dead_letters.cancel_replay(**late)
    assert cancelled == ws.CancelledReplays(cancelled=2)
    assert (await client.dead_letters.purge(**late)).purged == 2
    assert await ids(client, stream="s") == [2, 4, 5, 6]


async def test_replays_that_are_cancelled(client: ws.Client, consumer: ws.Consumer) -> None:
    """They are not delivered; what a subscriber has goes on; ids without a replay are named."""
    letters = {letter.event.id: letter.id async for letter in client.dead_letters.list(stream="s")}
    await client.dead_letters.replay(stream="s")
    async with consumer.subscribe(concurrency=1, prefetch=0) as deliveries:
        held = await anext(deliveries)
        cancelled = await client.dead_letters.cancel_replay(ids=list(letters.values()))
        assert cancelled == ws.CancelledReplays(cancelled=5, delivering=1)
        await held.ack()
    assert (await client.dead_letters.cancel_replay(ids=[letters[held.event.id]])).missing_ids == [
        letters[held.event.id]
    ]
    assert (await client.dead_letters.cancel_replay(stream="s")) == ws.CancelledReplays()
    await consumer.idle(LIMIT)
    assert await ids(client, stream="s") == sorted(letters.keys() - {held.event.id})


@pytest.mark.usefixtures("consumer")
async def test_a_summary_counts_what_is_alike(client: ws.Client) -> None:
    """Groups come largest first, in the client's own names."""
    summary = await client.dead_letters.summarize("error_type", "reason", stream="s")
    assert [(dict(group.keys), group.count) for group in summary.groups] == [
        ({"error_type": "TimedOut", "reason": "the bank timed out"}, 3),
        ({"error_type": "ValueError", "reason": "no number"}, 2),
        ({"error_type": "", "reason": ""}, 1),
    ]
    assert (summary.total, summary.truncated) == (6, False)
    late = summary.groups[0]
    assert late.first <= late.last
    assert (await client.dead_letters.get(late.sample_id)).event.id in (1, 2, 3)
    one = await client.dead_letters.summarize("stream", "consumer", "cause", "subject", stream="s", limit=1)
    keys = {"stream": "s", "consumer": "w", "cause": "rejected", "subject": "s.odd"}
    assert [(dict(group.keys), group.count) for group in one.groups] == [(keys, 4)]
    assert one.total == 6
    typed = await client.dead_letters.summarize("type", stream="s", type=Text)
    assert [dict(group.keys) for group in typed.groups] == [{"type": Text.DESCRIPTOR.full_name}]
    with pytest.raises(ws.InvalidField):
        await client.dead_letters.summarize(stream="s")


@pytest.mark.parametrize(
    ("which", "error"),
    [
        ({}, "everything=True"),
        ({"everything": True}, "namespace"),
        ({"text": "x"}, "namespace"),
        ({"ids": ["x"], "stream": "s"}, "not both"),
        ({"stream": "s", "event_ids": []}, "event_ids is empty"),
        ({"stream": "s", "subjects": ()}, "subjects is empty"),
        ({"ids": ["x"], "error_types": []}, "error_types is empty"),
    ],
)
@pytest.mark.parametrize("method", ["replay", "cancel_replay", "purge"])
async def test_what_would_do_more_than_was_meant(
    client: ws.Client, method: str, which: dict[str, Any], error: str
) -> None:
    """An empty list does not mean everything, and neither do forgotten words."""
    with pytest.raises(ValueError, match=error):
        await getattr(client.dead_letters, method)(**which)


async def test_filters_that_are_none(client: ws.Client) -> None:
    """Unknown words and texts in place of lists are refused, as Python refuses arguments."""
    letters: Any = client.dead_letters
    with pytest.raises(TypeError, match="'steam'"):
        await letters.purge(steam="s")
    with pytest.raises(TypeError, match="subjects is a list"):
        await ids(client, subjects="s.x")
    with pytest.raises(ValueError, match="namespace"):
        await letters.count()
    with pytest.raises(ValueError, match="namespace"):
        await letters.summarize("reason", consumer="w")
    with pytest.raises(ws.InvalidField):
        await letters.count(stream="s", text="x" * 257)
