"""What must hold of every history. Each check is a pure function that returns what it found to be wrong."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.faults.history import (
    Access,
    Delivery,
    Failure,
    Fault,
    Outcome,
    Publish,
    ReplayCall,
    Settlement,
    Stored,
    Told,
)
from tests.faults.linearizable import linearizable
from windshift.server.api.errors import CODES

CROSSING = 0.1
"""Seconds after a confirmation in which a delivery on another call may have been under way already.

Time in which something was frozen, stalled or slowed down does not count: nothing moves then. Nor does time
in which the clients themselves were busy.
"""

_STANDING_STILL = {"freeze", "stall", "delay", "lag"}

FORGOTTEN = 1.0
"""Seconds of the last confirmations that a nats-server without replicas may forget when it is killed.

It writes down what was acknowledged every tenth of a second, and later on a busy machine: more than 0.5 s
were seen. For so long, at least, a server remembers them (`redelivery.GENERATION`).
"""

LOCAL_CODES = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"}
"""Codes that a client's own library gives, without an ErrorInfo, when the connection or the time is gone."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not happen."""

    check: str
    text: str


def lost(publishes: Iterable[Publish], stored: Mapping[int, Stored]) -> Iterator[Violation]:
    """Find acknowledged publishes that are not in the stream, or not under the id that was told."""
    places = {event.value: event.id for event in stored.values()}
    for publish in publishes:
        if publish.outcome is not Outcome.DONE:
            continue
        place = places.get(publish.value)
        if place is None:
            yield Violation("lost", f"{publish.value} was acknowledged as {publish.id} and is not there")
        elif (
            publish.id not in (0, place)
            and stored.get(publish.id, Stored(0, "", "", "")).value != publish.value
        ):
            yield Violation("wrong id", f"{publish.value} was acknowledged as {publish.id} and is {place}")


def stored_twice(stored: Sequence[Stored]) -> Iterator[Violation]:
    """Find events that are in the stream twice, by their key or by their text."""
    for what, names in (
        ("key", [event.key for event in stored if event.key]),
        ("value", [event.value for event in stored]),
    ):
        for name, count in Counter(names).items():
            if count > 1:
                yield Violation("stored twice", f"{what} {name} is there {count} times")


def ghosts(publishes: Iterable[Publish], stored: Iterable[Stored]) -> Iterator[Violation]:
    """Find events whose publish was refused for certain, and events that nobody published."""
    there = {event.value for event in stored}
    known = set()
    for publish in publishes:
        known.add(publish.value)
        if publish.outcome is Outcome.NOT_DONE and publish.value in there:
            last = publish.failures[-1] if publish.failures else None
            yield Violation("ghost", f"{publish.value} was refused with {last} and is there")
    for value in there - known:
        yield Violation("ghost", f"{value} is there and nobody published it")


def conditions_kept(publishes: Iterable[Publish]) -> Iterator[Violation]:
    """Find conditional publishes that are not the very next event after the expected one."""
    for publish in publishes:
        if publish.outcome is Outcome.DONE and publish.expected not in (None, publish.id - 1):
            yield Violation(
                "condition", f"{publish.value} expected {publish.expected} and became {publish.id}"
            )


def one_id_per_key(publishes: Iterable[Publish]) -> Iterator[Violation]:
    """Find keys whose publishes were answered with more than one id."""
    ids: dict[tuple[str, str], set[int]] = defaultdict(set)
    for publish in publishes:
        if publish.key and publish.outcome is Outcome.DONE:
            ids[publish.stream, publish.key].add(publish.id)
    for (_, key), answers in ids.items():
        if len(answers) > 1:
            yield Violation("one id per key", f"{key} was answered with {sorted(answers)}")


@dataclass(frozen=True, slots=True)
class Redeliveries:
    """Deliveries of what had been settled for good.

    Attributes:
        violations: those that must not be.
        crossed: those that were under way, on another call, when the confirmation was.
        forgotten: those that a killed nats-server without replicas may have forgotten, and that came from a
            server process other than the one that confirmed: see `docs/reliability.md`.
    """

    violations: list[Violation]
    crossed: int
    forgotten: int


def redelivered(
    deliveries: Iterable[Delivery], settlements: Iterable[Settlement], faults: Sequence[Fault] = ()
) -> Redeliveries:
    """Find deliveries of what was acknowledged, or rejected for good, and confirmed."""
    final: dict[tuple[str, int], Settlement] = {}
    for settlement in settlements:
        if settlement.kind in ("ack", "drop") and settlement.told is Told.CONFIRMED:
            final.setdefault((settlement.consumer, settlement.id), settlement)
    kills = [fault for fault in faults if fault.kind == "kill" and fault.target.startswith("nats")]
    still = [fault for fault in faults if fault.kind in _STANDING_STILL]
    frozen = [fault for fault in still if fault.kind == "freeze" and fault.target.startswith("nats")]
    violations, crossed, forgotten = [], 0, 0
    for delivery in deliveries:
        settled = final.get((delivery.consumer, delivery.id))
        if settled is None or delivery.at <= settled.end:
            continue
        if delivery.server != settled.server and any(_forgets(kill, settled, frozen) for kill in kills):
            forgotten += 1
        elif delivery.session != settled.session and _moving(still, settled.end, delivery.at) <= CROSSING:
            crossed += 1
        else:
            text = (
                f"{delivery.consumer}: {delivery.id} was confirmed ({settled.kind}) on {settled.session} by "
                f"{settled.server} at {settled.end:.3f} and came again on {delivery.session} from "
                f"{delivery.server} at {delivery.at:.3f}, attempt {delivery.attempt}"
            )
            violations.append(Violation("redelivered", text))
    return Redeliveries(violations, crossed, forgotten)


def _moving(still: Sequence[Fault], start: float, end: float) -> float:
    """Return the seconds between two times in which nothing stood still."""
    moving, reached = 0.0, start
    for fault in sorted(still, key=lambda each: each.start):
        if fault.end > reached and fault.start < end:
            moving += max(0.0, fault.start - reached)
            reached = fault.end
    return moving + max(0.0, end - reached)


def _forgets(kill: Fault, settled: Settlement, frozen: Sequence[Fault]) -> bool:
    """Tell whether a kill came before nats-server had written it down. Frozen, it writes nothing."""
    return settled.start <= kill.end and _moving(frozen, settled.end, kill.start) <= FORGOTTEN


def skipped(
    expected: Iterable[int], deliveries: Iterable[Delivery], settlements: Iterable[Settlement]
) -> Iterator[Violation]:
    """Find events that were never delivered or, though all work is done, never settled.

    What was asked for and not confirmed may have come about all the same: a killed server could not tell.
    """
    delivered = {delivery.id for delivery in deliveries}
    settled = {
        each.id for each in settlements if each.told is not Told.INVALID and each.kind in ("ack", "drop")
    }
    for id_ in expected:
        if id_ not in delivered:
            yield Violation("skipped", f"{id_} was never delivered")
        elif id_ not in settled:
            yield Violation("not settled", f"{id_} was delivered and never settled")


def unfaithful(deliveries: Iterable[Delivery], stored: Mapping[int, Stored]) -> Iterator[Violation]:
    """Find deliveries that have not the text that the event of their id has in the stream."""
    for delivery in deliveries:
        event = stored.get(delivery.id)
        if event is None or event.value != delivery.value:
            yield Violation("unfaithful", f"{delivery.id} came as {delivery.value} and is {event}")


class Order:
    """Finds events that a consumer's single subscriber saw first out of the order of ids, or after a hole.

    Args:
        killed: whether the broker is killed meanwhile. What it had counted as delivered, and had not sent,
            comes again later, as another attempt: only that may come late then.
    """

    def __init__(self, *, killed: bool = False) -> None:
        self._newest = 0
        self._late: set[int] = set()
        self._killed = killed

    def see(self, delivery: Delivery) -> Iterator[Violation]:
        """Look at the next delivery."""
        is_late = delivery.id in self._late
        if delivery.id <= self._newest and not is_late:
            return
        is_first_and_late = is_late and delivery.attempt == 1
        if is_first_and_late if self._killed else delivery.id != self._newest + 1:
            yield Violation("order", f"{delivery.consumer}: {delivery.id} came after {self._newest}")
        self._late.update(range(self._newest + 1, delivery.id))
        self._late.discard(delivery.id)
        self._newest = max(delivery.id, self._newest)


def attempts_wrong(deliveries: Iterable[Delivery]) -> Iterator[Violation]:
    """Find deliveries that were not counted 1, 2, 3 and so on. A broker that is killed may forget some."""
    counted: Counter[tuple[str, int]] = Counter()
    for delivery in sorted(deliveries, key=lambda each: each.at):
        what = (delivery.consumer, delivery.id)
        counted[what] += 1
        if delivery.attempt != counted[what]:
            yield Violation("attempts", f"{what}: delivery {counted[what]} said attempt {delivery.attempt}")


def not_linearizable(accesses: Iterable[Access]) -> Iterator[Violation]:
    """Find keys without an order of all calls that explains all answers."""
    keys: dict[str, list[Access]] = defaultdict(list)
    for access in accesses:
        keys[access.key].append(access)
    for key, calls in keys.items():
        if not linearizable(calls):
            yield Violation("linearizable", f"no order explains the {len(calls)} calls on {key}")


def undocumented(failures: Iterable[Failure]) -> Iterator[Violation]:
    """Find failures without a documented code and reason that a client's own library has not made."""
    for failure in failures:
        code = CODES.get(failure.reason)
        if code is not None and code.name == failure.code:
            continue
        if not failure.reason and failure.code in LOCAL_CODES:
            continue
        if failure.method == "Get" and failure.code == failure.reason == "DEADLINE_EXCEEDED":
            continue  # only of a write the outcome can be unknown
        yield Violation("undocumented", str(failure))


def wrongly_ended(
    events: Iterable[int], settlements: Iterable[Settlement], dead: Iterable[int]
) -> Iterator[Violation]:
    """Find events that ended neither acknowledged or dropped nor as one dead letter, or as both.

    Those that were rejected for good (``bury``), and whose reject was confirmed, have to be dead letters.
    """
    letters = Counter(dead)
    acks: dict[int, set[Told]] = defaultdict(set)
    for settlement in settlements:
        if settlement.kind in ("ack", "drop"):
            acks[settlement.id].add(settlement.told)
        elif settlement.kind == "bury" and settlement.told is Told.CONFIRMED and not letters[settlement.id]:
            yield Violation("last attempt", f"{settlement.id} was rejected for good and is no dead letter")
    for id_ in events:
        confirmed = Told.CONFIRMED in acks[id_]
        perhaps = bool(acks[id_] & {Told.UNANSWERED, Told.FAILED})
        match letters[id_]:
            case 0 if not confirmed and not perhaps:
                yield Violation("last attempt", f"{id_} ended neither acknowledged nor as a dead letter")
            case 1 if confirmed:
                yield Violation("last attempt", f"{id_} was acknowledged and is a dead letter as well")
            case int(count) if count > 1:
                yield Violation("last attempt", f"{id_} is {count} dead letters")


def wrongly_cancelled(
    calls: Iterable[ReplayCall], deliveries: Iterable[Delivery], dead: Iterable[int]
) -> Iterator[Violation]:
    """Find events that were delivered though their replay was cancelled, until the next one began.

    When no replay is outstanding any more, the events of those that were cancelled last are still dead
    letters, and those that were said to be delivering then are none.
    """
    letters, by_id = set(dead), defaultdict(list)
    for call in calls:
        by_id[call.id].append(call)
    times: dict[int, list[float]] = defaultdict(list)
    for delivery in deliveries:
        times[delivery.id].append(delivery.at)
    for id_, made in by_id.items():
        for call, after in itertools.zip_longest(made, made[1:]):
            if call.told == "cancelled":
                until = math.inf if after is None else after.start
                if late := [at for at in times[id_] if call.end < at < until]:
                    yield Violation("cancelled", f"{id_} was cancelled at {call.end:.3f} and came at {late}")
        if made[-1].told == "cancelled" and id_ not in letters:
            yield Violation("cancelled", f"{id_} was cancelled and is no dead letter any more")
        if made[-1].told == "delivering" and id_ in letters:
            yield Violation("cancelled", f"{id_} was being delivered and is still a dead letter")


def waits_after_kills(
    deliveries: Sequence[Delivery], settlements: Iterable[Settlement], faults: Iterable[Fault]
) -> list[float]:
    """Return how long events took to come again, in seconds, that clients of a killed server held."""
    settled = {
        (each.session, each.id) for each in settlements if each.kind != "ping" and each.told is Told.CONFIRMED
    }
    times: dict[tuple[str, int], list[float]] = defaultdict(list)
    for delivery in deliveries:
        times[delivery.consumer, delivery.id].append(delivery.at)
    kills = {fault.target: fault.start for fault in faults if fault.kind == "kill"}
    waits = []
    for delivery in deliveries:
        kill = kills.get(delivery.server)
        if kill is not None and (delivery.session, delivery.id) not in settled:
            later = [at for at in times[delivery.consumer, delivery.id] if at > max(kill, delivery.at)]
            waits += [min(later) - kill] if later else []
    return waits


def longest_gap(times: Iterable[float], start: float, end: float) -> float:
    """Return the longest time in seconds without any of these, between `start` and `end`."""
    inside = [start, *sorted(each for each in times if start <= each <= end), end]
    return max((later - before for before, later in itertools.pairwise(inside)), default=0.0)


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile, `share` from 0 to 1."""
    return sorted(values)[min(len(values) - 1, math.floor(len(values) * share))] if values else 0.0
