"""What the broker is told about a consumer, decided without it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from windshift.nats import JetStreamError
from windshift.nats.jetstream.api import ConsumerState, JsonObject, StreamState
from windshift.server.domain.errors import (
    ConsumerLimit,
    InvalidField,
    StreamNotFound,
    UnsupportedCombination,
)
from windshift.server.events.consumers import (
    KEPT_UNUSED_KEY,
    ConsumerView,
    changed_config,
    left_config,
    new_config,
    refusal_error,
    used_config,
    view,
)
from windshift.server.events.retries import METADATA_KEY, RetryPolicy, policy_metadata, stored_policy
from windshift.server.events.specs import AtEnd, AtId, AtStart, AtTime, ConsumerSpec, StartPosition

STREAM = StreamState({"name": "S"}, last_sequence=5)
DAY = 86_400 * 10**9
POLICY = RetryPolicy(5, timedelta(seconds=1), timedelta(minutes=1), 3.0, 0.5, dead_letters=True)


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


def test_a_policy_takes_the_broker_s_own_limit_away() -> None:
    """JetStream would skip events that have no dead letter yet, and say nothing."""
    stored = {"ack_policy": "explicit", "max_deliver": 2}
    assert changed_config(stored, ConsumerSpec("S", "c", retry_policy=POLICY))["max_deliver"] == -1


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
        (10026, 400, ConsumerLimit),
        (10012, 500, JetStreamError),
    ],
)
def test_refusals(err_code: int, code: int, error: type[Exception]) -> None:
    """The broker's error codes become the contract's; a text that may hold a path becomes no message."""
    assert isinstance(refusal_error(JetStreamError(err_code, code, "why"), ConsumerSpec("S")), error)


def test_a_policy_lies_in_the_metadata() -> None:
    """The broker keeps it word by word, and its own limit of deliveries stays unlimited."""
    config = new_config("c", ConsumerSpec("S", "c", retry_policy=POLICY), STREAM)
    assert config == new_config("c", ConsumerSpec("S", "c"), STREAM) | {
        "metadata": {METADATA_KEY: policy_metadata(POLICY)}
    }
    assert config["max_deliver"] == -1
    assert stored_policy(config) == POLICY


@pytest.mark.parametrize(
    ("before", "asked", "after"),
    [
        (None, None, RetryPolicy()),
        (None, POLICY, POLICY),
        (POLICY, None, POLICY),
        (POLICY, POLICY, POLICY),
        (POLICY, RetryPolicy(3), RetryPolicy(3)),
        (POLICY, RetryPolicy(), RetryPolicy()),
    ],
)
def test_a_policy_counts_as_a_whole_or_stays(
    before: RetryPolicy | None, asked: RetryPolicy | None, after: RetryPolicy
) -> None:
    """A spec without one keeps what is stored; one with it replaces all of it, but not what others keep."""
    spec = ConsumerSpec("S", "c", ("a",), processing_timeout=timedelta(seconds=1))
    stored = new_config("c", replace(spec, retry_policy=before), STREAM)
    foreign = {"_nats.ver": "2.15.1", "_nats.level": "3", "owner": "billing", "windshift.other": "x"}
    stored["metadata"] = stored.get("metadata", {}) | foreign
    for subjects in (("a",), ("b",), ()):
        changed = changed_config(stored, replace(spec, subjects=subjects, retry_policy=asked))
        assert stored_policy(changed) == after
        assert foreign.items() <= changed["metadata"].items()
        assert (changed == stored) == (subjects == ("a",) and asked in (None, before))


def test_a_policy_that_cannot_be_read_stays_until_there_is_another() -> None:
    """What another program wrote in its place is not touched by a request that does not speak of it."""
    stored = new_config("c", ConsumerSpec("S", "c"), STREAM) | {"metadata": {METADATA_KEY: "?"}}
    assert changed_config(stored, ConsumerSpec("S", "c")) == stored
    unreadable = RetryPolicy(dead_letters=True)
    changed = changed_config(stored, ConsumerSpec("S", "c", retry_policy=unreadable))
    assert changed["metadata"] == {METADATA_KEY: policy_metadata(unreadable)}


@pytest.mark.parametrize(
    ("config", "durable", "subjects", "timeout", "policy"),
    [
        (new_config("c", ConsumerSpec("S", "c"), STREAM), True, (), 30, RetryPolicy()),
        (new_config("c", ConsumerSpec("S"), STREAM), False, (), 30, RetryPolicy()),
        (new_config("c", ConsumerSpec("S", "c", ("a",)), STREAM), True, ("a",), 30, RetryPolicy()),
        (
            new_config("c", ConsumerSpec("S", "c", ("a", "b.>"), retry_policy=POLICY), STREAM),
            True,
            ("a", "b.>"),
            30,
            POLICY,
        ),
        ({"filter_subject": ">", "ack_wait": 5 * 10**8}, False, (), 0.5, RetryPolicy()),
        ({"filter_subjects": [">"], "ack_policy": "none"}, False, (), 0, RetryPolicy()),
        ({"ack_wait": 2**63 - 1, "metadata": {METADATA_KEY: "?"}}, False, (), 2**63 / 1e9, None),
    ],
)
def test_a_consumer_is_read_back(
    config: dict[str, Any],
    durable: bool,
    subjects: tuple[str, ...],
    timeout: float,
    policy: RetryPolicy | None,
) -> None:
    """A filter of everything is none, and a consumer of another program reads as what it is."""
    seen = view("S", "c", ConsumerState(config, "", 1, 2, 3, 5), 4)
    expected = policy or RetryPolicy(dead_letters=True)
    shown = ConsumerView("S", "c", durable, "", subjects, seen.processing_timeout, expected, 1, 2, 3, 4)
    assert seen == shown
    assert seen.processing_timeout.total_seconds() == pytest.approx(timeout)


def test_ephemeral_ones_that_are_used_and_left() -> None:
    """They are kept for long while they are used, for less afterwards, and never for longer than at first."""
    made = new_config("generated", ConsumerSpec("S"), StreamState({}, 0))
    assert used_config(made) is None
    left = left_config(made, timedelta(seconds=60))
    assert left == made | {"inactive_threshold": 60 * 10**9}
    assert left_config(left, timedelta(seconds=60)) is None
    assert used_config(left) == made
    short = StreamState({"consumer_limits": {"inactive_threshold": 5 * 10**9}}, 0)
    assert left_config(new_config("generated", ConsumerSpec("S"), short), timedelta(seconds=60)) is None


@pytest.mark.parametrize(
    "stored",
    [
        new_config("c", ConsumerSpec("S", "c"), StreamState({}, 0)),
        {"name": "other", "inactive_threshold": 5},
        {"name": "other", "inactive_threshold": 5, "metadata": None},
        {"name": "c", "durable_name": "c", "metadata": {KEPT_UNUSED_KEY: "7"}},
    ],
)
def test_others_are_kept_as_they_are(stored: JsonObject) -> None:
    """Durable consumers, and those of other programs."""
    assert used_config(stored) is None
    assert left_config(stored, timedelta(milliseconds=1)) is None


def test_what_says_nothing_of_its_time() -> None:
    """A number that cannot be read changes nothing."""
    assert used_config({"name": "x", "metadata": {KEPT_UNUSED_KEY: "soon"}}) is None


def test_filters_may_have_so_many_bytes_together() -> None:
    """Lists of consumers have all of them; an existing consumer may keep what it has."""
    filters = tuple(f"s.{number:05}".ljust(125, "x") for number in range(513))
    fitting, long = ConsumerSpec("S", "c", filters[:512]), ConsumerSpec("S", "c", filters)
    stored = new_config("c", fitting, STREAM)
    assert stored["filter_subjects"] == list(filters[:512])
    with pytest.raises(InvalidField, match=r"^subjects: needs 65664 bytes .*, and may have 65536"):
        new_config("c", long, STREAM)
    with pytest.raises(InvalidField):
        changed_config(stored, long)
    longer = stored | {"filter_subjects": list(filters)}
    assert changed_config(longer, long)["filter_subjects"] == list(filters)
    assert changed_config(longer, fitting)["filter_subjects"] == list(filters[:512])
