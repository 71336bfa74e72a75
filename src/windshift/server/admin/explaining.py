"""Says how an event stands at each consumer of its stream, and why it is not delivered where it is not.

The broker tells how far a consumer has come, and not how single events stand between its two positions
(``ack_floor`` and ``delivered``). Which call holds one, and why its last attempt failed, the servers say,
each of them what it knows (``_WS.ask.event``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from time import time_ns
from typing import Final, NamedTuple

from windshift.nats.jetstream.api import ConsumerState, JetStream, JsonObject, StoredMessage, consumer_state
from windshift.nats.times import Time, parse_rfc3339
from windshift.server.admin.gathering import Gathering, read_fields
from windshift.server.admin.look import Look
from windshift.server.admin.subscriptions import Holder, Subscriptions, SubscriptionView
from windshift.server.admin.views import consumer_details
from windshift.server.auth.subjects import SubjectPatterns
from windshift.server.background.batches import for_each
from windshift.server.domain.broker_errors import broker_errors
from windshift.server.domain.errors import ConsumerNotFound
from windshift.server.events.consumers import chosen_subjects
from windshift.server.events.consuming.shared import Shared
from windshift.server.events.dead_letters.model import DeadLetter, DeadLetterFilter, DeadLetterId
from windshift.server.events.model import ConsumerKey, StreamSeq
from windshift.server.events.runs import Run

MOST_CONSUMERS: Final = 100
"""Consumers of which one answer tells."""
_AT_ONCE: Final = 32
_LETTERS: Final = 500


class Presence(Enum):
    """Whether a stream has an event."""

    HELD = "held"
    REMOVED = "removed"
    NOT_YET = "not yet"


class Removal(Enum):
    """What may have removed an event."""

    BY_HAND = "by hand"
    MAX_AGE = "max_age"
    MAX_EVENTS = "max_events"
    MAX_BYTES = "max_bytes"
    MAX_EVENTS_PER_SUBJECT = "max_events_per_subject"
    SETTLED = "settled"


class Standing(Enum):
    """How an event stands at a consumer."""

    FILTERED_OUT = "filtered out"
    BEFORE_START = "before start"
    PENDING = "pending"
    HELD = "held"
    WAITING = "waiting"
    DELIVERED = "delivered"
    SETTLED = "settled"
    DEAD_LETTER = "dead letter"
    REPLAYING = "replaying"
    REMOVED = "removed"


class Hindrance(Enum):
    """What keeps a consumer from delivering."""

    PAUSED = "paused"
    NO_SUBSCRIBER = "no subscriber"
    WINDOWS_FULL = "windows full"
    TOO_MANY_UNSETTLED = "too many unsettled"


class Failed(NamedTuple):
    """What a server knows of the last failed attempt: which it was, when the next one is due, and why."""

    attempt: int = 0
    next_ns: int = 0
    reason: str = ""


class Facts(NamedTuple):
    """What is known of an event at a consumer.

    Attributes:
        paused_until: None = it is not paused.
        holders: the calls that hold the event.
        failed: the last failed attempt; None = none is known.
        letter: its dead letter, of the present run of the consumer.
        is_replaying: whether that is to be replayed.
        calls: those that consume from the consumer.
    """

    state: ConsumerState
    paused_until: Time | None = None
    holders: tuple[Holder, ...] = ()
    failed: Failed | None = None
    letter: DeadLetter | None = None
    is_replaying: bool = False
    calls: tuple[SubscriptionView, ...] = ()


class AtConsumer(NamedTuple):
    """How an event stands at a consumer.

    Attributes:
        hindrances: what is in the way of a delivery, where one is to come.
        facts: what that was told by.
    """

    name: str
    standing: Standing
    hindrances: tuple[Hindrance, ...]
    facts: Facts

    @property
    def attempts(self) -> int:
        """Attempts so far, as far as is known."""
        holders, failed, letter = self.facts.holders, self.facts.failed, self.facts.letter
        known = [each.attempt for each in holders]
        known.append(0 if failed is None else failed.attempt)
        known.append(0 if letter is None else letter.failure.attempts)
        return max(known)

    @property
    def moved_ns(self) -> int:
        """When the consumer was moved last, in nanoseconds since 1970; 0 = never."""
        return Run.of(self.facts.state).number


class Explanation(NamedTuple):
    """How an event stands.

    Attributes:
        message: the event; None = the stream does not have it.
        removals: what may have removed it.
        first_id: of the first event held; without events the next id that will be given.
        last_id: the last id ever given; 0 = none.
        left_out: consumers that are too many.
        missing: ids of servers that did not answer.
    """

    presence: Presence
    message: StoredMessage | None
    removals: tuple[Removal, ...]
    first_id: int
    last_id: int
    consumers: tuple[AtConsumer, ...] = ()
    left_out: int = 0
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EventExplainer:
    """Explains events."""

    _api: JetStream
    _look: Look
    _gathering: Gathering
    _subscriptions: Subscriptions
    _shared: Shared

    def __post_init__(self) -> None:
        self._gathering.answer("event", self._own)

    async def explain(self, stream: str, seq: StreamSeq, consumer: str, deadline: float) -> Explanation:
        """Say how an event stands at one consumer, or at each when `consumer` is empty.

        Raise `StreamNotFound`, `ConsumerNotFound` or `BrokerUnavailable`; `deadline` is the loop's time.
        """
        with broker_errors(stream=stream):
            info = await self._api.stream_info(stream, deadline)
            message = await self._api.message(stream, {"seq": seq}, deadline)
        state = info["state"]
        first, last = max(1, int(state["first_seq"])), int(state["last_seq"])
        if message is None and seq > last:
            return Explanation(Presence.NOT_YET, None, (), first, last)
        rows = [] if consumer else await self._look.rows_of(stream, deadline)
        names = [consumer] if consumer else sorted(row.key.name for row in rows)
        asked = names[:MOST_CONSUMERS]
        stored_ns = 0 if message is None else message.unix_ns
        infos = await self._infos(stream, asked, deadline)
        if consumer and not infos:
            raise ConsumerNotFound(consumer)
        facts, missing = await self._facts(stream, seq, consumer, stored_ns, infos, deadline)
        return Explanation(
            Presence.REMOVED if message is None else Presence.HELD,
            message,
            removals(info["config"], is_oldest=seq < first) if message is None else (),
            first,
            last,
            tuple(
                AtConsumer(name, *standing_of(seq, message, each, time_ns()), each)
                for name, each in facts.items()
            ),
            len(names) - len(asked),
            missing,
        )

    async def _facts(
        self,
        stream: str,
        seq: StreamSeq,
        consumer: str,
        stored_ns: int,
        infos: Mapping[str, JsonObject],
        deadline: float,
    ) -> tuple[dict[str, Facts], tuple[str, ...]]:
        """Return what is known of an event at each consumer, and the ids of servers that did not answer."""
        runs = [Run.of(consumer_state(info)).name for info in infos.values()]
        question = {"stream": stream, "id": seq, "at": stored_ns, "of": list(infos), "runs": runs}
        (calls, silent), gathered, letters = await asyncio.gather(
            self._subscriptions.all(stream, consumer),
            self._gathering.ask("event", question),
            self._letters(stream, seq, consumer, stored_ns, deadline),
        )
        replaying = await self._shared.replays.outstanding_among(
            [each.id for each in letters.values()], deadline
        )
        reports = [(server, each) for server, entries in gathered.entries.items() for each in entries]
        facts: dict[str, Facts] = {}
        for name, info in infos.items():
            own_calls = tuple(call for call in calls if call.consumer == name)
            facts[name] = _facts(info, letters.get(name), replaying, reports, own_calls)
        return facts, tuple(sorted({*silent, *gathered.missing}))

    async def _infos(self, stream: str, names: Sequence[str], deadline: float) -> dict[str, JsonObject]:
        """Look consumers up, but those that were deleted meanwhile."""
        with broker_errors(stream=stream):
            infos = await for_each(
                names, lambda name: self._api.consumer_info(stream, name, deadline), at_once=_AT_ONCE
            )
        return {name: info for name, info in zip(names, infos, strict=True) if info is not None}

    async def _letters(
        self, stream: str, seq: StreamSeq, consumer: str, stored_ns: int, deadline: float
    ) -> dict[str, DeadLetter]:
        """Return the event's dead letters by consumer. Any replica answers: the latest may be missing."""
        which = DeadLetterFilter(stream, consumer, event_ids=frozenset({seq}))
        page = await self._shared.store.page(which, 0, _LETTERS, deadline)
        return {
            each.id.consumer: each
            for each in page.dead_letters
            if stored_ns
            in (0, each.id.stored_ns)  # an event of a stream that was deleted may have had this id
        }

    def _own(self, question: JsonObject) -> Iterator[JsonObject]:
        stream, seq, stored_ns, names, runs = (
            question.get(key) for key in ("stream", "id", "at", "of", "runs")
        )
        if not (isinstance(stream, str) and isinstance(seq, int) and isinstance(names, list)):
            return
        for holder in self._subscriptions.holders(stream, StreamSeq(seq)):
            yield holder._asdict()
        for name, run in zip(names, runs if isinstance(runs, list) else (), strict=False):
            known = self._shared.attempts.get(
                (ConsumerKey(stream, str(name)), str(run)), (StreamSeq(seq), int(stored_ns or 0))
            )
            if known is not None and known.attempt:
                yield {"consumer": name, **Failed(known.attempt, known.next_ns, known.reason)._asdict()}


def known_holders(reports: Sequence[tuple[str, JsonObject]], name: str) -> Iterator[Holder]:
    """Yield the calls that hold the event, of what servers say."""
    for server, entry in reports:
        if entry.get("consumer") == name and "until_ns" in entry:
            yield Holder(**read_fields(entry, Holder._field_defaults))._replace(server=server)


def known_failure(reports: Sequence[tuple[str, JsonObject]], name: str) -> Failed | None:
    """Return the latest failed attempt that a server knows of."""
    known = [
        Failed(**read_fields(entry, Failed._field_defaults))
        for _, entry in reports
        if entry.get("consumer") == name and "next_ns" in entry
    ]
    return max(known, default=None)


def _facts(
    info: JsonObject,
    letter: DeadLetter | None,
    replaying: Container[DeadLetterId],
    reports: Sequence[tuple[str, JsonObject]],
    calls: tuple[SubscriptionView, ...],
) -> Facts:
    """Say what is known of the event at one consumer. A letter of an earlier run of that is not about it."""
    state, name = consumer_state(info), info["name"]
    if letter is not None and not Run.of(state).has(letter.position, letter.time):
        letter = None
    return Facts(
        state,
        consumer_details(info).paused_until,
        tuple(known_holders(reports, name)),
        known_failure(reports, name),
        letter,
        letter is not None and letter.id in replaying,
        calls,
    )


# --- Judging ----------------------------------------------------------------------------------------------


def standing_of(  # noqa: PLR0911 - each return is a standing, the most certain ones first
    seq: StreamSeq, message: StoredMessage | None, facts: Facts, now_ns: int
) -> tuple[Standing, tuple[Hindrance, ...]]:
    """Say how an event stands at a consumer, and what is in the way of a delivery that is to come.

    Without a message the stream does not hold it any more. `now_ns` is in nanoseconds since 1970.
    """
    state = facts.state
    if facts.holders:
        return Standing.HELD, ()
    if facts.letter is not None:
        return (Standing.REPLAYING, _hindrances(facts)) if facts.is_replaying else (Standing.DEAD_LETTER, ())
    if message is not None and not SubjectPatterns(chosen_subjects(state.config)).takes(message.subject):
        return Standing.FILTERED_OUT, ()
    if _begins_behind(state.config, seq, message):
        return Standing.BEFORE_START, ()
    if seq <= state.settled_to:
        return Standing.SETTLED, ()
    if message is None:
        return Standing.REMOVED if seq > state.delivered_to else Standing.DELIVERED, ()
    hindrances = _hindrances(facts)
    if seq > state.delivered_to:
        return Standing.PENDING, hindrances
    if facts.failed is not None and (facts.failed.next_ns > now_ns or hindrances):
        return Standing.WAITING, hindrances
    return Standing.DELIVERED, hindrances


def _begins_behind(config: JsonObject, seq: StreamSeq, message: StoredMessage | None) -> bool:
    """Whether a consumer was made to begin behind an event, as far as is known of one that is gone.

    A move never takes it before that place.
    """
    match config.get("deliver_policy"):
        case "by_start_sequence":
            return seq < int(config["opt_start_seq"])
        case "by_start_time":
            start = parse_rfc3339(config["opt_start_time"])
            return start is not None and message is not None and message.unix_ns < start.unix_ns
        case _:
            return False


def _hindrances(facts: Facts) -> tuple[Hindrance, ...]:
    found, state, calls = [], facts.state, facts.calls
    if facts.paused_until is not None:
        found.append(Hindrance.PAUSED)
    if not calls:
        found.append(Hindrance.NO_SUBSCRIBER)
    elif all(call.unsettled >= call.size for call in calls):
        found.append(Hindrance.WINDOWS_FULL)
    if 0 < int(state.config.get("max_ack_pending") or 0) <= state.unsettled:
        found.append(Hindrance.TOO_MANY_UNSETTLED)
    return tuple(found)


def removals(config: JsonObject, *, is_oldest: bool) -> tuple[Removal, ...]:
    """Say what may have removed an event from a stream.

    `is_oldest`: all events before it are gone too. Limits on all of a stream take the oldest first.
    """
    limits = {key for key in _LIMITS if int(config.get(key) or 0) > 0}
    if not is_oldest:
        limits -= {"max_age", "max_msgs", "max_bytes"}
    if config.get("discard", "old") != "old":
        limits -= {"max_msgs", "max_bytes"}
    if config.get("discard_new_per_subject"):
        limits -= {"max_msgs_per_subject"}
    settled = () if config.get("retention", "limits") == "limits" else (Removal.SETTLED,)
    return Removal.BY_HAND, *(_LIMITS[key] for key in _LIMITS if key in limits), *settled


_LIMITS: Final = {
    "max_age": Removal.MAX_AGE,
    "max_msgs": Removal.MAX_EVENTS,
    "max_bytes": Removal.MAX_BYTES,
    "max_msgs_per_subject": Removal.MAX_EVENTS_PER_SUBJECT,
}
