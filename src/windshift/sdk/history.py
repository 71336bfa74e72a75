"""The last hour of streams and consumers in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple, get_args

from windshift.protos import admin

from .calling import Caller
from .retry import Repeat
from .times import moment, timestamp

Kind = Literal["rate", "events", "bytes", "lag", "in_flight", "dead_letters"]

_KINDS: Final[dict[int, Kind]] = {
    admin.GetHistoryResponse.Kind.Value(f"KIND_{kind.upper()}"): kind for kind in get_args(Kind)
}


class Series(NamedTuple):
    """What one number was, step by step.

    Attributes:
        name: the stream's name, or the stream's and the consumer's with a slash between.
        kind: of a stream `rate` (events stored per second), `events` and `bytes`; of a consumer `lag`,
            `in_flight` and `dead_letters`.
        start: when the first step begins.
        step: how long a step is: 10 seconds, or a multiple of that.
        values: a value for each step: of a rate the mean, of others the last; NaN = nobody looked.
    """

    name: str
    kind: Kind
    start: datetime
    step: timedelta
    values: tuple[float, ...]


class History(NamedTuple):
    """What servers remember.

    Attributes:
        series: none of what nothing is remembered.
        missing: ids of servers that did not answer in time.
    """

    series: tuple[Series, ...]
    missing: tuple[str, ...]


async def history(
    caller: Caller, streams: Sequence[str], consumers: Sequence[str], since: datetime | None, points: int
) -> History:
    """Ask for the history; see `Client.history`."""
    names = caller.names
    request = admin.GetHistoryRequest(
        streams=map(names.name, streams),
        consumers=map(names.name, consumers),
        since=None if since is None else timestamp(since),
        points=points,
    )
    response = await caller.call(request, admin.GetHistoryResponse, Repeat.READ)
    series = tuple(
        Series(
            names.bare_name(each.name),
            _KINDS[each.kind],
            moment(each.start),
            each.step.ToTimedelta(),
            tuple(each.values),
        )
        for each in response.series
        if each.kind in _KINDS  # others are of a later version
    )
    return History(series, tuple(response.missing))
