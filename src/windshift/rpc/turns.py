"""Reading a connection in turns, so that a peer that floods does not hold up all others."""

from __future__ import annotations

import asyncio

from .connection_hooks import ConnectionHooks

_TURN = 262_144
"""Bytes that are looked at in one turn of the loop, at most."""
_PIECE, _SMALL_PIECE = 65_536, 8192
"""Bytes that are looked at without asking what came of them; the smaller number for peers that flood."""
_EVENTS = 1024
"""What may come of one turn before other connections get theirs: some hundred calls."""


class ReadingInTurns(ConnectionHooks):
    """The way of a connection's bytes from its transport to its engine.

    Args:
        loop: the event loop that runs the transport.

    Attributes:
        received: bytes that came, without TLS.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._over = False  # nothing more can be sent or received
        self._rest = b""  # received, and left for the next turn of the loop
        self._piece = _PIECE
        self._events = 0  # what came of this turn so far
        self.received = 0

    def _receive(self, data: bytes) -> None:
        """Feed the engine, hand on what came of it, and add the number of that to ``_events``."""
        raise NotImplementedError

    def _flush(self) -> None:
        """Write what the engine has to say."""
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        """Feed the engine and hand on what came of it."""
        self.received += len(data)
        if self._rest or len(data) > self._piece:
            self._rest += data
            if len(self._rest) == len(data):
                self._take_rest()
            return
        self._events = 0
        self._receive(data)
        if self._events >= _EVENTS:
            self._piece = _SMALL_PIECE

    def _take_rest(self) -> None:
        """Feed the engine as much as one turn of the loop may take; what is left waits for the next one.

        Otherwise a flood on one connection would hold up all others.
        """
        data, piece, self._events = self._rest, self._piece, 0
        taken = 0
        while taken < min(len(data), _TURN) and self._events < _EVENTS:
            self._receive(data[taken : taken + piece])
            taken += piece
            if taken % _PIECE == 0:
                self._flush()  # a GOAWAY that answers a flood keeps the rest of it from being served
        self._piece = _PIECE if self._events < _EVENTS else _SMALL_PIECE
        self._rest = b"" if self._over else data[taken:]
        self._flush()
        self._read_later()

    def _read_later(self) -> None:
        """Read nothing more in this turn of the loop."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.pause_reading()
            self._loop.call_soon(self._go_on_reading)

    def _go_on_reading(self) -> None:
        if self._rest and not self._over:
            self._take_rest()
        if not self._rest and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
