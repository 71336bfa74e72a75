"""Several processes' readings as one."""

from __future__ import annotations

import math

from windshift.server.telemetry import instruments as i
from windshift.server.telemetry.merging import lasting, merged
from windshift.server.telemetry.registry import Distribution, Family, Readings, Value


def reading(**values: Value) -> Readings:
    """Make readings without labels, by the names of instruments."""
    return [Family(getattr(i, name), [((), value)]) for name, value in values.items()]


def read(readings: Readings) -> dict[str, Value]:
    """Return the values of readings without labels."""
    return {family.instrument.name: value for family in readings for _, value in family.points}


def test_counts_are_added_up() -> None:
    """Counters, numbers of what there is, and histograms."""
    one = reading(PUBLISHED=3, SUBSCRIPTIONS=1, LOOP_LAG=Distribution((1, 0, 2), 0.5))
    two = reading(PUBLISHED=4, SUBSCRIPTIONS=2, LOOP_LAG=Distribution((1, 1, 0), 0.25))
    assert read(merged([one, two, []])) == {
        i.PUBLISHED.name: 7,
        i.SUBSCRIPTIONS.name: 3,
        i.LOOP_LAG.name: Distribution((2, 1, 2), 0.75),
    }


def test_gauges_are_of_all() -> None:
    """The largest reading counts, but where the smallest is the alarming one."""
    one = reading(STREAM_MESSAGES=3, NATS_CONNECTED=1, CERTIFICATE_EXPIRY=math.inf, RELOAD_FAILING=0)
    two = reading(STREAM_MESSAGES=2, NATS_CONNECTED=0, CERTIFICATE_EXPIRY=5, RELOAD_FAILING=1)
    assert read(merged([one, two])) == {
        i.STREAM_MESSAGES.name: 3,
        i.NATS_CONNECTED.name: 0,
        i.CERTIFICATE_EXPIRY.name: 5,
        i.RELOAD_FAILING.name: 1,
    }


def test_a_loss_of_nats_is_one() -> None:
    """However many processes reconnect."""
    readings = [reading(NATS_RECONNECTS=each) for each in (2, 3, 2)]
    assert read(merged(readings)) == {i.NATS_RECONNECTS.name: 3}


def test_labels_are_kept_apart_and_the_order_is_that_of_the_table() -> None:
    """What only one of them has is there too."""
    one = [Family(i.SETTLED, [(("ack",), 1)]), Family(i.ACTIVE_CALLS, [(("a",), 1)])]
    two = [Family(i.SETTLED, [(("ack",), 2), (("ping",), 5)])]
    assert merged([two, one]) == [
        Family(i.ACTIVE_CALLS, [(("a",), 1)]),
        Family(i.SETTLED, [(("ack",), 3), (("ping",), 5)]),
    ]


def test_what_has_ended_keeps_its_counts() -> None:
    """Not what it had at the end."""
    one = reading(PUBLISHED=3, SUBSCRIPTIONS=1, STREAM_MESSAGES=9, LOOP_LAG=Distribution((1,), 0.5))
    assert read(lasting(one)) == {i.PUBLISHED.name: 3, i.LOOP_LAG.name: Distribution((1,), 0.5)}
