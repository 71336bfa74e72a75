"""Places for connections, and what is remembered of addresses, by a clock that is set by hand."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from windshift.rpc.admission import (
    BURST,
    FAILING_CALL,
    AdmissionOptions,
    ConnectionLimiter,
    NoPlace,
    Slot,
    includes,
)


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        """Return seconds."""
        return self.now


def make(clock: Clock | None = None, **options: Any) -> ConnectionLimiter:
    """Make places with other options than usual."""
    return ConnectionLimiter(AdmissionOptions(**options), clock or Clock())


def refusal(limiter: ConnectionLimiter, address: str) -> str:
    """Return why an address gets no place."""
    before = limiter.refused.copy()
    with pytest.raises(NoPlace):
        limiter.take(address)
    (reason,) = limiter.refused - before
    return reason


def test_places_are_taken_and_left() -> None:
    """There are as many as were asked for, and a place that is left twice is left once."""
    places = make(places=2)
    first, _ = places.take("192.0.2.1"), places.take("192.0.2.2")
    assert refusal(places, "192.0.2.3") == "places"
    places.release(first)
    places.release(first)
    places.take("192.0.2.3")
    assert refusal(places, "192.0.2.4") == "places"
    assert +places.refused == {"places": 2}


@pytest.mark.parametrize(
    ("first", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("::1", "::1", True),
        ("no address", "no address", True),
        (":", ":", True),
    ],
)
def test_an_address_has_places_of_its_own(first: str, other: str, same: bool) -> None:
    """An IPv4 address counts whole, an IPv6 address by its /64; what is nobody's is forgotten."""
    places = make(per_address=1)
    place = places.take(first)
    if same:
        assert refusal(places, other) == "address"
    else:
        places.release(places.take(other))
    places.release(place)
    places.release(places.take(first))
    places.forget()
    assert places._addresses == {}


def test_addresses_that_are_not_limited() -> None:
    """Neither in how many connections they have, nor by a wait; a proxy has no budget either."""
    networks: dict[str, Any] = {
        "unlimited": (ip_network("192.0.2.0/24"),),
        "proxies": (ip_network("2001:db8::/32"),),
    }
    places = make(per_address=1, failing_calls=1, **networks)
    slots = [places.take("192.0.2.1") for _ in range(3)]
    address = slots[0].address
    assert address is slots[1].address
    assert address is not None
    assert not address.spend(FAILING_CALL * BURST + 1, 100.0)
    places.flooded(slots[0])
    places.take("192.0.2.1")
    assert [places.take("2001:db8::1").address for _ in range(3)] == [None] * 3


def test_known_callers_find_a_place() -> None:
    """Whoever comes takes the place of the oldest on whose connection nobody has authenticated."""
    places, gone = make(places=4, anonymous_places=3), []

    def enter(name: str) -> Slot:
        slot = places.take("192.0.2.1")
        slot.drop = lambda: gone.append(name)
        return slot

    known = enter("known")
    places.authenticated(known)
    for name in "abc":
        enter(name)
    assert gone == []
    later = enter("d")
    assert gone == ["a"]
    places.authenticated(later)
    enter("e")
    assert gone == ["a", "b"]
    for _ in range(2):
        places.authenticated(enter("f"))
    assert gone == ["a", "b", "c", "e"]
    assert refusal(places, "192.0.2.1") == "places"
    assert places.taken == 4
    places.release(known)
    enter("g")
    assert +places.refused == {"anonymous": 4, "places": 1}


def test_useless_work_is_limited_by_address() -> None:
    """A new connection does not begin anew, and time gives back what was spent."""
    clock = Clock()
    places = make(clock, failing_calls=10)
    first = places.take("192.0.2.1").address
    assert first is not None
    for _ in range(10 * BURST):
        assert first.spend(FAILING_CALL, clock.now)
    assert not first.spend(1, clock.now)
    second = places.take("192.0.2.1").address
    assert second is first
    clock.now += 1.0
    for _ in range(9):
        assert first.spend(FAILING_CALL, clock.now)
    assert not first.spend(FAILING_CALL, clock.now)


def test_without_a_limit_nothing_is_too_much() -> None:
    """Where it is switched off."""
    address = make(failing_calls=0).take("192.0.2.1").address
    assert address is not None
    assert address.spend(10**9, 100.0)


def test_an_address_that_comes_again_waits_longer() -> None:
    """Twice as long each time, up to a limit; after ten minutes it is forgotten."""
    clock = Clock()
    places = make(clock, longest_wait=3.0)
    waits = []
    for _ in range(5):
        slot = places.take("192.0.2.1")
        places.flooded(slot)
        places.flooded(slot)  # two connections that end together count once
        places.release(slot)
        began = clock.now
        while True:
            try:
                places.release(places.take("192.0.2.1"))
                break
            except NoPlace:
                clock.now += 0.25
        waits.append(clock.now - began)
    assert waits == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert +places.refused == {"useless": 10, "waiting": 38}
    places.release(places.take("192.0.2.2"))
    places.forget()
    assert len(places._addresses) == 1
    clock.now += 601.0
    places.forget()
    assert places._addresses == {}


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of addresses without connections; those with one are kept."""
    monkeypatch.setattr("windshift.rpc.admission._MOST_REMEMBERED", 5)
    places = make()
    stays = places.take("198.51.100.1")
    for number in range(20):
        slot = places.take(f"192.0.2.{number}")
        places.flooded(slot)
        places.release(slot)
    places.forget()
    assert len(places._addresses) == 6
    assert stays.address in places._addresses.values()


def test_a_connection_that_its_proxy_tells_of_moves() -> None:
    """It counts for the client's address, and for its proxy's no more."""
    places = make(per_address=1, proxies=(ip_network("192.0.2.1"),))
    first, second = places.take("192.0.2.1"), places.take("192.0.2.1")
    places.move(first, "198.51.100.1")
    assert first.address is not None
    with pytest.raises(NoPlace):
        places.move(second, "198.51.100.1")
    places.release(second)
    places.release(first)
    assert places.taken == 0


def test_networks() -> None:
    """What is written as one kind of address and means another is found."""
    networks = (ip_network("127.0.0.0/8"), ip_network("fe80::/10"))
    assert includes(networks, "127.0.0.9")
    assert includes(networks, "::ffff:127.0.0.9")
    assert includes(networks, "fe80::1%eth0")
    assert not includes(networks, "192.0.2.1")
    assert not includes(networks, "no address")
    assert not includes((), "127.0.0.1")
