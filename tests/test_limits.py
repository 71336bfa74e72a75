"""What docs/limits.md says of limits is what the code has."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from windshift.nats import budget
from windshift.nats.jetstream.writes import WriteOptions
from windshift.rpc import (
    ConnectionOptions,
    ServerOptions,
    StatusCode,
    admission,
    health,
    holding,
    message_stream,
    turns,
)
from windshift.rpc.connection import SEND_QUEUE_MARK, engine_configuration
from windshift.server.admin import consumers as consumer_lists
from windshift.server.api import consume, dead_letters, deadlines, policies, sizes, state, streams
from windshift.server.api import turns as api_turns
from windshift.server.api.errors import CODES
from windshift.server.auth import quotas
from windshift.server.auth.policy import QUOTAS_IN_BYTES, Quotas
from windshift.server.background import pacing
from windshift.server.broker import room
from windshift.server.config.settings import Setting
from windshift.server.config.tree import SETTINGS, LimitsConfig
from windshift.server.domain import names
from windshift.server.events import consumers
from windshift.server.events.consuming import commands
from windshift.server.events.consuming.interfaces import ConsumeOptions
from windshift.server.events.consuming.state import CLAIMED_FOR
from windshift.server.events.dead_letters import admin, model, replay_queue, store
from windshift.server.events.streams import LONGEST_CHOICE
from windshift.server.process import app, health_http, memory, open_files
from windshift.server.state import transactions

ROOT: Final = Path(__file__).resolve().parent.parent
TEXT: Final = (ROOT / "docs" / "limits.md").read_text()
OURS: Final = re.sub(
    r"^## The broker\n.*?(?=^## )|<!-- results: begin -->.*", "", TEXT, flags=re.MULTILINE | re.DOTALL
)
"""What it says of the limits that are not the broker's, without what was measured under attack."""
ROWS: Final = {
    cells[0]: cells[1:]
    for cells in (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in re.findall(r"^\| (?!what \|).*\|$", OURS, re.MULTILINE)
    )
}


HOUR: Final = timedelta(hours=1)


def seconds(value: timedelta | float) -> str:
    """Write a time as the tables do."""
    return f"{value.total_seconds() if isinstance(value, timedelta) else value:,.0f} s"


def days(value: timedelta | int) -> str:
    """Write a long time, or one in nanoseconds, as the tables do."""
    hours = (value if isinstance(value, timedelta) else timedelta(microseconds=value // 1000)) // HOUR
    return "1 hour" if hours == 1 else f"{hours // 24} days"


def size(value: int) -> str:
    """Write bytes as the tables do."""
    if value >= 1 << 30:
        return f"{value >> 30} GiB"
    return f"{value >> 20} MiB" if value >= 1 << 20 else f"{value >> 10} KiB"


def amount(*values: int) -> str:
    """Write numbers as the tables do."""
    return ", ".join(f"{value:,}" for value in values)


LIMITS: Final = LimitsConfig()
CONNECTION: Final = ConnectionOptions()
SERVER: Final = ServerOptions()
ENGINE: Final = engine_configuration(CONNECTION)

VALUES: Final = {
    "reading anything while its socket is full": seconds(CONNECTION.stall_timeout),
    "closing its side after the server closed its own": seconds(CONNECTION.close_timeout),
    "bytes under way on one stream": size(CONNECTION.stream_window),
    "bytes under way on all streams": size(CONNECTION.whole_window),
    "one header block": size(CONNECTION.max_header_list_size),
    "fields in it": amount(ENGINE.max_inbound_header_count),
    "CONTINUATION frames of it": amount(ENGINE.max_continuations),
    "calls cancelled, in a burst and per second": amount(*ENGINE.stream_reset_rate_limit),
    "PING and SETTINGS whose answers it does not read": amount(ENGINE.max_outbound_ack),
    "invalid frames, in a burst and per second": amount(*ENGINE.glitch_rate_limit),
    "the request of a call with a single request": seconds(SERVER.request_timeout),
    "the first message of `Consume`": seconds(ConsumeOptions().subscribe_timeout),
    "a call without a deadline": seconds(deadlines.DEFAULT),
    "the longest deadline": seconds(deadlines.LONGEST),
    "closing its side after the status was sent": seconds(SERVER.discard_timeout),
    "a message with a payload": size(SERVER.max_message_size),
    "any other message": size(policies.LARGEST_REQUEST),
    "a message about dead letters": size(policies.LARGEST_OF_DEAD_LETTERS),
    "several events": size(policies.LARGEST_OF_EVENTS),
    "bytes of a message with payloads that are in fields of less than 32 bytes": size(sizes.IN_SHORT),
    "events in one request": amount(policies.MOST_EVENTS),
    "a probe (`grpc.health.v1`)": size(policies.LARGEST_OF_HEALTH),
    "unread bytes of events on one stream": size(SEND_QUEUE_MARK),
    "messages of a stream that are taken at once": (
        f"{size(message_stream.ENOUGH)}, inflated, or one that is larger; {message_stream.MANY:,}"
    ),
    "subjects, keys, names of streams and consumers": f"{names.MAX_LENGTH} characters",
    "names of stores": f"{names.MAX_STORE_NAME} characters",
    "idempotency keys": f"{names.MAX_IDEMPOTENCY_KEY} characters",
    "names of types": f"{names.MAX_TYPE_NAME:,} characters",
    "an event with its headers; a value": "the broker's `max_payload`",
    "time after which one value expires (`ttl`)": f"{state.LONGEST_TTL.days:,} days",
    "ids in one `ack`, `reject` or `ping`": amount(commands.MOST_IDS),
    "events that a consume call holds at once": amount(commands.MOST_PROCESSING_EVENTS),
    "events in one response (`max_batch`)": (
        f"{commands.MOST_IN_BATCH:,}, and {consume.MOST_BATCH_BYTES >> 20} MiB"
    ),
    "bytes of one response (`max_message_size`)": (
        f"any; at least {commands.SMALLEST_MESSAGE >> 10} KiB where it is set"
    ),
    "tokens in a subscription (`resume`)": f"{commands.MOST_RESUMED:,}, and `max_processing_events`",
    "time that a client's deliveries are kept when its call breaks (`linger`)": (
        f"{commands.LONGEST_LINGER.total_seconds():.0f} s"
    ),
    "subjects, filters or sources in one request": amount(streams.MOST_IN_A_LIST),
    "subjects and filters of one stream or consumer in JetStream's lists, where sources stand twice": (
        f"{size(LONGEST_CHOICE)}, or what it has already"
    ),
    "keys of a transaction, with those that are checked": amount(transactions.MOST_KEYS),
    "a transaction": size(policies.LARGEST_OF_TRANSACTIONS),
    "the reason of a reject": f"{commands.LONGEST_REASON:,} characters",
    "the error type of a reject": f"{commands.LONGEST_ERROR_TYPE} characters",
    "claims of the ends of events": (
        f"{CLAIMED_FOR // timedelta(minutes=1)} minutes and the consumer's timeout"
    ),
    "ids of dead letters in one request": amount(dead_letters.MOST_IDS),
    "dead letters on one page": amount(dead_letters._LARGEST_PAGE),
    "error types, or subjects, in a filter of dead letters; event ids": (
        f"{dead_letters._MOST_VALUES}; {dead_letters.MOST_IDS:,}"
    ),
    "text in a filter of dead letters": f"{dead_letters._LONGEST_TEXT} characters",
    "groups in a summary of dead letters": amount(dead_letters._LARGEST_SUMMARY),
    "dead letters that a summary looks at; groups that it counts": (
        f"{admin._MOST_SUMMARIZED:,}; {model._MOST_GROUPS:,}"
    ),
    "replays per second": amount(dead_letters._FASTEST),
    "replays of one request": amount(dead_letters._LARGEST_LIMIT),
    "waiting publishes": amount(WriteOptions().max_waiting),
    "bytes of answers to reads in flight, of all clients; of one principal": (
        f"{size(budget.ASKING)}; half of that, or one answer where the last had {size(budget.LARGE)} or "
        f"more, and then with {size(budget.RATE)} a second while somebody is about who uses little"
    ),
    "lists, `ReadEvents`, `ExplainEvent`, `History`, `GetHistory` and reads of one dead letter, at once, of "
    "one principal": amount(api_turns.LISTS_AT_ONCE),
    "filters of a consumer whose oldest unsettled event is looked for (`oldest_unsettled`)": amount(
        consumer_lists._MOST_FILTERS
    ),
    "consumers that are compared by it (`ORDER_OLDEST`)": amount(consumer_lists._MOST_AGES),
    "waiting reads of one principal": amount(budget.MOST_WAITING),
    "bytes of deliveries that are requested, or came for a tail or a watch whose client does not read, "
    "of all clients": size(room.MOST),
    "the same of tails": {4: "a quarter of that"}[app._TAILS_PART],
    "time of a turn of the event loop that lists, reads, tails and watches get, together with other calls of "
    "who used much lately": (
        f"{pacing.SLICE * 1000:g} ms, or {pacing.SHORT_SLICE * 1000:g} ms while somebody is about who uses "
        "little; a quarter of it, where that is more, and twice as much at most; then nothing for "
        f"{pacing.REST * 1000:g} ms while he is"
    ),
    "bytes of deliveries above 80 KiB each, of all clients; of one principal": (
        f"{size(room.WHOLE)}; half of that"
    ),
    "a consumer with a name that nobody subscribes to": days(consumers.KEPT_UNUSED),
    "one that never had a subscriber, or whose server died": days(consumers.EPHEMERAL_KEPT_UNUSED),
    "dead letters": days(store._CONFIG["max_age"]),
    "bytes of dead letters of all its consumers per day, once more than half of "
    "`WINDSHIFT_DEAD_LETTERS_MAX_MB` is used": {30: "a thirtieth of what is left"}[quotas.PARTS],
    "replays that wait for a subscriber": days(replay_queue._CONFIG["max_age"]),
    **{
        f"{quotas.PHRASES[name]} (`quotas.{name}`)": (
            "no limit" if limit is None else size(limit) if name in QUOTAS_IN_BYTES else amount(limit)
        )
        for name, limit in asdict(Quotas()).items()
    },
}


SET: Final = {row: cells[1].strip("`") for row, cells in ROWS.items() if cells[1]}
"""Rows with a variable, and its name."""


def test_every_row_is_verified() -> None:
    """Each row of the tables has a variable or a value here, and the other way round."""
    assert sorted(ROWS) == sorted([*SET, *VALUES])


@pytest.mark.parametrize("row", VALUES)
def test_a_value_is_the_codes(row: str) -> None:
    """What a table says of a fixed limit is what the code has."""
    assert ROWS[row][0] == VALUES[row]


@pytest.mark.parametrize("row", SET)
def test_a_value_is_the_default(row: str) -> None:
    """What a table says of a limit that can be set is what holds when no variable is set."""
    assert ROWS[row][0] == shown(SETTINGS[SET[row]])


def shown(setting: Setting[Any]) -> str:
    """Write a default as the tables do."""
    if setting.default is None:
        return setting.otherwise
    value = setting.parser.parse(setting.default)
    if not value:
        return "no limit"
    return seconds(value) if isinstance(value, timedelta) else amount(value)


def test_every_limit_that_can_be_set_has_its_row() -> None:
    """The variables of limits are in the tables, and nothing else is."""
    limits = re.compile(
        r"GRPC_(MAX|KEEPALIVE|HANDSHAKE|ANONYMOUS)_\w+|NATS_PUBLISH_ASYNC_MAX_PENDING|WINDSHIFT_(EPHEMERAL_KEPT|DEAD_LETTERS_MAX_MB)"
    )
    assert set(SET.values()) == set(filter(limits.fullmatch, SETTINGS))


def test_every_error_about_a_limit_is_told() -> None:
    """Each reason of RESOURCE_EXHAUSTED stands there."""
    reasons = {reason for reason, code in CODES.items() if code is StatusCode.RESOURCE_EXHAUSTED}
    assert {reason for reason in reasons if f"`{reason}`" not in TEXT} == set()


def test_the_text_beside_the_tables() -> None:
    """Numbers that are no rows."""
    assert f"keeps {open_files._RESERVED} for itself" in TEXT
    assert f"accepts {health_http._CONNECTIONS} connections at once" in TEXT
    assert CONNECTION.whole_window == 2 * CONNECTION.max_concurrent_streams * CONNECTION.stream_window
    assert ENGINE.max_inbound_header_list_size == 2 * CONNECTION.max_header_list_size
    assert memory._SHARE == 4
    assert f"is closed after {health_http._REQUESTS}" in TEXT
    assert SERVER.admission.places == LIMITS.max_connections
    assert SERVER.admission.failing_calls == LIMITS.max_failing_calls
    assert SERVER.admission.longest_wait == LIMITS.longest_wait.total_seconds()
    assert (admission.BURST, admission.FAILING_CALL, admission.CANCELLED_CALL) == (5, 16, 8)
    assert (admission.INVALID_CALL, admission.USELESS_FRAME) == (4, 1)
    assert (turns.SLICE, turns.STRANGERS_SHARE, turns.STRANGERS_BURST) == (0.0005, 0.2, 0.5)
    assert (turns.LONG_SLICE, turns.FEW, turns.LITTLE) == (0.002, 2 * 32, 1 / 20)
    assert (holding.STALE, holding._FOR_REQUESTS, holding._ROOM_FOR_SMALL) == (10, 0.4, 32_000_000)
    assert f"a connection may have {health.MOST_WATCHES}" in TEXT
    assert SERVER.first_request_timeout == LIMITS.handshake_timeout.total_seconds()
    assert (
        ConnectionOptions(
            max_concurrent_streams=LIMITS.max_concurrent_streams,
            keepalive_interval=LIMITS.keepalive_interval.total_seconds(),
            keepalive_timeout=LIMITS.keepalive_timeout.total_seconds(),
            handshake_timeout=LIMITS.handshake_timeout.total_seconds(),
        )
        == CONNECTION
    )
