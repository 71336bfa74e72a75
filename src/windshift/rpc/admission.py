"""Which connections get a place, and which addresses have to wait.

Places are counted from the moment that a connection is accepted, before its TLS handshake. What useless work
connections make is counted for their address, so that a new connection does not begin anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Network = IPv4Network | IPv6Network

LOOPBACK: Final = (ip_network("127.0.0.0/8"), ip_network("::1"))
"""The addresses of this machine."""

FAILING_CALL, CANCELLED_CALL, INVALID_CALL, USELESS_FRAME = 16, 8, 4, 1
"""What useless work costs, in units: a unit is about 3 µs."""

BURST: Final = 5
"""Seconds whose units an address may use at once."""

_FIRST_WAIT: Final = 0.5
"""Seconds that an address waits after its first connection that was ended; twice as long each time."""

_FORGET_AFTER: Final = 600.0
"""Seconds after its wait, when an address counts as new."""

_MOST_REMEMBERED: Final = 10_000
"""Addresses without connections that are remembered."""

_IPV6_NETWORK: Final = 8
"""Bytes of an IPv6 address that count: whoever has one address has the whole /64."""


REASONS: Final = (
    "places",
    "address",
    "waiting",
    "anonymous",
    "unauthenticated",
    "useless",
    "held",
    "handshake",
    "stalled",
    "silent",
)
"""Why connections are refused or ended."""


class NoPlace(Exception):
    """A connection has to go. The text says why, for the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionOptions:
    """Limits for connections and addresses.

    An address is an IPv4 address or a /64 network of IPv6.

    Attributes:
        places: connections at once.
        anonymous_places: connections at once on which nobody has authenticated; when there is one more, the
            oldest of them has to go. None = all are alike.
        per_address: connections at once from one address; 0 = as many as in all.
        failing_calls: calls in a second from one address that fail before they do anything: no such method,
            nobody authenticated. Other useless work counts as a part of one: a cancelled call a half, an
            invalid or forbidden one a quarter, a frame that carries nothing a sixteenth. 0 = any number.
        longest_wait: seconds for which an address gets no connection, at most, after its connections were
            ended for useless work. 0 = it need not wait.
        unlimited: addresses without a limit of connections, and which never wait.
        proxies: the same for addresses that many clients share; what these do is not counted for the
            address either.
    """

    places: int = 10_000
    anonymous_places: int | None = None
    per_address: int = 0
    failing_calls: int = 1000
    longest_wait: float = 60.0
    unlimited: tuple[Network, ...] = ()
    proxies: tuple[Network, ...] = ()


@dataclass(slots=True)
class Address:
    """What is known of one address.

    Attributes:
        rate: units of useless work that it may make in each second; 0 = any number.
        limited: whether it may have no more connections than the limit, and has to wait.
        connections: that it has now.
        barred_until: the time until which it gets none.
    """

    rate: int
    limited: bool
    connections: int = 0
    barred_until: float = 0.0
    _strikes: int = 0
    _spent: float = 0.0  # units, less those that time has made good since
    _spent_at: float = 0.0

    def spend(self, units: int, now: float) -> bool:
        """Take note of useless work; False = it was too much."""
        if not self.rate:
            return True
        self._spent = max(0.0, self._spent - (now - self._spent_at) * self.rate) + units
        self._spent_at = now
        return self._spent <= self.rate * BURST

    def strike(self, now: float, longest: float) -> None:
        """Take note of a connection that was ended; the address waits twice as long as the last time."""
        if now >= self.barred_until:  # several connections that end together count once
            self.barred_until = now + min(_FIRST_WAIT * 2**self._strikes, longest)
            self._strikes = min(self._strikes + 1, 32)

    def forgettable(self, now: float) -> bool:
        """Tell whether a new address would be treated just so."""
        rested = self._spent <= (now - self._spent_at) * self.rate
        return (
            not self.connections and rested and (not self._strikes or now > self.barred_until + _FORGET_AFTER)
        )


@dataclass(slots=True, eq=False)
class Slot:
    """The place of one connection.

    Attributes:
        address: of whose useless work it counts as; None = a proxy.
        drop: ends the connection that has it.
        released: whether another connection may have it.
    """

    address: Address | None = None
    drop: Callable[[], object] = lambda: None  # there is none yet
    released: bool = False


class ConnectionLimiter:
    """Gives connections their places.

    Attributes:
        refused: how many connections got none, or lost theirs, by reason.
        taken: places in use.
    """

    def __init__(self, options: AdmissionOptions, clock: Callable[[], float]) -> None:
        self._options = options
        self._clock = clock
        self._addresses: dict[bytes | str, Address] = {}
        self._anonymous: dict[Slot, None] = {}  # the oldest first
        self.refused = Counter(dict.fromkeys(REASONS, 0))
        self.taken = 0

    def take(self, address: str) -> Slot:
        """Return the place of a new connection.

        Raises:
            NoPlace: there is none for this address.
        """
        options = self._options
        slot = Slot()
        limit = options.anonymous_places
        full = self.taken >= options.places or (limit is not None and len(self._anonymous) >= limit)
        self._settle(slot, address)
        if full:
            oldest = next(iter(self._anonymous), None)
            if oldest is None:
                self._leave(slot)
                raise self._refuse("places", "too many connections are open")
            self.refused["anonymous"] += 1
            oldest.drop()
            self.release(oldest)
        self.taken += 1
        if limit is not None:
            self._anonymous[slot] = None
        return slot

    def move(self, slot: Slot, address: str) -> None:
        """Have the connection count for the address that its proxy told.

        Raises:
            NoPlace: as for ``take``.
        """
        self._leave(slot)
        self._settle(slot, address)

    def _settle(self, slot: Slot, address: str) -> None:
        options = self._options
        if options.proxies and includes(options.proxies, address):
            return
        parsed, now = _parsed(address), self._clock()
        key = address if parsed is None else parsed.packed[:_IPV6_NETWORK]
        found = self._addresses.get(key)
        if found is None:
            limited = not includes(options.unlimited, address)
            found = self._addresses[key] = Address(options.failing_calls * FAILING_CALL, limited)
        if found.limited:
            if now < found.barred_until:
                raise self._refuse("waiting", "its address has to wait, for connections that only made work")
            if options.per_address and found.connections >= options.per_address:
                raise self._refuse("address", "too many connections of its address are open")
        found.connections += 1
        slot.address = found

    def _refuse(self, reason: str, text: str) -> NoPlace:
        self.refused[reason] += 1
        return NoPlace(text)

    @staticmethod
    def _leave(slot: Slot) -> None:
        if slot.address is not None:
            slot.address.connections -= 1
            slot.address = None

    def flooded(self, slot: Slot) -> None:
        """Note that a connection was ended because it made useless work."""
        self.refused["useless"] += 1
        if slot.address is not None and slot.address.limited:
            slot.address.strike(self._clock(), self._options.longest_wait)

    def authenticated(self, slot: Slot) -> None:
        """Count a connection among those that are known: it takes none of the anonymous places any more."""
        self._anonymous.pop(slot, None)

    def release(self, slot: Slot) -> None:
        """Make room for another connection; once is enough."""
        if not slot.released:
            slot.released = True
            self.taken -= 1
            self._anonymous.pop(slot, None)
            self._leave(slot)

    def forget(self) -> None:
        """Forget addresses of which there is nothing to remember; to be called about once a second."""
        now = self._clock()
        gone = [key for key, each in self._addresses.items() if each.forgettable(now)]
        for key in gone:
            del self._addresses[key]
        idle = len(self._addresses) - self.taken - _MOST_REMEMBERED
        if idle > 0:
            for key in [key for key, each in self._addresses.items() if not each.connections][:idle]:
                del self._addresses[key]


def includes(networks: Sequence[Network], address: str) -> bool:
    """Tell whether an address is in one of the networks."""
    if not networks:
        return False
    found = _parsed(address)
    return found is not None and any(found in network for network in networks)


@lru_cache(maxsize=1024)
def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    """Read an address; None for what is none. An IPv4 one that is written as IPv6 is an IPv4 one."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
