"""Moves consumers to another event, beside open calls on several servers.

The broker moves a consumer with one request, but it cannot tell an acknowledgement of a delivery before that
from one of the delivery after it. So nothing may be on its way while it does:

1. The consumer is paused for `STILL` seconds: nothing is delivered, and it goes on by itself if this dies.
   Such a pause is told from one that somebody asked for by `_MARK`.
2. All servers have their calls drop what they hold (``_WS.ask.seek``), and say when all that they had sent is
   answered. Those that stay silent for `_TIMEOUT` are not waited for, nor those without a connection to
   NATS; what they do then is in `ConsumeProtocol`: whoever was away looks the consumer up before it sends
   anything. A server that moves the consumer itself, and began earlier, says so, and is waited for.
3. The consumer's metadata gets the number of its next run, and how far the stream of dead letters had come:
   what ended before counts for nothing. Servers are told, and calls go on in that run.
4. The broker moves the consumer. If its run is another one then, begin anew from 2: somebody has moved it at
   the same time, or has written back what it read before (the broker has no compare-and-swap for consumers).
5. The pause is taken back.

Each step can be repeated; after a crash in between, the whole can be.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from time import time_ns
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

from windshift import nats
from windshift.nats import Forbidden, JetStreamError, NatsError, Unavailable, retry
from windshift.nats.jetstream import codes
from windshift.nats.jetstream.api import ConsumerState, JetStream, JsonObject, consumer_state
from windshift.nats.times import NANOSECONDS, parse_rfc3339
from windshift.server.admin.gathering import Gathering
from windshift.server.admin.look import retrieve
from windshift.server.admin.pausing import ConsumerPause, pause_of, require_control
from windshift.server.admin.probing import count_from
from windshift.server.auth.access import require_of
from windshift.server.auth.actions import Consume
from windshift.server.auth.policy import Principal
from windshift.server.domain.broker_errors import broker_errors
from windshift.server.domain.errors import (
    BrokerUnavailable,
    ConsumerNotFound,
    ForbiddenByBroker,
    InvalidField,
    OutcomeUnknown,
    SeekNotPossible,
    WindshiftError,
)
from windshift.server.domain.names import EVERYTHING
from windshift.server.events.consumers import chosen_subjects, name_in_rules
from windshift.server.events.consuming.calls import STILL, Calls
from windshift.server.events.dead_letters.store import DeadLetterStore
from windshift.server.events.model import ConsumerKey
from windshift.server.events.notes import CONSUMER, Notes
from windshift.server.events.positions import rfc3339
from windshift.server.events.runs import Run, with_run
from windshift.server.events.specs import AtEnd, AtId, AtStart, AtTime, StartPosition
from windshift.server.events.token_key import with_key

log = logging.getLogger(__name__)

_TIMEOUT: Final = 2.0
"""Seconds in which servers have to answer."""
_MARK: Final = 590_417
"""The last six digits, in nanoseconds since 1970, of the time until which a move pauses a consumer."""
_MARKED: Final = 10**6
_AGAIN: Final = 0.02
"""Seconds until servers are asked again that have something under way."""
_OLDEST_BROKER: Final = (2, 14)


class Sought(NamedTuple):
    """A consumer was moved, or could be.

    Attributes:
        next_id: no event before this id will be delivered.
        was: every event before this id was settled: moved back to it, the consumer misses none.
        pending: events that it has yet to deliver.
    """

    next_id: int
    was: int
    pending: int


@dataclass
class ConsumerSeek:
    """Moves consumers. Deadlines are in the loop's time."""

    _api: JetStream
    _pauses: ConsumerPause
    _gathering: Gathering
    _dead_letters: DeadLetterStore
    _notes: Notes
    _calls: Calls

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._turns: WeakValueDictionary[ConsumerKey, asyncio.Lock] = WeakValueDictionary()
        self._running: set[asyncio.Task[Sought]] = set()
        self._moving: dict[ConsumerKey, int] = {}  # by the number of the next run
        self._gathering.answer("seek", self._hold_still)

    async def seek(
        self,
        consumer: ConsumerKey,
        to: StartPosition,
        caller: Principal | None,
        deadline: float,
        *,
        dry_run: bool,
    ) -> Sought:
        """Move a consumer to an event, or say what would come of it.

        Once begun it is brought to its end, even if this is cancelled.

        Raises:
            StreamNotFound: there is no such stream.
            ConsumerNotFound: the stream has no such consumer.
            InvalidField: the stream has given no such id yet.
            PermissionDenied: the caller may not move the consumer, or not have what it chooses.
            SeekNotPossible: the broker cannot move it there.
            BrokerUnavailable: the broker does not answer; nothing has happened.
            OutcomeUnknown: it does not answer in the middle of it.
        """
        with broker_errors(stream=consumer.stream, consumer=consumer.name):
            state, now_ns = await self._look(consumer, deadline)
            _require_rights(caller, consumer, state)
            target = await self._target(consumer.stream, to, deadline)
            self._require_possible(consumer, state, target, await self._lowest(consumer, state, deadline))
            if dry_run:
                filters = sorted(chosen_subjects(state.config) - {EVERYTHING})
                pending = await count_from(self._api, consumer.stream, target, filters, deadline)
                return Sought(target, _settled_before(state), pending)
        number = max(now_ns, Run.of(state).number + 1)
        moving = self._loop.create_task(self._in_turn(consumer, target, number))
        self._running.add(moving)
        moving.add_done_callback(self._running.discard)
        moving.add_done_callback(retrieve)
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(moving)
        except TimeoutError:
            raise OutcomeUnknown from None

    # --- Whether it can be --------------------------------------------------------------------------------

    async def _look(self, consumer: ConsumerKey, deadline: float) -> tuple[ConsumerState, int]:
        """Look a consumer up; return what it is, and the broker's time in nanoseconds since 1970."""
        info = await self._api.consumer_info(*consumer, deadline)
        if info is None:
            raise ConsumerNotFound(consumer.name)
        reported = parse_rfc3339(str(info.get("ts") or ""))
        return consumer_state(info), time_ns() if reported is None else reported.unix_ns

    async def _target(self, stream: str, to: StartPosition, deadline: float) -> int:
        state = (await self._api.stream_info(stream, deadline))["state"]
        first, after = max(1, int(state["first_seq"])), int(state["last_seq"]) + 1
        match to:
            case AtStart():
                return first
            case AtEnd():
                return after
            case AtId(stream_seq):
                if stream_seq > after:
                    raise InvalidField("to.offset", f"the next id of stream {stream!r} is {after}")
                return stream_seq
            case AtTime(unix_ns):
                return await self._first_at(stream, rfc3339(unix_ns), deadline) or after

    async def _first_at(self, stream: str, time: str, deadline: float) -> int:
        """Return the id of the first event that was stored at a time or later; 0 when there is none."""
        query = {"start_time": time, "next_by_subj": EVERYTHING}
        found = await self._api.message(stream, query, deadline)
        return 0 if found is None else found.sequence

    async def _lowest(self, consumer: ConsumerKey, state: ConsumerState, deadline: float) -> int:
        """Return the lowest id that the broker moves a consumer to; 0 when it moves it nowhere."""
        match state.config.get("deliver_policy"):
            case "all":
                return 1
            case "by_start_sequence":
                return int(state.config["opt_start_seq"])
            case "by_start_time":
                return await self._first_at(consumer.stream, state.config["opt_start_time"], deadline)
            case _:
                return 0

    def _require_possible(
        self, consumer: ConsumerKey, state: ConsumerState, target: int, lowest: int
    ) -> None:
        connected = self._api.connection.server
        if self._api.is_older_than(_OLDEST_BROKER):
            raise SeekNotPossible(
                f"nats-server {connected[1].version if connected else ''} moves no consumers; upgrade it to "
                "2.14 or newer, or make another consumer with `from`"
            )
        if lowest == 0 and state.config.get("deliver_policy") != "by_start_time":
            raise SeekNotPossible(
                f"the broker does not move consumer {consumer.name!r}: another program made it, to begin at "
                f"{state.config.get('deliver_policy')!r}; make another consumer with `from`"
            )
        if target < lowest:
            raise SeekNotPossible(
                f"the broker moves consumer {consumer.name!r} to no id before {lowest}, where it was made to "
                "begin (from the end, an id or a time); make another consumer with `from`"
            )

    # --- Moving -------------------------------------------------------------------------------------------

    async def _in_turn(self, consumer: ConsumerKey, target: int, number: int) -> Sought:
        deadline = self._loop.time() + STILL
        turn = self._turns.setdefault(consumer, asyncio.Lock())
        try:
            async with asyncio.timeout_at(deadline):
                await turn.acquire()
        except TimeoutError:
            raise BrokerUnavailable from None
        try:
            with broker_errors(stream=consumer.stream, consumer=consumer.name):
                return await self._move(consumer, target, number, deadline)
        finally:
            self._moving.pop(consumer, None)
            turn.release()

    async def _move(self, consumer: ConsumerKey, target: int, number: int, deadline: float) -> Sought:
        before, now_ns = await self._look(consumer, deadline)
        number = max(number, now_ns, Run.of(before).number + 1)
        was_ns = _asked_until(before)
        until_ns = max(was_ns, marked(now_ns + int(STILL * NANOSECONDS)))
        try:
            await self._pauses.set(consumer, until_ns, deadline)
        except OutcomeUnknown:
            await self._end_pause(consumer, until_ns, was_ns)
            raise
        try:
            async with asyncio.timeout_at(deadline):
                run = Run(before.created, number)
                return await self._move_until_it_stands(consumer, target, run, deadline)
        except (Unavailable, BrokerUnavailable, TimeoutError) as error:
            if isinstance(error, (Forbidden, ForbiddenByBroker)):
                raise
            raise OutcomeUnknown from error
        finally:
            await self._end_pause(consumer, until_ns, was_ns)

    async def _move_until_it_stands(
        self, consumer: ConsumerKey, target: int, run: Run, deadline: float
    ) -> Sought:
        """Move a paused consumer, and again if it is not in the new run afterwards."""
        was = 0
        async for _ in retry(deadline):
            self._moving[consumer] = run.number
            sought = await self._move_once(consumer, target, run, deadline)
            was = was or sought.was
            state, _ = await self._look(consumer, deadline)
            present = Run.of(state)
            if present.number == run.number or state.created != run.created:
                return sought._replace(was=was)
            log.info(
                "a consumer is moved again: somebody else has changed it meanwhile",
                extra={"stream": consumer.stream, "consumer": consumer.name},
            )
            run = run._replace(number=max(run.number, present.number) + 1)
        raise Unavailable

    async def _move_once(self, consumer: ConsumerKey, target: int, run: Run, deadline: float) -> Sought:
        await self._have_all_hold_still(consumer, run)
        position = await self._dead_letters.last_position(deadline)
        state = await self._begin(consumer, run._replace(position=position), deadline)
        self._notes.send(CONSUMER, *consumer)
        answer = await self._reset(consumer, target, deadline)
        return Sought(target, _settled_before(state), int(answer["num_pending"]))

    async def _begin(self, consumer: ConsumerKey, run: Run, deadline: float) -> ConsumerState:
        """Write down which run a consumer is in, and return the consumer.

        What is not answered is not sent again as it was: by then somebody may have changed the consumer.
        """
        async for _ in retry(deadline):
            state, _ = await self._look(consumer, deadline)
            if Run.of(state) == run:  # written by an attempt that was not answered
                return state
            config = with_key(with_run(state.config, run))  # nobody goes on with deliveries of before
            try:
                await self._api.update_consumer(*consumer, config, deadline)
            except Forbidden:
                raise
            except (Unavailable, nats.OutcomeUnknown):
                continue
            return state
        raise Unavailable

    async def _reset(self, consumer: ConsumerKey, target: int, deadline: float) -> JsonObject:
        operation = f"CONSUMER.RESET.{consumer.stream}.{consumer.name}"
        try:
            return await self._api.change(operation, {"seq": target}, deadline)
        except JetStreamError as error:
            if error.err_code != codes.CONSUMER_INVALID_RESET:
                raise
            raise SeekNotPossible(
                f"the broker does not move consumer {consumer.name!r} to id {target}; make another consumer "
                "with `from`"
            ) from error

    async def _end_pause(self, consumer: ConsumerKey, until_ns: int, was_ns: int) -> None:
        """Take the pause back, unless somebody has paused or resumed the consumer meanwhile.

        If that fails it ends by itself.
        """
        deadline = self._loop.time() + STILL
        try:
            state, now_ns = await self._look(consumer, deadline)
            if _paused_until(state) == until_ns:
                await self._pauses.set(consumer, was_ns if was_ns > now_ns else None, deadline)
        except (NatsError, WindshiftError) as error:
            log.debug("the pause of a move is not taken back: %s", type(error).__name__)

    # --- All servers --------------------------------------------------------------------------------------

    async def _have_all_hold_still(self, consumer: ConsumerKey, run: Run) -> None:
        """Have all calls drop what they hold, and wait until nothing is under way."""
        question = {
            "stream": consumer.stream,
            "consumer": consumer.name,
            "created": run.created,
            "run": run.number,
        }
        give_up = self._loop.time() + _TIMEOUT
        while True:
            gathered = await self._gathering.ask("seek", question)
            busy = [server for server, reported in gathered.entries.items() if any(map(_is_busy, reported))]
            silent = set(gathered.missing)
            if silent:  # one that was killed has nothing under way
                silent -= await self._gathering.gone(silent)
            if not busy and not silent:
                return
            if self._loop.time() >= give_up:
                break
            await asyncio.sleep(_AGAIN)
        log.warning(
            "a consumer is moved though not all servers have confirmed that they hold none of its events",
            extra={
                "stream": consumer.stream,
                "consumer": consumer.name,
                "silent": sorted(silent),
                "busy": busy,
            },
        )

    def _hold_still(self, question: JsonObject) -> Iterator[JsonObject]:
        """Have the calls of this server do so."""
        *names_, created, number = (question.get(key) for key in ("stream", "consumer", "created", "run"))
        stream, consumer = names_
        if all(isinstance(each, str) for each in (stream, consumer, created)) and isinstance(number, int):
            key = ConsumerKey(str(stream), str(consumer))
            is_earlier = self._moving.get(key, number) < number
            yield {"busy": self._calls.hold_still(key, Run(str(created), number)) + is_earlier}


def _is_busy(reported: JsonObject) -> bool:
    return reported.get("busy") != 0


def _require_rights(caller: Principal | None, consumer: ConsumerKey, state: ConsumerState) -> None:
    """Raise `PermissionDenied` unless the caller may move a consumer, and have all that it chooses."""
    if caller is None:
        return
    require_control(caller, consumer, state)
    name = name_in_rules(caller, consumer.name, state.config)
    for subject in sorted(chosen_subjects(state.config)):
        require_of(caller, Consume(consumer.stream, subject, name))


def _settled_before(state: ConsumerState) -> int:
    """Return the id before which all events are settled."""
    return 1 + (state.settled_to if state.unsettled else max(state.settled_to, state.delivered_to))


def _paused_until(state: ConsumerState) -> int:
    """Return until when a consumer is paused, in nanoseconds since 1970; 0 = it is not."""
    until = pause_of(state)
    return 0 if until is None else until.unix_ns


def _asked_until(state: ConsumerState) -> int:
    """Return the same for a pause that somebody asked for; what is left of another move's is none."""
    until_ns = _paused_until(state)
    return 0 if until_ns % _MARKED == _MARK else until_ns


def marked(until_ns: int) -> int:
    """Return about the same time, as one until which a move pauses."""
    return until_ns // _MARKED * _MARKED + _MARK
