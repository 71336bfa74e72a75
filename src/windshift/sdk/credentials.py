"""The bearer token of a client's calls: text, a file, or a function that fetches one."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from windshift.rpc import in_thread

from .errors import SettingsError, TokenUnavailable
from .functions import is_async

Pairs = tuple[tuple[str, str], ...]

_RENEW_AT = 0.8  # share of a token's life
_LOOK_EVERY = 1.0  # seconds between looks at a file, and between fetches that fail while there is a token
_FETCH = 30.0  # seconds that a fetch may take
_HANGS = 10 * _FETCH  # seconds after which a function that hangs in its thread is called again, in another
_NEVER, _NOW = float("inf"), float("-inf")
_log = logging.getLogger("windshift")


@dataclass(frozen=True, slots=True)
class Token:
    """A token that a function fetched.

    Attributes:
        text: the token.
        expires: when it is valid no more; None = it is used until the server refuses it.
    """

    text: str = field(repr=False)
    expires: datetime | None = None


TokenFunction = Callable[[], Awaitable[Token] | Token]
TokenSource = str | Path | TokenFunction
"""Where a token comes from. A function that is no coroutine runs in a thread."""


class Credentials:
    """The metadata with the current token, without I/O of its own until a call needs it."""

    def __init__(self, source: TokenSource | None) -> None:
        self._source = source
        self._pairs: Pairs = _bearer(source) if isinstance(source, str) else ()
        self._renew_at = _NOW if self.renewable else _NEVER
        self._valid_until = self._renew_at
        self._changed: tuple[int, ...] | None = None
        self._fetch: asyncio.Task[None] | None = None
        self._thread: asyncio.Task[object] | None = None
        self._began = 0.0

    @property
    def has_token(self) -> bool:
        """Whether calls carry a token."""
        return self._source is not None

    @property
    def renewable(self) -> bool:
        """Whether there may be another token after the server refused this one."""
        return self._source is not None and not isinstance(self._source, str)

    @property
    def current(self) -> Pairs | None:
        """The metadata for a call, if nothing is to be fetched or looked at; else None."""
        return self._pairs if time.monotonic() < self._renew_at else None

    async def pairs(self) -> Pairs:
        """Return the metadata for a call. Calls at the same time share one fetch.

        A token that is still valid is used while the next one is fetched, and as long as that fails.

        Raises:
            SettingsError: the file cannot be read, or has no token.
            TokenUnavailable: there is no token that is valid, because the function failed or took too long.
        """
        now = time.monotonic()
        if now >= self._renew_at:
            fetch = self._fetching()
            if now >= self._valid_until or isinstance(self._source, Path):
                await asyncio.shield(fetch)
        return self._pairs

    def refused(self, pairs: Pairs) -> None:
        """Note that the server refused these: the next call needs others."""
        if self.renewable and pairs == self._pairs:
            self._renew_at = self._valid_until = _NOW
            self._changed = None

    def _fetching(self) -> asyncio.Task[None]:
        loop = asyncio.get_running_loop()
        if self._fetch is None or self._fetch.get_loop() is not loop:  # that of the process that we come from
            self._fetch = loop.create_task(self._renew())
            self._fetch.add_done_callback(self._fetched)
        return self._fetch

    def _fetched(self, task: asyncio.Task[None]) -> None:
        self._fetch = None
        if not task.cancelled() and (error := task.exception()) is not None:  # who waits for it gets it
            now = time.monotonic()
            if now < self._valid_until:
                self._renew_at = now + _LOOK_EVERY
                _log.warning("the token is used further, because there is no new one: %s", error)

    async def _renew(self) -> None:
        if isinstance(self._source, Path):
            self._read(self._source)
        elif callable(self._source):
            token = await self._call(self._source)
            if not isinstance(token, Token):
                raise TokenUnavailable(f"the token function returned {type(token).__name__}, not a Token")
            try:
                self._pairs = _bearer(token.text)
            except SettingsError as error:
                raise TokenUnavailable(f"the token function returned none: {error.message}") from None
            self._renew_at, self._valid_until = _times(token)

    async def _call(self, function: TokenFunction) -> object:
        result: object
        try:
            async with asyncio.timeout(_FETCH):
                if is_async(function):
                    result = function()
                else:
                    running = self._in_thread(function)
                    await asyncio.wait((running,))
                    result = running.result()
                return await result if isinstance(result, Awaitable) else result
        except TokenUnavailable:
            raise
        except TimeoutError as error:
            raise TokenUnavailable(f"the token function took longer than {_FETCH:g} s") from error
        except Exception as error:
            raise TokenUnavailable(f"the token function failed with {type(error).__name__}") from error

    def _in_thread(self, function: TokenFunction) -> asyncio.Task[object]:
        """Run a function in a thread; while that hangs, another, which may hang too, is begun late."""
        loop = asyncio.get_running_loop()
        thread, now = self._thread, loop.time()
        if thread is None or thread.done() or thread.get_loop() is not loop or now >= self._began + _HANGS:
            self._thread = thread = loop.create_task(in_thread(function, "token"))
            thread.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._began = now
        return thread

    def _read(self, path: Path) -> None:
        try:
            status = path.stat()
            changed = (status.st_mtime_ns, status.st_ino, status.st_size)
            if changed != self._changed:
                self._pairs, self._changed = _bearer(path.read_text("utf-8")), changed
        except (OSError, UnicodeDecodeError, SettingsError) as error:
            self._unreadable(path, error)
        self._renew_at, self._valid_until = time.monotonic() + _LOOK_EVERY, _NEVER

    def _unreadable(self, path: Path, error: Exception) -> None:
        """Go on with the token that there is: whoever replaces a file may take a moment over it."""
        if not self._pairs:
            why = error.message if isinstance(error, SettingsError) else type(error).__name__
            raise SettingsError(f"the token file {path} cannot be read: {why}") from error
        if self._valid_until == _NOW:
            raise TokenUnavailable(f"the token was refused, and {path} cannot be read") from error
        _log.warning("the token is used further, because %s cannot be read: %s", path, type(error).__name__)


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine, to which a secret may go in plain text."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bearer(text: str) -> Pairs:
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsError("a token is one line of printable ASCII characters without spaces")
    return (("authorization", f"Bearer {token}"),)


def _times(token: Token) -> tuple[float, float]:
    """Return when to fetch the next one, and until when this one is valid."""
    if token.expires is None:
        return _NEVER, _NEVER
    now, life = time.monotonic(), token.expires.timestamp() - time.time()
    return now + max(1.0, life * _RENEW_AT), now + max(1.0, life)
