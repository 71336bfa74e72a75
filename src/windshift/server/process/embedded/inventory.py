"""Compares the data directory with its state when it was last left."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

from windshift.nats import NatsError, ServerAddress
from windshift.server.process.embedded import stock
from windshift.server.process.embedded.directory import DataDirectory, LogEnd
from windshift.server.process.embedded.stock import Damage, Stock, damage
from windshift.server.process.errors import StartError

log = logging.getLogger(__name__)

_TIMEOUT = 60.0
_TIMEOUT_AT_STOP = 10.0


class Inventory:
    """The stock of one life of the directory: compared at its start, written down at its end."""

    def __init__(self, directory: DataDirectory) -> None:
        self._directory = directory
        self._log_end = LogEnd(frozenset(), 0)
        self._found = Stock({})
        self._final: Stock | None = None
        self._accepted = False

    def begin(self) -> None:
        """Take note of where nats-server's log ends: it is about to be started. Raises OSError.

        Where it was stopped before, to be started anew, what was written down then is final no more.
        """
        self._log_end = self._directory.log_end()
        if self._final is not None:
            stock.write(self._directory.stock, replace(self._final, final=False))
            self._final = None

    async def inspect(self, address: ServerAddress) -> list[Damage]:
        """Say what is missing of what there was when the directory was left. Raises `StartError`."""
        try:
            self._found = await stock.take(address, _TIMEOUT)
            before = stock.read(self._directory.stock)
            return list(damage(before, self._found, self._directory.streams(), self._complaints()))
        except (NatsError, TimeoutError) as error:
            raise StartError(f"nats-server does not say what it has; see {self._directory.log}") from error
        except OSError as error:
            raise self._directory.unusable(error) from error

    def accept(self, losses: Iterable[Damage]) -> bool:
        """Go on without what is missing: from now on what is there counts. Raises `StartError`.

        Returns whether files were moved, so that nats-server has to be started anew.
        """
        unreadable = [each for each in losses if each.unreadable]
        try:
            for each in unreadable:
                where = self._directory.put_aside(each.stream, each.unreadable)
                log.warning("what is left of stream %s lies in %s", each.stream, where)
            stock.write(self._directory.stock, self._found)
        except OSError as error:
            raise self._directory.unusable(error) from error
        self._accepted = True
        return bool(unreadable)

    async def take_final(self, address: ServerAddress) -> None:
        """Ask once more, before nats-server is stopped, unless what is missing was not accepted."""
        if not self._accepted:
            return
        try:
            self._final = replace(await stock.take(address, _TIMEOUT_AT_STOP), final=True)
        except (NatsError, TimeoutError):
            log.warning("nats-server does not say what it has; the next start will compare less")

    def write_final(self) -> None:
        """Write down what there is, once nats-server has stopped."""
        if self._final is None:
            return
        try:
            stock.write(self._directory.stock, self._final)
        except OSError as error:
            log.warning("%s", self._directory.unusable(error))

    def _complaints(self) -> list[str]:
        """Return what nats-server complained of since it was started, without the beginnings of lines."""
        lines = self._directory.logged_since(self._log_end)
        return [line.partition("[WRN]")[2].strip() for line in lines if "[WRN]" in line]
