"""What clients are told when the broker has no more room, of whatever kind, for what they ask."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.support.app import running_app
from tests.support.client import Client, Refusal, refused
from tests.support.nats_server import running_nats
from tests.wire.burying import ack, consumer, kill_off, listed, replay
from tests.wire.consuming import subscribed
from tests.wire.management import ensure_consumer, ensure_stream

_MEGABYTE = 1024 * 1024
_CONFIG = """
accounts {{
  LIMITED {{
    users: [{{user: limited, password: limited}}]
    jetstream: {{{limits}}}
  }}
}}
jetstream {{max_file: 1GB, max_mem: 1GB}}
"""


def limited(tmp_path: Path, **limits: object) -> Iterator[Client]:
    """Run a server for an account with limits, and connect to it."""
    config = tmp_path / "nats.conf"
    config.write_text(_CONFIG.format(limits=", ".join(f"{name}: {value}" for name, value in limits.items())))
    with running_nats(tmp_path / "nats", "--config", str(config)) as broker:
        url = broker.url.replace("//", "//limited:limited@")
        with running_app(url) as address:
            client = Client(address)
            yield client
            client.channel.close()


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Connect to a server whose account may have three streams, with two consumers each, of 8 MB.

    It has as many: "A", "B" in memory, and the store "settings".
    """
    for client in limited(
        tmp_path_factory.mktemp("few"),
        max_streams=3,
        max_consumers=2,
        max_file=8 * _MEGABYTE,
        max_mem=_MEGABYTE,
    ):
        ensure_stream(client, "A", subjects={"subjects": ["a.>"]})
        ensure_stream(client, "B", subjects={"subjects": ["b.>"]}, storage={"type": "STORAGE_TYPE_MEMORY"})
        client.ensure_store("settings")
        yield client


def told(caught: list[Refusal]) -> tuple[str, dict[str, str]]:
    """Return what an error says."""
    return caught[0].message, dict(caught[0].metadata)


def test_streams_and_stores(few: Client) -> None:
    """One too many of them is told as such, and what is there works on."""
    with refused("RESOURCE_EXHAUSTED", "STREAM_LIMIT") as caught:
        ensure_stream(few, "C", subjects={"subjects": ["c.>"]})
    assert "max_streams" in told(caught)[0]
    with refused("RESOURCE_EXHAUSTED", "STREAM_LIMIT"):
        few.ensure_store("more")
    with refused("RESOURCE_EXHAUSTED", "STREAM_LIMIT"):  # dead letters need a stream of their own
        consumer(few, "A")
    ensure_stream(few, "A", subjects={"subjects": ["a.>"]})
    assert few.publish("a.x") > 0


@pytest.mark.parametrize("name", ["another", None])
def test_consumers(few: Client, name: str | None) -> None:
    """One too many for a stream, with a name or without; those that exist may be ensured again."""
    for each in ("one", "two"):
        ensure_consumer(few, "A", name=each)
    with refused("RESOURCE_EXHAUSTED", "CONSUMER_LIMIT") as caught:
        ensure_consumer(few, "A", **({} if name is None else {"name": name}))
    message, metadata = told(caught)
    assert "max_consumers" in message
    assert metadata == {"name": "A"}
    ensure_consumer(few, "A", name="one", processing_timeout="5s")


@pytest.mark.parametrize("kind", ["STORAGE_TYPE_FILE", "STORAGE_TYPE_MEMORY"])
def test_bytes_to_set_aside(few: Client, kind: str) -> None:
    """A stream that asks for more than there is cannot be made or changed so; which field it is, is said."""
    stream, subject = ("A", "a.>") if kind == "STORAGE_TYPE_FILE" else ("B", "b.>")
    with refused("RESOURCE_EXHAUSTED", "STORAGE_FULL") as caught:
        ensure_stream(
            few,
            stream,
            subjects={"subjects": [subject]},
            storage={"type": kind},
            retention_policy={"max_bytes": 9 * _MEGABYTE},
        )
    assert "max_bytes" in told(caught)[0]


def test_bytes_stored(few: Client) -> None:
    """An event that the account has no room for is refused, with a key and without; so is a value."""
    for subject, has_key in product(("a.full", "b.full"), (False, True)):
        with refused("RESOURCE_EXHAUSTED", "STORAGE_FULL"):
            for number in range(40):
                few.publish(subject, "x" * 500_000, idempotency_key=f"{number}" if has_key else None)
    with refused("RESOURCE_EXHAUSTED", "STORAGE_FULL"):
        few.set("settings", "large", "x" * 900_000)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Connect to a server whose account wants each stream to be limited, to 2 MB at most."""
    yield from limited(
        tmp_path_factory.mktemp("strict"),
        max_bytes_required="true",
        store_max_stream_bytes=2 * _MEGABYTE,
        max_file=64 * _MEGABYTE,
    )


@pytest.mark.parametrize("retention", [{}, {"max_bytes": 3 * _MEGABYTE}])
def test_limits_that_the_broker_asks_for(strict: Client, retention: dict[str, Any]) -> None:
    """A stream without the limit, or with a larger one, is refused with the field to set."""
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        ensure_stream(strict, "S", subjects={"subjects": ["s.>"]}, retention_policy=retention)
    assert told(caught)[1] == {"field": "retention_policy.max_bytes"}
    ensure_stream(strict, "S", subjects={"subjects": ["s.>"]}, retention_policy={"max_bytes": _MEGABYTE})


def test_stores_without_the_limit(strict: Client) -> None:
    """A store has no limit, so that such a broker makes none; the error says what does."""
    with refused("INVALID_ARGUMENT", "UNSUPPORTED_COMBINATION") as caught:
        strict.ensure_store("settings")
    assert "max_bytes" in told(caught)[0]


def test_dead_letters_where_each_stream_has_a_limit(strict: Client) -> None:
    """What is kept of dead letters and replays is as small as the broker wants it, and they work."""
    ensure_stream(strict, "S", subjects={"subjects": ["S.>"]}, retention_policy={"max_bytes": _MEGABYTE})
    consumer(strict, "S")
    letter = kill_off(strict, "S")
    replay(strict, letter.id)
    with subscribed(strict, "S") as call:
        assert call.event(15).id == letter.event.id
        ack(call, letter.event.id)
    assert listed(strict, "S") == []


def test_dead_letters_leave_room_for_others(tmp_path: Path) -> None:
    """Of what an account may store they get a tenth, though all of it could be set aside for them."""
    for client in limited(tmp_path, max_file=625_000_000):
        ensure_stream(client, "S", subjects={"subjects": ["S.>"]}, retention_policy={"max_bytes": _MEGABYTE})
        consumer(client, "S")
        letter = kill_off(client, "S")
        replay(client, letter.id)
        with subscribed(client, "S") as call:
            assert call.event(15).id == letter.event.id
            ack(call, letter.event.id)
        large = {"max_bytes": 560_000_000}
        ensure_stream(client, "L", subjects={"subjects": ["L.>"]}, retention_policy=large)
