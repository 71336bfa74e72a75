"""The connection to NATS: one wire at a time. When it ends, another is opened, with all subscriptions on it.

Whoever has a request under way is told at once when a wire ends (`on_lost`); nothing is sent later. A server
in lame-duck mode is left before it stops: the next wire is up before the old one ends, and requests under way
still get their replies (`on_replaced`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from windshift.nats.errors import ConnectFailed, MessageTooLarge, NotConnected, Unavailable
from windshift.nats.options import ConnectionOptions, ServerAddress
from windshift.nats.protocol import (
    HPUB_FRAME,
    ErrorKind,
    ServerError,
    ServerInfo,
    publish_frame,
    publish_parts,
)
from windshift.nats.retry import Backoff, retry
from windshift.nats.wire import Receive, ReceiveRun, Wire

log = logging.getLogger(__name__)

Hook: TypeAlias = Callable[[], None]

_LARGE = 64 * 1024
"""Bytes of a body that is not copied to be sent."""


class Violations:
    """Reports permissions violations to whoever would otherwise wait in vain. Hooks must not block or raise.

    The server reports one with ``-ERR`` and keeps the connection: it drops the message, or does not
    subscribe. It names the subject, but not which of several messages it was.

    Attributes:
        on_any: called, in order, with every violation; its kind says whether it concerns publishing or
            subscribing.
        on_publish: called, in order, with the subject of each dropped message.
    """

    def __init__(self) -> None:
        self.on_any: list[Callable[[ServerError], None]] = []
        self.on_publish: list[Callable[[bytes], None]] = []
        self._hooks: dict[bytes, dict[object, Hook]] = {}

    def report(self, violation: ServerError) -> None:
        """Call the hooks that this violation concerns."""
        for hook in self.on_any:
            hook(violation)
        if violation.kind is ErrorKind.PUBLISH_FORBIDDEN:
            for on_publish in self.on_publish:
                on_publish(violation.subject)
            for watcher in list(self._hooks.get(violation.subject, {}).values()):
                watcher()

    def watch(self, subject: bytes, hook: Hook) -> Hook:
        """Call `hook` when a message to this subject is dropped; the result stops that."""
        key = object()
        self._hooks.setdefault(subject, {})[key] = hook
        return partial(self._stop, subject, key)  # smaller than a function: there are many

    def _stop(self, subject: bytes, key: object) -> None:
        hooks = self._hooks.get(subject)
        if hooks is not None and hooks.pop(key, None) is not None and not hooks:
            del self._hooks[subject]


@dataclass(slots=True, eq=False)
class Subscription:
    """Interest in a subject.

    Attributes:
        subject: may have wildcards.
        is_vital: whether a connection without this subscription is useless.
    """

    _connection: Connection
    sid: int
    subject: bytes
    receive: Receive
    receive_run: ReceiveRun | None = None
    is_vital: bool = False
    _wires: list[Wire] = field(default_factory=list)  # more than one while moving to another server

    def attach(self, wire: Wire) -> None:
        """Subscribe on this wire too; forget those that have ended."""
        self._wires = [*(each for each in self._wires if each.open), wire]
        wire.subscribe(self.sid, self.subject, self.receive, self.receive_run)

    def unsubscribe(self) -> None:
        """Unsubscribe at once."""
        self._connection.forget(self)
        for wire in self._wires:
            wire.unsubscribe(self.sid)

    def passed(self) -> asyncio.Future[None]:
        """Return a future that is done when all that is on its way now was received, or never will be."""
        return self._wires[-1].ping()

    async def drain(self, timeout: float) -> None:
        """Unsubscribe, and return when messages under way have been received.

        Args:
            timeout: seconds after which this returns anyway.
        """
        self._connection.forget(self)
        received = [wire.drain(self.sid) for wire in self._wires]
        try:
            if received:
                await asyncio.wait(received, timeout=timeout)
        finally:
            for wire in self._wires:
                wire.forget(self.sid)


class Connection:
    """A connection to one of several NATS servers, kept up until `close`.

    Attributes:
        on_lost: called, in order, when the connection is lost. Hooks must not block or raise.
        on_connected: called, in order, when the connection is up with all subscriptions.
        on_replaced: called, in order, when another wire has replaced one that still works. Subscriptions of
            the old one (`subscribe_once`) have `linger` to move.
        linger: seconds for which a wire that was replaced still receives.
        violations: reports what the server forbids.
        since: when `connected` last changed, in loop time.
        last_error: why the last connection ended or failed, without secrets; empty while all is well.
        max_payload: the most bytes, headers included, that the server accepts in one message.
        reconnects: how often the wire was replaced.
        is_hurried: tells whether what is to be sent is to leave early, though it costs less to send it with
            what comes next; to be set.
        is_shared: tells whether others are about who should not wait for long: what came is handled in short
            pieces, though longer ones cost less; to be set.
    """

    def __init__(self, options: ConnectionOptions) -> None:
        self._options = options
        self._servers = deque(options.servers)
        self._wire: Wire | None = None
        self._used_since = 0.0  # when the current wire, or the last one, came into use
        self._subscriptions: dict[int, Subscription] = {}
        self._last_sid = 0
        self._supervision: asyncio.Task[None] | None = None
        self._logged: set[str] = set()  # reasons logged since the last connection
        self._barred = ""  # why the current wire, or the one being opened, is useless
        self._look = asyncio.Event()
        self._up = asyncio.Event()
        self._closed = asyncio.Event()
        self._leaving = False
        self._warned: Wire | None = None  # not in use yet when its server said that it is about to stop
        self._left: set[asyncio.Task[None]] = set()
        self.on_lost: list[Hook] = []
        self.on_connected: list[Hook] = []
        self.on_replaced: list[Hook] = []
        self.linger = options.linger.total_seconds()
        self.violations = Violations()
        self.since = 0.0
        self.last_error = ""
        self.max_payload = 1024 * 1024
        self.reconnects = 0
        self.is_hurried: Callable[[], bool] = lambda: False
        self.is_shared: Callable[[], bool] = lambda: False

    # --- Using it -----------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether messages can be sent now."""
        return self._wire is not None

    @property
    def server(self) -> tuple[str, ServerInfo] | None:
        """The URL of the server in use, without credentials, and its ``INFO``; None = not connected."""
        wire = self._wire
        return None if wire is None else (wire.server.url, wire.info)

    @property
    def server_id(self) -> str:
        """Which process of the server this is connected to; empty while there is no connection."""
        return "" if self._wire is None else self._wire.info.server_id

    @property
    def is_ready(self) -> bool:
        """Whether there is a connection that is not congested."""
        return self._wire is not None and not self._wire.congested

    async def wait_ready(self, deadline: float) -> None:
        """Wait for a connection that is not congested.

        Raise `Unavailable` at `deadline` (loop time).
        """
        while (wire := self._wire) is None or wire.congested:
            try:
                async with asyncio.timeout_at(deadline):
                    await (self._up.wait() if wire is None else wire.writable())
            except TimeoutError:
                raise Unavailable from None

    def inbox(self) -> bytes:
        """Return an unguessable subject for replies."""
        return f"{self._options.inbox_prefix}.{secrets.token_hex(11)}".encode()

    def publish(self, subject: bytes, body: bytes = b"", headers: bytes = b"", reply: bytes = b"") -> None:
        """Send a message.

        Everything published in one turn of the event loop leaves in one write. This never waits, and nothing
        is confirmed: to know that a message arrived, send a request (see `Requests`).
        Subjects are not checked. They must not contain white space, and together with the reply subject must
        stay well below 4 KiB (``max_control_line``), above which the server ends the connection.

        Args:
            subject: where to.
            body: the payload.
            headers: a block, see `windshift.nats.headers`; empty = none.
            reply: the reply subject; empty = none.

        Raises:
            NotConnected: there is no connection, or too many unsent bytes.
            MessageTooLarge: the server would end the connection over it.
        """
        wire = self._wire
        if wire is None:
            raise NotConnected
        size, length = len(headers), len(body)
        if size + length > self.max_payload:
            raise MessageTooLarge(self.max_payload)
        if length >= _LARGE:
            wire.send_parts(publish_parts(subject, body, headers, reply))
        elif headers:  # as `publish_frame` does: calls cost on the hot path
            wire.send(HPUB_FRAME % (subject, reply, size, size + length, headers, body))
        else:
            wire.send(publish_frame(subject, body, b"", reply))

    def write(self, frames: bytes) -> None:
        """Send frames of messages (`protocol.publish_frame`), each no larger than `max_payload`.

        Otherwise like `publish`. Raise `NotConnected` if nothing was sent.
        """
        wire = self._wire
        if wire is None:
            raise NotConnected
        wire.send(frames)

    def flush(self) -> None:
        """Have what was sent leave now, and not with what the turn of the event loop still brings."""
        if self._wire is not None:
            self._wire.flush()

    def subscribe(
        self,
        subject: bytes,
        receive: Receive,
        receive_run: ReceiveRun | None = None,
        *,
        is_vital: bool = False,
    ) -> Subscription:
        """Call `receive` with each message to `subject` as it arrives, across reconnects.

        It must not block; nothing is queued. Messages sent while there is no connection are lost, as always
        in NATS. A server that forbids a vital subscription counts as unreachable. `receive_run` takes several
        messages at once, which costs less, see `Wire.subscribe`; it is for subscriptions that stay.
        """
        self._last_sid += 1
        subscription = Subscription(self, self._last_sid, subject, receive, receive_run, is_vital)
        self._subscriptions[subscription.sid] = subscription
        if self._wire is not None:
            subscription.attach(self._wire)
        return subscription

    def subscribe_once(self, receive: Receive) -> Subscription | None:
        """Subscribe to a new inbox for the life of the current wire; None = no connection."""
        if self._wire is None:
            return None
        self._last_sid += 1
        subscription = Subscription(self, self._last_sid, self.inbox(), receive)
        subscription.attach(self._wire)
        return subscription

    def forget(self, subscription: Subscription) -> None:
        """Do not restore this subscription on later wires."""
        self._subscriptions.pop(subscription.sid, None)

    # --- Beginning and end --------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Connect for the first time, and stay connected from then on.

        Raises:
            ConnectFailed: no server accepted the connection within `start_timeout`, or retrying would not
                help (refused credentials, a bad certificate). Its text is for the operator: it names hosts.
        """
        loop = asyncio.get_running_loop()
        self.since = loop.time()
        async for _ in self._attempts(self.since + self._options.start_timeout.total_seconds()):
            wire = await self._open(self._servers[0], first=True)
            if wire is not None:
                self._mark_connected(wire)
                self._supervision = loop.create_task(self._supervise(), name="nats connection")
                return
        raise self._unreachable()

    async def close(self) -> None:
        """Send what is queued, disconnect, and stay disconnected."""
        self._closed.set()
        if self._supervision is not None:
            self._supervision.cancel()
            await asyncio.wait((self._supervision,))
            self._supervision = None
        wire, self._wire = self._wire, None
        self._up.clear()
        if wire is not None:
            await wire.close(self._options.close_timeout.total_seconds())
            self._mark_lost("closed")
        if self._left:
            await asyncio.wait(self._left)

    # --- The life of the wires ----------------------------------------------------------------------------

    async def _supervise(self) -> None:
        """Replace the wire when it has ended, is useless, or is about to end."""
        while True:
            await self._look.wait()
            self._look.clear()
            # A server may end every connection as soon as it is made.
            lasted = asyncio.get_running_loop().time() - self._used_since
            is_flapping = lasted < self._options.reconnect_wait.total_seconds()
            async for _ in self._attempts(None, first=2 if is_flapping else 1):
                try:
                    done = await (self._replace() if self._wire is None else self._move())
                except Exception:  # without supervision there would be no connection ever again
                    log.exception("the connection to NATS could not be restored; trying again")
                else:
                    if done:
                        break

    def _attempts(self, deadline: float | None, first: int = 1) -> retry:
        wait = self._options.reconnect_wait
        return retry(deadline, Backoff(wait, wait), first=first)

    async def _replace(self) -> bool:
        wire = await self._open(self._servers[0])
        if wire is None:
            return False
        self._mark_connected(wire)
        self.reconnects += 1
        return True

    async def _move(self) -> bool:
        """Move to another server while the current one, which is about to stop, still works.

        Without another one, stay to the end, and keep looking for one.
        """
        old = self._wire
        if old is None or not self._leaving:
            return old is not None
        self._servers.rotate(-1)
        for _ in range(len(self._servers)):
            wire = await self._open(self._servers[0])
            if wire is None:
                continue
            if self._wire is old:
                self._use(wire)
                for hook in self.on_replaced:
                    hook()
                self._leave(old)
            else:  # it ended meanwhile, with everything under way
                self._mark_connected(wire)
            self.reconnects += 1
            return True
        return False

    def _leave(self, wire: Wire) -> None:
        task = asyncio.get_running_loop().create_task(
            self._linger(wire), name="nats connection that was left"
        )
        self._left.add(task)
        task.add_done_callback(self._left.discard)

    async def _linger(self, wire: Wire) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self.linger):
                await self._closed.wait()
        await wire.close(self._options.close_timeout.total_seconds())

    async def _open(self, server: ServerAddress, *, first: bool = False) -> Wire | None:
        """Connect to this server; on failure rotate to the next, and log each reason once."""
        self._barred = ""
        try:
            wire = await Wire.connect(self, self._options, server)
            try:
                await self._attach_all(wire)
            except BaseException:
                wire.abort("")
                raise
        except ConnectFailed as failure:
            self._servers.rotate(-1)
            self._note(f"{server.url}: {failure.text}")
            if first and failure.final and len(self._servers) == 1:
                raise self._unreachable() from None
            return None
        return wire

    async def _attach_all(self, wire: Wire) -> None:
        """Restore all subscriptions on a wire, and wait until the server has said what it forbids."""
        attached: set[int] = set()
        try:
            async with asyncio.timeout(self._options.connect_timeout.total_seconds()):
                while missing := [each for sid, each in self._subscriptions.items() if sid not in attached]:
                    for subscription in missing:
                        subscription.attach(wire)
                        attached.add(subscription.sid)
                    await wire.ping()  # its answer may come before the error about the last one
                    await wire.ping()
        except (NotConnected, TimeoutError):
            raise ConnectFailed(wire.reason or "it did not answer in time") from None
        if not wire.open:  # it ended right after the answer, in the same bytes
            raise ConnectFailed(wire.reason)
        if self._barred:
            raise ConnectFailed(self._barred, final=True)

    def _mark_connected(self, wire: Wire) -> None:
        self._use(wire)
        self.since = asyncio.get_running_loop().time()
        self._up.set()
        for hook in self.on_connected:
            hook()

    def _use(self, wire: Wire) -> None:
        self._wire = wire
        self._used_since = asyncio.get_running_loop().time()
        self._leaving = wire is self._warned
        if self._leaving:
            self._look.set()
        self.last_error = ""
        self._logged.clear()
        self._learn(wire)
        log.log(self._options.log_level, "connected to NATS at %s", wire.server.url)

    def _learn(self, wire: Wire) -> None:
        """Take over the server's maximum message size, and the other servers of its cluster, if named."""
        self.max_payload = wire.info.max_payload
        found = filter(None, map(self._options.discovered, wire.info.connect_urls))
        named = {(server.host, server.port): server for server in found}
        if not named:
            return
        lasting = {wire.server, *self._options.servers}
        for server in list(self._servers):
            if named.pop((server.host, server.port), None) is None and server not in lasting:
                self._servers.remove(server)
        self._servers.extend(named.values())

    def _mark_lost(self, reason: str) -> None:
        self._up.clear()
        self.since = asyncio.get_running_loop().time()
        self._note(reason)
        for hook in self.on_lost:
            hook()

    def _note(self, reason: str) -> None:
        self.last_error = reason
        if reason not in self._logged:
            self._logged.add(reason)
            log.log(self._options.log_level if self._closed.is_set() else logging.WARNING, "NATS: %s", reason)

    def _unreachable(self) -> ConnectFailed:
        servers = ", ".join(server.url for server in self._options.servers)
        return ConnectFailed(f"cannot connect to NATS at {servers} ({self.last_error})")

    # --- Called by wires ----------------------------------------------------------------------------------

    def wire_informed(self, wire: Wire) -> None:
        """Take over new servers and limits; leave a server that is about to stop."""
        if wire is not self._wire:
            if wire.info.ldm:
                self._warned = wire
            return
        self._learn(wire)
        if wire.info.ldm and not self._leaving:
            log.info("NATS: the server is about to stop; going to another one")
            self._leaving = True
            self._look.set()

    def wire_failed(self, wire: Wire, error: ServerError) -> None:
        """Report violations; abort a wire whose server forbids a vital subscription."""
        if error.kind is ErrorKind.SUBSCRIPTION_FORBIDDEN and any(
            each.is_vital and each.subject == error.subject for each in self._subscriptions.values()
        ):
            self._barred = f"this user may not subscribe to {self._options.inbox_prefix}.>"
            if wire is self._wire:
                wire.abort(self._barred)
        if error.kind in (ErrorKind.PUBLISH_FORBIDDEN, ErrorKind.SUBSCRIPTION_FORBIDDEN):
            self.violations.report(error)

    def wire_ended(self, wire: Wire) -> None:
        """Note that the connection is lost, and reconnect."""
        if wire is self._wire:
            self._wire = None
            self._servers.rotate(-1)
            self._mark_lost(wire.reason)
            self._look.set()
