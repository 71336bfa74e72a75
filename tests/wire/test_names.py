"""What may be called how, as a client in the field sees it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.client import Client, refused
from tests.wire.consuming import subscribed
from tests.wire.management import delete_consumer, ensure_consumer, ensure_stream

Unique = Callable[[], str]

FROM_START = {"from": {"start": True}}

RESERVED = ["$", "$JS.API.>", "$KV.a.b", "_INBOX", "_INBOXa.b", "_R_.a", "_R_a", "_WS", "_WSa.b"]
MALFORMED = ["", ".", "a.", ".a", "a..b", "a b", " a", "a ", "a\n", "a\t.b", "a/b", "ä", "a.$b", "x" * 256]
MISPLACED_WILDCARDS = ["a*", "a.*b", "a.>.b", "a.>>", "a.**"]


def longest(name: str, length: int = 255) -> str:
    """Make a unique name as long as one may be."""
    return name.ljust(length, "x")


def test_longest_names(client: Client, unique: Unique) -> None:
    """Stream, consumer and subject of 255 characters work in every call."""
    stream, consumer = longest(unique()), longest(unique())
    subject = longest(f"{unique()}.")
    ensure_stream(client, stream, subjects={"subjects": [subject]})
    assert ensure_consumer(client, stream, name=consumer, subjects=[subject], **FROM_START) == consumer
    client.publish(subject)
    with subscribed(client, stream, consumer=consumer) as call:
        event = call.event()
        assert (event.id, event.subject) == (1, subject)
        call.ack(1)
        assert call.told() == ("ack", [1], [], [])
    ensure_stream(client, longest(unique()), mirror={"name": stream, "filter_subjects": [subject]})
    delete_consumer(client, stream, consumer)


def test_every_character(client: Client, unique: Unique) -> None:
    """Names are of letters, digits, `_` and `-`, wherever these stand."""
    stream = f"-_09azAZ{unique()}"
    ensure_stream(client, stream)
    for consumer in ("-", "_", "0", "KV_a", "WS_a", "-_09azAZ"):
        assert ensure_consumer(client, stream, name=consumer) == consumer


def test_what_is_reserved_is_so_in_its_place_only(client: Client, unique: Unique) -> None:
    """Reserved is what a name or a first token begins with, as it is written."""
    for stream in (f"KV{unique()}", f"kv_{unique()}", f"_WS_{unique()}", f"a_WS_{unique()}"):
        ensure_stream(client, stream, subjects={"subjects": [f"{unique()}._INBOX._WS.KV_"]})
    subject = f"_W{unique()}._R_"
    ensure_stream(client, unique(), subjects={"subjects": [subject]})
    assert client.publish(subject) == 1


@pytest.mark.parametrize("name", ["", "a.b", "*", ">", "a b", "a\n", "ä", "$a", "x" * 256])
def test_malformed_names(client: Client, stream: str, name: str) -> None:
    """A malformed name is refused by every method under its own field."""
    for attempt, field in (
        (lambda: ensure_stream(client, name, subjects={"subjects": ["a"]}), "name"),
        (lambda: ensure_stream(client, "s", mirror={"name": name}), "mirror.name"),
        (
            lambda: ensure_stream(client, "s", aggregate={"sources": [{"name": stream}, {"name": name}]}),
            "aggregate.sources[1].name",
        ),
        (lambda: ensure_consumer(client, name, name="c"), "stream"),
        (lambda: ensure_consumer(client, stream, name=name), "name"),
        (lambda: delete_consumer(client, name, "c"), "stream"),
        (lambda: delete_consumer(client, stream, name), "id"),
        (lambda: client.ensure_store(name), "store"),
        (lambda: client.get(name, "a"), "store"),
        (lambda: client.set(name, "a"), "store"),
        (lambda: client.delete(name, "a"), "store"),
    ):
        with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
            attempt()
        assert caught[0].fields == (field,)


@pytest.mark.parametrize("name", ["KV_", "KV_a", "OBJ_a", "WS_a"])
def test_reserved_streams(client: Client, name: str) -> None:
    """A stream with a reserved name can be neither made, copied nor used."""
    for attempt, field in (
        (lambda: ensure_stream(client, name, subjects={"subjects": ["a"]}), "name"),
        (lambda: ensure_stream(client, "s", mirror={"name": name}), "mirror.name"),
        (
            lambda: ensure_stream(client, "s", aggregate={"sources": [{"name": name}]}),
            "aggregate.sources[0].name",
        ),
        (lambda: ensure_consumer(client, name), "stream"),
        (lambda: delete_consumer(client, name, "c"), "stream"),
    ):
        with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
            attempt()
        assert caught[0].fields == (field,)


@pytest.fixture
def stream(client: Client, unique: Unique) -> str:
    """Make a stream."""
    return client.ensure_stream(unique())


@pytest.mark.parametrize(
    "subject", [*RESERVED, *MALFORMED, *MISPLACED_WILDCARDS, "*", ">", "*.a", "a.*", "a.>"]
)
def test_published_subjects_and_keys(client: Client, subject: str) -> None:
    """What is published to, and a key, is plain."""
    for attempt, field in (
        (lambda: client.publish(subject), "subject"),
        (lambda: client.get("s", subject), "key"),
        (lambda: client.set("s", subject), "key"),
        (lambda: client.delete("s", subject), "key"),
    ):
        with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
            attempt()
        assert caught[0].fields == (field,)


@pytest.mark.parametrize("subject", [*RESERVED, *MALFORMED, *MISPLACED_WILDCARDS, "*", ">", "*.a"])
def test_stream_subjects(client: Client, unique: Unique, subject: str) -> None:
    """A stream's subject does not begin with a wildcard, and wildcards are whole tokens."""
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        ensure_stream(client, unique(), subjects={"subjects": ["a", subject]})
    assert caught[0].fields == ("subjects.subjects[1]",)


@pytest.mark.parametrize("subject", [*RESERVED, *MALFORMED, *MISPLACED_WILDCARDS])
def test_filters(client: Client, stream: str, unique: Unique, subject: str) -> None:
    """A filter of a consumer or a source may begin with a wildcard; wildcards are whole tokens."""
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        ensure_consumer(client, stream, subjects=["a", subject])
    assert caught[0].fields == ("subjects[1]",)
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        ensure_stream(client, unique(), mirror={"name": stream, "filter_subjects": [subject]})
    assert caught[0].fields == ("mirror.filter_subjects[0]",)


@pytest.mark.parametrize("pattern", [">", "*.>", "*.*", "*.a", "{stream}.*", "{stream}.>", "{stream}.a"])
def test_wildcards_at_work(client: Client, stream: str, unique: Unique, pattern: str) -> None:
    """Whatever of a stream a filter matches is handed out, wherever its wildcards stand."""
    subject = pattern.format(stream=stream)
    client.publish(f"{stream}.a")
    ensure_consumer(client, stream, name="c", subjects=[subject], **FROM_START)
    copy = unique()
    ensure_stream(client, copy, mirror={"name": stream, "filter_subjects": [subject]})
    ensure_consumer(client, copy, name="c", **FROM_START)
    for name in (stream, copy):
        with subscribed(client, name) as call:
            assert call.event().subject == f"{stream}.a"
