"""Filters, orders, totals and summaries of dead letters at the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import pytest

from tests.support.client import Client, refused
from tests.support.nats_server import NatsServer
from tests.wire.burying import ask, bury, consumer, listed, watching
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as pb
from windshift.server.events.dead_letters.model import Cause

Unique = Callable[[], str]
By = pb.SummarizeRequest


@pytest.fixture
def stream(client: Client, nats_server: NatsServer, unique: Unique) -> str:
    """Make a stream with four dead letters."""
    return four_buried(client, nats_server, unique())


def four_buried(client: Client, nats_server: NatsServer, name: str) -> str:
    """Make a stream with four dead letters, and return its name."""
    client.ensure_stream(name)
    consumer(client, name)
    for subject in ("orders.1", "orders.2.late", "bills.1", "bills.2"):
        client.publish(f"{name}.{subject}", subject)
    bury(nats_server, name, 1, error_type="shop.OutOfStock", reason="no ÄPFEL left\nsecond line")
    bury(nats_server, name, 2, error_type="shop.OutOfStock", reason="no pears left", consumer="d")
    bury(nats_server, name, 3, error_type="Timeout", cause=Cause.REJECTED, reason="no ÄPFEL left\nanother")
    bury(nats_server, name, 4)
    return name


FILTERS: list[tuple[dict[str, Any], list[int]]] = [
    ({"error_types": ["shop.OutOfStock"]}, [1, 2]),
    ({"error_types": ["Timeout", "shop.OutOfStock"]}, [1, 2, 3]),
    ({"error_types": ["shop"]}, []),
    ({"error_types": [""]}, [4]),
    ({"text": "äpfel"}, [1, 3]),
    ({"text": "PEARS"}, [2]),
    ({"text": "timeout"}, [3]),
    ({"text": "BILLS.2"}, [4]),
    ({"text": "nothing has it"}, []),
    ({"event_ids": [2]}, [2]),
    ({"event_ids": [4, 2, 4, 99]}, [2, 4]),
    ({"event_ids": range(2, 1_002)}, [2, 3, 4]),
    ({"event_ids": [0]}, []),
    ({"event_ids": [2**64 - 1]}, []),
    ({"consumer": "d", "event_ids": [1, 2]}, [2]),
    ({"event_ids": [1, 2, 3], "text": "ÄPFEL", "causes": [pb.CAUSE_REJECTED]}, [3]),
]


@pytest.mark.parametrize(("fields", "expected"), FILTERS)
def test_filters(
    client: Client, stream: str, nats_server: NatsServer, fields: dict[str, Any], expected: list[int]
) -> None:
    """Each holds for all methods alike: what is listed is watched, counted, replayed and purged."""
    which = pb.Filter(stream=stream, **fields)
    assert [each.event.id for each in listed(client, stream, **fields)] == expected
    backwards = ask(client, "List", pb.ListRequest(filter=which, newest_first=True))
    assert [each.event.id for each in backwards.dead_letters] == expected[::-1]
    assert backwards.total == len(expected)
    with watching(client, filter=which, existing=True) as watch:
        assert watch.ids(len(expected)) == expected
        watch.nothing(0.1)
    assert ask(client, "Summarize", By(filter=which, by=[By.BY_STREAM])).total == len(expected)
    assert ask(client, "Purge", pb.PurgeRequest(filter=which, dry_run=True)).purged == len(expected)
    replayed = ask(client, "Replay", pb.ReplayRequest(filter=which, dry_run=True))
    there = [each for each in expected if each != 2]  # the consumer of that one does not exist
    assert (replayed.replayed, replayed.without_consumer) == (len(there), len(expected) - len(there))
    assert ask(client, "Purge", pb.PurgeRequest(filter=which)).purged == len(expected)
    assert len(listed(client, stream)) == 4 - len(expected)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["orders.>"], [1, 2]),
        (["*.1"], [1, 3]),
        (["orders.1", "bills.2"], [1, 4]),
        (["orders.*.late", "orders.>"], [1, 2]),
        (["orders"], []),
    ],
)
def test_subjects(client: Client, stream: str, patterns: list[str], expected: list[int]) -> None:
    """Subjects may have wildcards, as everywhere."""
    subjects = [f"{stream}.{each}" for each in patterns]
    assert [each.event.id for each in listed(client, stream, subjects=subjects)] == expected


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"error_types": ["a"] * 101}, "filter.error_types"),
        ({"text": "x" * 257}, "filter.text"),
        ({"subjects": ["a"] * 101}, "filter.subjects"),
        ({"subjects": ["a", "a..b"]}, "filter.subjects[1]"),
        ({"subjects": [""]}, "filter.subjects[0]"),
        ({"subjects": ["$JS.>"]}, "filter.subjects[0]"),
        ({"event_ids": [1] * 1001}, "filter.event_ids"),
    ],
)
def test_malformed_filters(client: Client, fields: dict[str, Any], field: str) -> None:
    """Every method names the field."""
    which = pb.Filter(stream="S", **fields)
    for method, request in (
        ("List", pb.ListRequest(filter=which)),
        ("Summarize", By(filter=which, by=[By.BY_CAUSE])),
        ("Replay", pb.ReplayRequest(filter=which)),
        ("CancelReplay", pb.CancelReplayRequest(filter=which)),
        ("Purge", pb.PurgeRequest(filter=which)),
    ):
        with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
            ask(client, method, request)
        assert caught[0].fields == (field,)


# Newest first, and totals


@pytest.mark.parametrize("size", [1, 2, 3, 500])
def test_newest_first(client: Client, stream: str, size: int) -> None:
    """Pages go backwards; each entry is on one."""
    request = pb.ListRequest(filter=pb.Filter(stream=stream), newest_first=True, page_size=size)
    seen: list[int] = []
    while True:
        page = ask(client, "List", request)
        assert page.HasField("total") == (not request.page_token)
        seen += [each.event.id for each in page.dead_letters]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == [4, 3, 2, 1]


def test_newest_first_and_times(client: Client, stream: str) -> None:
    """Times restrict in both directions."""
    letters = listed(client, stream)
    for since, until, expected in ((1, None, [4, 3, 2]), (None, 2, [2, 1]), (1, 3, [3, 2])):
        which = pb.Filter(stream=stream)
        if since is not None:
            which.since.CopyFrom(letters[since].time)
        if until is not None:
            which.until.CopyFrom(letters[until].time)
        found = ask(client, "List", pb.ListRequest(filter=which, newest_first=True)).dead_letters
        assert [each.event.id for each in found] == expected


def test_what_is_written_between_pages(client: Client, nats_server: NatsServer, stream: str) -> None:
    """Backwards, nothing is skipped or shown twice when entries come and go."""
    request = pb.ListRequest(filter=pb.Filter(stream=stream), newest_first=True, page_size=2)
    first = ask(client, "List", request)
    client.publish(f"{stream}.more", "x")
    bury(nats_server, stream, 5)
    ask(client, "Purge", pb.PurgeRequest(ids=[first.dead_letters[1].id]))
    request.page_token = first.next_page_token
    second = ask(client, "List", request)
    assert [each.event.id for each in (*first.dead_letters, *second.dead_letters)] == [4, 3, 2, 1]


def test_tokens_are_of_one_order_and_method(client: Client, stream: str) -> None:
    """A token of a list is of no use in the other order, nor to remove something."""
    which = pb.Filter(stream=stream)
    token = ask(client, "List", pb.ListRequest(filter=which, page_size=1)).next_page_token
    for method, request in (
        ("List", pb.ListRequest(filter=which, newest_first=True, page_token=token)),
        ("Replay", pb.ReplayRequest(filter=which, page_token=token)),
        ("CancelReplay", pb.CancelReplayRequest(filter=which, page_token=token)),
    ):
        with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
            ask(client, method, request)
        assert caught[0].fields == ("page_token",)


def test_totals(client: Client, stream: str) -> None:
    """They count what matches, on all pages."""
    cases: tuple[tuple[dict[str, Any], int], ...] = (
        ({}, 4),
        ({"consumer": "c"}, 3),
        ({"text": "äpfel"}, 2),
        ({"text": "?"}, 0),
    )
    for fields, expected in cases:
        request = pb.ListRequest(filter=pb.Filter(stream=stream, **fields), page_size=1)
        assert ask(client, "List", request).total == expected


def test_the_total_of_all(own_client: Client, own_nats_server: NatsServer) -> None:
    """It leaves out what else is stored there: claims, and the data of events that need two messages."""
    stream = own_client.ensure_stream("S")
    for _ in range(3):
        own_client.publish("S.x", "y" * (1024 * 1024 - 300))
    bury(own_nats_server, stream, 1, 2, 3)
    assert ask(own_client, "List", pb.ListRequest(page_size=1, without_data=True)).total == 3
    backwards = ask(own_client, "List", pb.ListRequest(newest_first=True))
    assert [each.event.id for each in backwards.dead_letters] == [3]
    assert backwards.next_page_token


# Summaries


def groups(client: Client, stream: str, *by: Any, **fields: Any) -> list[tuple[tuple[str, ...], int]]:
    """Summarize the dead letters of a stream."""
    request = By(filter=pb.Filter(stream=stream), by=by, **fields)
    return [(tuple(each.keys), each.count) for each in ask(client, "Summarize", request).groups]


def test_summaries(client: Client, stream: str) -> None:
    """Groups are told by what they have in common, the largest first."""
    assert groups(client, stream, By.BY_STREAM) == [((stream,), 4)]
    assert groups(client, stream, By.BY_CONSUMER) == [(("c",), 3), (("d",), 1)]
    assert groups(client, stream, By.BY_CAUSE) == [(("MAX_ATTEMPTS",), 3), (("REJECTED",), 1)]
    assert groups(client, stream, By.BY_ERROR_TYPE) == [
        (("shop.OutOfStock",), 2),
        (("",), 1),
        (("Timeout",), 1),
    ]
    assert groups(client, stream, By.BY_TYPE) == [(("windshift.test.v1.StringValue",), 4)]
    assert groups(client, stream, By.BY_REASON)[0] == (("no ÄPFEL left",), 2)
    assert (((f"{stream}.bills.1",), 1)) in groups(client, stream, By.BY_SUBJECT)
    both = groups(client, stream, By.BY_CONSUMER, By.BY_ERROR_TYPE)
    assert both[0] == (("c", ""), 1)
    assert len(both) == 4


def test_what_a_group_tells(client: Client, stream: str) -> None:
    """Its first and last times are those of its dead letters, and the sample is one of them."""
    letters = {each.id: each for each in listed(client, stream)}
    request = By(filter=pb.Filter(stream=stream), by=[By.BY_ERROR_TYPE], limit=1)
    answer = ask(client, "Summarize", request)
    (group,) = answer.groups
    assert (answer.total, answer.truncated) == (4, False)
    of_it = [each for each in letters.values() if each.error_type == group.keys[0]]
    assert (group.first, group.last) == (of_it[0].time, of_it[-1].time)
    assert letters[group.sample_id] in of_it


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "by"),
        ({"by": [0]}, "by[0]"),
        ({"by": [1, 9]}, "by[1]"),
        ({"by": [1, 1]}, "by"),
        ({"by": [1] * 101}, "by"),
        ({"by": [1], "limit": 501}, "limit"),
    ],
)
def test_malformed_summaries(client: Client, fields: dict[str, Any], field: str) -> None:
    """The field is named."""
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        ask(client, "Summarize", By(**fields))
    assert caught[0].fields == (field,)


def test_a_summary_of_nothing(own_client: Client) -> None:
    """Before there ever was a dead letter there are no groups."""
    assert ask(own_client, "Summarize", By(by=[By.BY_CAUSE])) == pb.SummarizeResponse()


# Many, where the broker is not asked to choose


@contextmanager
def as_in_a_large_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have everything read as where there are a million dead letters."""
    monkeypatch.setattr("windshift.server.events.managed_stream._LARGE", 0)
    monkeypatch.setattr("windshift.server.events.managed_stream._SAMPLE", 2)
    yield


def test_a_large_store(
    own_client: Client, own_nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages are the same when what is read has dead letters of others among those that are asked for."""
    stream, other = four_buried(own_client, own_nats_server, "stream"), own_client.ensure_stream("other")
    for _ in range(5):
        own_client.publish(f"{other}.x", "x")
    bury(own_nats_server, other, 1, 2, 3, 4, 5)
    own_client.publish(f"{stream}.last", "x")
    bury(own_nats_server, stream, 5)
    with as_in_a_large_store(monkeypatch):
        for name, size, newest_first in product((stream, other), (1, 2, 500), (False, True)):
            request = pb.ListRequest(filter=pb.Filter(stream=name), newest_first=newest_first, page_size=size)
            seen: list[int] = []
            while True:
                page = ask(own_client, "List", request)
                seen += [each.event.id for each in page.dead_letters]
                if not page.next_page_token:
                    break
                request.page_token = page.next_page_token
            assert seen == ([5, 4, 3, 2, 1] if newest_first else [1, 2, 3, 4, 5])
