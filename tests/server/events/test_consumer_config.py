"""What the broker is told about a consumer, decided without it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from windshift.server.errors import StreamNotFound, UnsupportedCombination
from windshift.server.events.consumers import changed_config, new_config, refusal_error
from windshift.server.events.specs import AtEnd, AtId, AtStart, AtTime, ConsumerSpec, StartPosition
from windshift.server.nats.jetstream import RefusedByBroker
from windshift.server.nats.streams import StreamState

STREAM = StreamState({"name": "S"}, last_id=5)
DAY = 86_400 * 10**9


def test_durable() -> None:
    """A consumer with a name is durable, starts after the last event, and is kept for 30 days unused."""
    assert new_config("c", ConsumerSpec("S", "c"), STREAM) == {
        "name": "c",
        "durable_name": "c",
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": 6,
        "ack_policy": "explicit",
        "ack_wait": 30 * 10**9,
        "max_deliver": -1,
        "replay_policy": "instant",
        "max_waiting": 10_000,
        "max_ack_pending": 20_000,
        "inactive_threshold": 30 * DAY,
    }


def test_ephemeral() -> None:
    """A consumer without a name is kept for an hour unused."""
    config = new_config("made-up", ConsumerSpec("S"), STREAM)
    assert config["name"] == "made-up"
    assert "durable_name" not in config
    assert config["inactive_threshold"] == DAY // 24


@pytest.mark.parametrize(
    ("start", "keys"),
    [
        (AtEnd(), {"deliver_policy": "by_start_sequence", "opt_start_seq": 6}),
        (AtStart(), {"deliver_policy": "all"}),
        (AtId(3), {"deliver_policy": "by_start_sequence", "opt_start_seq": 3}),
        (
            AtTime(10**9),
            {"deliver_policy": "by_start_time", "opt_start_time": "1970-01-01T00:00:01.000000000Z"},
        ),
    ],
)
def test_start(start: StartPosition, keys: dict[str, Any]) -> None:
    """Every start is stored in a form from which the consumer can be reset later."""
    config = new_config("c", ConsumerSpec("S", "c", start=start), STREAM)
    assert {key: value for key, value in config.items() if key in ("deliver_policy", *keys)} == keys


@pytest.mark.parametrize(
    ("subjects", "keys"),
    [
        ((), {}),
        (("a",), {"filter_subject": "a"}),
        (("a", "*.b"), {"filter_subjects": ["a", "*.b"]}),
    ],
)
def test_subjects(subjects: tuple[str, ...], keys: dict[str, Any]) -> None:
    """One subject has a key of its own, several share one, none is every event. They can be changed."""
    spec = ConsumerSpec("S", "c", subjects)
    config = new_config("c", spec, STREAM)
    assert {key: value for key, value in config.items() if key.startswith("filter")} == keys
    for before in ((), ("a",), ("b",), ("x", "y"), ("*.b", "a")):
        stored = new_config("c", ConsumerSpec("S", "c", before), STREAM)
        changed = changed_config(stored, spec)
        assert set(filters_of(changed)) == set(subjects or ({">"} if before else ()))


def filters_of(config: dict[str, Any]) -> list[str]:
    """List what a configuration chooses by, whichever key says it."""
    return config.get("filter_subjects") or [config[key] for key in ("filter_subject",) if key in config]


def test_same_subjects_in_another_order_are_no_change() -> None:
    """There is nothing to tell the broker when only the order differs."""
    stored = new_config("c", ConsumerSpec("S", "c", ("a", "b")), STREAM)
    assert changed_config(stored, ConsumerSpec("S", "c", ("b", "a"))) == stored
    stored = {"filter_subjects": ["a"], "ack_policy": "explicit", "ack_wait": 30 * 10**9}
    assert changed_config(stored, ConsumerSpec("S", "c", ("a",))) == stored


def test_change_keeps_position_and_settings_by_others() -> None:
    """Subjects and timeout change, absent ones to their defaults. All else stays."""
    stored = {
        "durable_name": "c",
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": 10**9,
        "max_waiting": 512,
        "max_ack_pending": 1_000,
        "inactive_threshold": DAY,
        "filter_subject": "a",
        "metadata": {"owner": "billing"},
        "from_the_future": 1,
    }
    changed = changed_config(stored, ConsumerSpec("S", "c", start=AtId(99)))
    assert changed == stored | {"filter_subject": ">", "ack_wait": 30 * 10**9}


def test_backoff_makes_room_for_the_timeout() -> None:
    """A list of backoffs, which would override the timeout, does not stay."""
    stored = {"ack_policy": "explicit", "backoff": [10**9], "ack_wait": 10**9, "max_deliver": 5}
    changed = changed_config(stored, ConsumerSpec("S", "c", processing_timeout=timedelta(seconds=2)))
    assert changed == {"ack_policy": "explicit", "ack_wait": 2 * 10**9, "max_deliver": 5}


@pytest.mark.parametrize(
    "foreign", [{"deliver_subject": "x", "ack_policy": "explicit"}, {"ack_policy": "none"}]
)
def test_consumers_of_another_kind_are_refused(foreign: dict[str, Any]) -> None:
    """A consumer that pushes, or wants no acknowledgements, cannot serve a consume call."""
    with pytest.raises(UnsupportedCombination):
        changed_config(foreign, ConsumerSpec("S", "c"))


def test_limits_of_the_stream_hold() -> None:
    """A stream that limits its consumers gets one within the limits."""
    stream = StreamState({"consumer_limits": {"max_ack_pending": 10, "inactive_threshold": 5}}, 0)
    config = new_config("c", ConsumerSpec("S", "c"), stream)
    assert (config["max_ack_pending"], config["inactive_threshold"]) == (10, 5)


@pytest.mark.parametrize(
    ("err_code", "code", "error"),
    [
        (10059, 404, StreamNotFound),
        (10138, 400, UnsupportedCombination),
        (10101, 400, UnsupportedCombination),
        (10026, 400, UnsupportedCombination),
        (10012, 500, RefusedByBroker),
    ],
)
def test_refusals(err_code: int, code: int, error: type[Exception]) -> None:
    """The broker's error codes become the contract's; a text that may hold a path becomes no message."""
    assert isinstance(refusal_error(RefusedByBroker(err_code, code, "why"), ConsumerSpec("S")), error)
