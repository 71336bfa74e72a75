"""Whether the broker has JetStream for this server's user, without which nothing can be stored or read.

One small request tells, at each connect and then once in a while: what every user of docs/nats.md may ask.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from windshift.nats import NoReply, Requests
from windshift.nats.errors import JetStreamError, NotConnected
from windshift.nats.jetstream import codes
from windshift.nats.jetstream.api import API_PREFIX, JetStream, read_answer
from windshift.nats.requests import Outcome

log = logging.getLogger(__name__)

_SUBJECT: Final = f"{API_PREFIX}STREAM.NAMES"
_BODY: Final = b'{"subject":"_WS.available"}'
"""A subject of no stream: the answer is short however many streams there are."""
_TIMEOUT: Final = 2.0
"""Seconds that an answer may take. A cluster without a leader gives none; it has JetStream all the same."""
_SOON: Final = 1.0
"""Seconds between two requests while something is missing."""
_RARELY: Final = 60.0
"""Seconds between two requests while all is well."""

_NO_SERVER: Final = (
    "the NATS server has no JetStream: start it with -js, or with jetstream {} in its configuration; "
    "if it has that, its log says why JetStream is off"
)
_NO_ACCOUNT: Final = (
    "the account of this NATS user has no JetStream: enable it for the account, or take a user of another "
    "one; the system account never has it"
)
_NO_PERMISSION: Final = (
    f"this NATS user may not publish to {_SUBJECT}: give it the permissions of docs/nats.md"
)


class Availability:
    """Knows what is missing. Must be created in a running event loop.

    Attributes:
        missing: what is missing, and what to do about it, for operators; empty = nothing, as far as is known.
        since: when `missing` last changed, in loop time.
        on_change: called when it has changed.

    While there is no JetStream, `api` fails at once.
    """

    def __init__(self, requests: Requests, api: JetStream) -> None:
        self._requests = requests
        self._api = api
        self._connected = asyncio.Event()
        self._answered = False
        self.missing = ""
        self.since = requests.loop.time()
        self.on_change: list[Callable[[], None]] = []
        requests.connection.on_connected.append(self._connected.set)
        requests.connection.on_replaced.append(self._connected.set)

    async def look(self) -> None:
        """Ask once. Without an answer all stays as it was."""
        self._connected.clear()
        until = self._requests.loop.time() + _TIMEOUT
        try:
            outcome = await self._requests.request(_SUBJECT.encode(), _BODY, b"", until)
        except NotConnected:
            return
        missing = _missing(outcome)
        self._answered = missing is not None
        if missing is None or missing == self.missing:
            return
        self.missing, self.since = missing, self._requests.loop.time()
        self._api.is_absent = missing == _NO_SERVER
        if missing:
            log.error("not ready: %s", missing)
        else:
            log.info("NATS has JetStream for this user now")
        for hook in self.on_change:
            hook()

    async def watch(self) -> None:
        """Ask at each connect, and once in a while."""
        while True:
            pause = _RARELY if self._answered and not self.missing else _SOON
            try:
                async with asyncio.timeout(pause):
                    await self._connected.wait()
            except TimeoutError:
                pass
            await self.look()


def _missing(outcome: Outcome) -> str | None:
    """Return what an answer says is missing; None = it says nothing about that."""
    if isinstance(outcome, NoReply):
        return {NoReply.NO_RESPONDERS: _NO_SERVER, NoReply.FORBIDDEN: _NO_PERMISSION}.get(outcome)
    try:
        read_answer(outcome)
    except JetStreamError as error:
        if error.err_code == codes.JETSTREAM_NOT_ENABLED:
            return _NO_SERVER
        return _NO_ACCOUNT if error.err_code in codes.NOT_ENABLED else ""
    except ValueError:
        return None
    return ""
