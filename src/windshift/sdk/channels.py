"""The channels of a client: one for its calls, others for long-lived streams, to one of several servers."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from windshift.rpc import Channel, ChannelOptions, ChannelState, ConnectionOptions

from .errors import ClientClosed

STREAMS_PER_CONNECTION = 100
"""A server takes 256 calls per connection; beside so many streams, calls would wait for each other."""

OPTIONS = ChannelOptions(
    connection=ConnectionOptions(stream_window=262_144, keepalive_interval=20.0, keepalive_timeout=10.0),
    deadline_grace=0.25,
    connect_timeout=5.0,
    backoff_initial=0.1,
    backoff_maximum=1.0,  # a server that is up for a second between restarts is met well within a deadline
    max_connections=2,
    keepalive_without_calls=True,  # calls that come now and then would not notice that their server is gone
    user_agent="windshift-python",
    max_message_size=65 * 1024 * 1024,  # NATS stores events of 64 MiB at most
)
_log = logging.getLogger("windshift")


class Channels:
    """Connections to one of the servers; to the next one when it cannot be reached."""

    def __init__(self, targets: tuple[str, ...], tls: ssl.SSLContext | None) -> None:
        self._targets = random.sample(targets, len(targets))
        self._tls = tls
        self._next = 0
        self._calls: Channel | None = None
        self._streams: dict[Channel, int] = {}
        self._leaving: set[Channel] = set()  # those that are being closed
        self._closing: set[asyncio.Task[None]] = set()
        self._failing: set[str] = set()
        self._closed = False

    def for_calls(self) -> Channel:
        """Return the channel that calls share."""
        if self._calls is None:
            self._calls = self._open()
        return self._calls

    @contextmanager
    def for_stream(self) -> Iterator[Channel]:
        """Lend a channel to one long-lived call."""
        channel = self._roomy() or self._open()
        self._streams[channel] = self._streams.get(channel, 0) + 1
        try:
            yield channel
        finally:
            self._give_back(channel)

    def unreachable(self, channel: Channel) -> None:
        """Use another server from now on, if there is one, because this one cannot be reached."""
        if len(self._targets) > 1 and channel.target == self._targets[self._next]:
            self._next = (self._next + 1) % len(self._targets)
            if self._calls is not None and self._calls.target == channel.target:
                old, self._calls = self._calls, None
                self._close_later(old, 5.0)

    async def close(self, grace: float) -> None:
        """Take no more calls, let running ones finish for `grace` seconds, and disconnect.

        A cancellation, a second call with a shorter `grace`, or `abort` ends the wait.
        """
        self._leave()
        await asyncio.gather(*self._closing, *(self._close(channel, grace) for channel in self._leaving))

    def abort(self) -> None:
        """Disconnect at once."""
        self._leave()
        for channel in self._leaving:
            channel.abort()

    def _leave(self) -> None:
        """Give no more channels, and begin to close those that there are."""
        self._closed = True
        self._leaving.update(self._streams, [self._calls] if self._calls else [])
        self._calls = None
        self._streams.clear()

    def _open(self) -> Channel:
        if self._closed:  # while who asks has waited for something
            raise ClientClosed("the client is closed")
        target = self._targets[self._next]

        def on_state(state: ChannelState) -> None:
            if state is ChannelState.FAILED and target not in self._failing:
                self._failing.add(target)
                _log.warning("the server %s cannot be reached: %s", target, channel.last_failure)
            elif state is ChannelState.READY and target in self._failing:
                self._failing.discard(target)
                _log.info("the server %s is reached again", target)

        channel = Channel(target, ssl=self._tls, options=OPTIONS, on_state=on_state)
        return channel

    def _roomy(self) -> Channel | None:
        target = self._targets[self._next]
        for channel, streams in self._streams.items():
            if streams < STREAMS_PER_CONNECTION and channel.target == target:
                return channel
        return None

    def _give_back(self, channel: Channel) -> None:
        if channel not in self._streams:
            return  # the client was closed meanwhile
        self._streams[channel] -= 1
        if not self._streams[channel] and channel.target != self._targets[self._next]:
            del self._streams[channel]
            self._close_later(channel, 0.0)

    def _close_later(self, channel: Channel, grace: float) -> None:
        self._leaving.add(channel)
        task = asyncio.ensure_future(self._close(channel, grace))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, channel: Channel, grace: float) -> None:
        await channel.close(grace)
        self._leaving.discard(channel)
