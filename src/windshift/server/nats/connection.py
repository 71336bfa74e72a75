"""The connection to NATS that outlives its clients.

nats-py's client ends for good on many things (any ``-ERR`` is one). Here a client is a part that is replaced:
a watch notices its end, opens another one, to another server when there are several, and puts every
subscription on it. What was under way when a connection ended is told at once to whoever asked (`on_lost`);
nothing is sent later.

A server that says that it is about to stop (lame-duck mode) is left before it does: the next client is there
before the old one ends, and what is under way still gets its answer (`on_moved`).
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import deque
from collections.abc import Callable, Mapping

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as ClientSubscription
from nats.errors import ConnectionClosedError, ConnectionDrainingError, Error, OutboundBufferLimitError

from windshift.server.errors import BrokerUnavailable
from windshift.server.nats.client import ConnectFailed, abandon, discovered, open_client, told_by_broker
from windshift.server.nats.options import ConnectionOptions, ServerAddress
from windshift.server.nats.violations import Violation, Violations

log = logging.getLogger(__name__)

Hook = Callable[[], None]
Receive = Callable[[Msg], None]


class NotConnected(Exception):
    """There is no connection now, and nothing was sent."""


class _Sink(asyncio.Future[Msg]):
    """A future that is never done and passes on what it is given.

    nats-py's ways to receive cost a queue and a task per subscription, and a coroutine per message. It also
    takes a future, and does no more with it than ask `cancelled()` and call `set_result()` for each message.
    """

    def __init__(self, receive: Receive) -> None:
        super().__init__()
        self._receive = receive

    def set_result(self, result: Msg, /) -> None:
        try:
            self._receive(result)
        except Exception:  # it would end nats-py's reading of the connection
            log.exception("a message from NATS could not be handled")


class Subscription:
    """Interest in a subject that holds across reconnects, until `unsubscribe`.

    Messages that arrive while there is no connection are gone, as always in NATS.
    """

    __slots__ = ("_connection", "_inner", "_receive", "client", "is_vital", "subject")

    def __init__(
        self, connection: Connection, subject: str, receive: Receive, *, is_vital: bool = False
    ) -> None:
        self._connection = connection
        self._receive = receive
        self._inner: ClientSubscription | None = None
        self.client: Client | None = None
        self.is_vital = is_vital
        """Whether a connection is of no use on which the broker forbids this."""
        self.subject = subject

    async def attach(self, client: Client) -> None:
        """Subscribe on this client."""
        self.client = client
        self._inner = await client.subscribe(self.subject, future=_Sink(self._receive))

    async def unsubscribe(self) -> None:
        """End the interest. Never fails."""
        self._connection.forget(self)
        await self.detach()

    async def detach(self) -> None:
        """Unsubscribe on the present client, if it still can."""
        inner, self._inner = self._inner, None
        if inner is None:
            return
        try:
            await inner.unsubscribe()
        except Error:
            pass  # its client is closed, and the subscription with it


def _ended(client: Client) -> str:
    told = told_by_broker(client.last_error)
    return f"the connection ended ({told})" if told else "the connection ended"


class Connection:
    """A connection to one of several NATS servers, kept up until `close`."""

    def __init__(self, options: ConnectionOptions) -> None:
        self._options = options
        # In any order, so that many servers do not all turn to the same one; the present one comes first.
        self._servers = deque(random.sample(options.servers, len(options.servers)))
        self._client: Client | None = None
        self._subscriptions: dict[Subscription, None] = {}
        self._watch_task: asyncio.Task[None] | None = None
        self._closing = False
        self._told: set[str] = set()  # reasons that were logged since there was a connection
        self._barred = ""  # why the present client, or the one that is being opened, is of no use
        self._look = asyncio.Event()
        self._up = asyncio.Event()
        self._closed = asyncio.Event()
        self._leaving = False
        self._left: set[asyncio.Task[None]] = set()
        self.on_lost: list[Hook] = []
        """Called, in order, when a connection ended. Must neither block nor raise."""
        self.on_connected: list[Hook] = []
        """Called, in order, when a connection is up and all subscriptions are on it. Must neither block nor
        raise.
        """
        self.on_moved: list[Hook] = []
        """Called, in order, when another client has taken over from one that still works: what is bound to
        that one has `linger` to move. Must neither block nor raise.
        """
        self.violations = Violations(options.inbox_prefix)
        """What the broker forbids."""
        self.since = 0.0
        """When `connected` last changed, in the loop's time."""
        self.last_error = ""
        """Why the last connection ended or could not be made, free of secrets; empty while all is well."""
        self.max_payload = 1024 * 1024
        """The most bytes, headers included, that the broker takes in one message."""
        self.reconnects = 0

    @property
    def connected(self) -> bool:
        """Whether messages can be sent now."""
        client = self._client
        return client is not None and client.is_connected

    @property
    def client(self) -> Client | None:
        """The present client, for what is to end with it; `None` while there is no connection."""
        return self._client

    async def connect(self) -> None:
        """Connect for the first time, and keep connected from then on.

        Raises `BrokerUnavailable` when no server can be used within `start_timeout`, or at once when trying
        again would not help (refused credentials, an unfit certificate). Its message is for the operator: it
        names hosts.
        """
        loop = asyncio.get_running_loop()
        self.since = loop.time()
        give_up = loop.time() + self._options.start_timeout.total_seconds()
        while not await self._try_server(self._servers[0], first=True):
            if loop.time() >= give_up:
                raise self._unreachable()
            await self._pause()
        self._watch_task = loop.create_task(self._watch(), name="nats connection")

    async def close(self) -> None:
        """Send what is buffered, disconnect, and stay disconnected."""
        self._closing = True  # nats-py swallows a cancel at times
        if self._watch_task is not None:
            self._watch_task.cancel()
            await asyncio.wait([self._watch_task])
            self._watch_task = None
        client, self._client = self._client, None
        if client is not None:
            await self._retire(client)
            self._mark_lost("closed")
        self._closed.set()
        if self._left:
            await asyncio.wait(self._left)

    async def wait_connected(self, deadline: float) -> None:
        """Return when there is a connection.

        Raise `BrokerUnavailable` when there is none by `deadline` (loop time).
        """
        if self.connected:
            return
        try:
            async with asyncio.timeout_at(deadline):
                while not self.connected:
                    self._up.clear()  # the end was not noticed yet: do not spin until it is
                    self._look.set()
                    await self._up.wait()
        except TimeoutError:
            raise BrokerUnavailable from None

    def inbox(self) -> str:
        """Make a subject that nobody else knows, to be answered on."""
        return f"{self._options.inbox_prefix}.{secrets.token_hex(11)}"

    def publish(
        self, subject: str, payload: bytes = b"", headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        """Hand a message to the connection, now; raises `NotConnected` when there is none.

        Everything that one turn of the event loop publishes leaves in one write. Nothing waits and nothing is
        confirmed: to know that a message arrived, ask for a reply (see `Replies`).
        The caller must have checked subject and size: the broker ends the connection over either.
        """
        client = self._client
        if client is None:
            raise NotConnected
        # With pending_size=0 the coroutine never waits, so running it needs no task.
        # Should its flusher have died it waits for the socket, with the message written already.
        sending = client.publish(subject, payload, reply, headers)  # type: ignore[arg-type]  # only iterates over them
        try:
            sending.send(None)
        except StopIteration:
            return
        except (ConnectionClosedError, ConnectionDrainingError, OutboundBufferLimitError):
            raise NotConnected from None
        except (OSError, RuntimeError):  # uvloop's, when the socket has closed and nats-py has yet to notice
            self._look.set()
            raise NotConnected from None
        sending.close()

    async def subscribe(self, subject: str, receive: Receive, *, is_vital: bool = False) -> Subscription:
        """Call `receive` with each message to `subject` as it arrives. It must not block; nothing is queued.

        Also when there is no connection now: the subscription is there from the next one on. A server that
        forbids a vital one counts as one that cannot be connected to.
        """
        subscription = Subscription(self, subject, receive, is_vital=is_vital)
        self._subscriptions[subscription] = None
        if self._client is not None:
            try:
                await subscription.attach(self._client)
            except Error:
                pass  # closed this moment; the next client gets it
        return subscription

    def forget(self, subscription: Subscription) -> None:
        """Do not put this subscription on coming clients."""
        self._subscriptions.pop(subscription, None)

    # The life of the clients

    async def _watch(self) -> None:
        """Replace the client whenever it is no longer connected."""
        interval = self._options.watch_interval.total_seconds()
        while not self._closing:
            try:
                async with asyncio.timeout(interval):
                    await self._look.wait()
            except TimeoutError:
                pass
            self._look.clear()
            try:
                if self._barred or not self.connected:
                    await self._replace_client()
                elif self._leaving:
                    await self._move()
            except Exception:  # without a watch there would never be a connection again
                log.exception("the connection to NATS could not be made anew; trying again")
                await self._pause()

    async def _replace_client(self) -> None:
        client, self._client = self._client, None
        ending = None
        if client is not None:
            self._learn_servers(client)
            self._servers.rotate(-1)
            self._mark_lost(self._barred or _ended(client))
            ending = asyncio.ensure_future(self._retire(client))
        while not self._closing and not await self._try_server(self._servers[0]):
            await self._pause()
        self.reconnects += 1
        if ending is not None:
            await ending

    async def _move(self) -> None:
        """Go to another server while the present one, which is about to stop, still serves.

        Without another one it is served to its end, and another one looked for meanwhile.
        """
        old = self._client
        if old is None:
            return
        self._learn_servers(old)
        self._servers.rotate(-1)
        for _ in range(len(self._servers)):
            server = self._servers[0]
            client = await self._open(server)
            if client is None:
                continue
            if old.is_connected:
                self._take_over(client, server, old)
            else:  # it ended meanwhile, and with it what was under way
                self._mark_lost(_ended(old))
                self._leave(old)
                self._mark_connected(client, server)
            self.reconnects += 1
            return
        await self._pause()
        self._look.set()

    def _take_over(self, client: Client, server: ServerAddress, old: Client) -> None:
        """Send by another client from now on; nothing that is under way is lost."""
        self._use(client, server)
        for hook in self.on_moved:
            hook()
        self._leave(old)

    def _leave(self, client: Client) -> None:
        """End a client in a while."""
        task = asyncio.get_running_loop().create_task(self._linger(client), name="nats client that was left")
        self._left.add(task)
        task.add_done_callback(self._left.discard)

    async def _linger(self, client: Client) -> None:
        try:
            async with asyncio.timeout(self._options.linger.total_seconds()):
                await self._closed.wait()
        except TimeoutError:
            pass
        await self._retire(client)

    async def _retire(self, client: Client) -> None:
        for subscription in list(self._subscriptions):
            if subscription.client is client:
                await subscription.detach()
        await abandon(client, self._options)

    async def _try_server(self, server: ServerAddress, *, first: bool = False) -> bool:
        """Connect to this server; on failure make the next server the first, and say so once per reason."""
        client = await self._open(server, first=first)
        if client is not None:
            self._mark_connected(client, server)
        return client is not None

    async def _open(self, server: ServerAddress, *, first: bool = False) -> Client | None:
        self._barred = ""
        try:
            client = await open_client(
                self._options, server, self._on_error, self._on_ended, self._on_leaving
            )
            await self._attach_all(client)
        except ConnectFailed as failure:
            self._servers.rotate(-1)
            self._note(f"{server.url}: {failure.text}")
            if first and failure.final and len(self._servers) == 1:
                raise self._unreachable() from None
            return None
        return client

    async def _attach_all(self, client: Client) -> None:
        try:
            while missing := [known for known in self._subscriptions if known.client is not client]:
                for subscription in missing:
                    await subscription.attach(client)
            await self._hear_refusals(client)
        except Error:
            await abandon(client, self._options)
            raise ConnectFailed(
                self._barred or "the connection ended at once", final=bool(self._barred)
            ) from None

    async def _hear_refusals(self, client: Client) -> None:
        """Wait until the broker has said what it forbids; raise nats-py's `Error` for something vital."""
        try:
            async with asyncio.timeout(self._options.connect_timeout.total_seconds()):
                await client.flush()  # this ping may overtake what was subscribed to just now
                await client.flush()
        except TimeoutError as error:
            raise Error from error
        if self._barred:
            raise Error

    def _mark_connected(self, client: Client, server: ServerAddress) -> None:
        self._use(client, server)
        self.since = asyncio.get_running_loop().time()
        self._up.set()
        for hook in self.on_connected:
            hook()

    def _use(self, client: Client, server: ServerAddress) -> None:
        self._client = client
        self._leaving = False
        self._learn_servers(client)
        self.max_payload = client.max_payload
        self.last_error = ""
        self._told.clear()
        log.info("connected to NATS at %s", server.url)

    def _mark_lost(self, reason: str) -> None:
        self._up.clear()
        self.since = asyncio.get_running_loop().time()
        self._note(reason)
        for hook in self.on_lost:
            hook()

    def _learn_servers(self, client: Client) -> None:
        known = {(server.host, server.port) for server in self._servers}
        for server in discovered(client, self._options):
            if (server.host, server.port) not in known:
                self._servers.append(server)

    def _note(self, reason: str) -> None:
        self.last_error = reason
        if reason not in self._told:
            self._told.add(reason)
            log.log(logging.INFO if self._closing else logging.WARNING, "NATS: %s", reason)

    def _unreachable(self) -> BrokerUnavailable:
        servers = ", ".join(server.url for server in self._options.servers)
        return BrokerUnavailable(f"cannot connect to NATS at {servers} ({self.last_error})")

    async def _pause(self) -> None:
        jitter = random.random() * self._options.reconnect_wait_jitter.total_seconds()
        await asyncio.sleep(self._options.reconnect_wait.total_seconds() + jitter)

    async def _on_error(self, error: Exception) -> None:
        """Hear of an error from nats-py: mostly that the connection ended."""
        log.debug("NATS client: %s", type(error).__name__)
        if isinstance(error, Violation):
            self.violations.told(error)
            if error.is_subscription and any(
                known.is_vital and known.subject == error.subject for known in self._subscriptions
            ):
                self._barred = f"this user may not subscribe to {self.violations.shown(error.subject)}"
        self._look.set()

    async def _on_ended(self) -> None:
        self._look.set()

    async def _on_leaving(self) -> None:
        """Hear that a server is about to stop. If it is one that was left already, moving does no harm."""
        log.info("NATS: the server is about to stop; going to another one")
        self._leaving = True
        self._look.set()
