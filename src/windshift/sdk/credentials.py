"""The bearer token of a client's calls: text, a file, or a function that fetches one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from .errors import SettingsError, TokenUnavailable

Pairs = tuple[tuple[str, str], ...]

_RENEW_AT = 0.8  # share of a token's life
_LOOK_EVERY = 1.0  # seconds between looks at a file


@dataclass(frozen=True, slots=True)
class Token:
    """A token that a function fetched.

    Attributes:
        text: the token.
        expires: when it is valid no more; None = it is used until the server refuses it.
    """

    text: str = field(repr=False)
    expires: datetime | None = None


TokenFunction = Callable[[], Awaitable[Token]]
TokenSource = str | Path | TokenFunction
"""Where a token comes from."""


class Credentials:
    """The metadata with the current token."""

    def __init__(self, source: TokenSource | None) -> None:
        self._source = source
        self._pairs: Pairs = _bearer(source) if isinstance(source, str) else ()
        self._stale_at = float("-inf") if callable(source) or isinstance(source, Path) else float("inf")
        self._changed: tuple[int, int] | None = None
        self._fetch: asyncio.Task[None] | None = None

    @property
    def has_token(self) -> bool:
        """Whether calls carry a token."""
        return self._source is not None

    @property
    def renewable(self) -> bool:
        """Whether there may be another token after the server refused this one."""
        return self._source is not None and not isinstance(self._source, str)

    async def pairs(self) -> Pairs:
        """Return the metadata for a call. Calls at the same time share one fetch.

        Raises:
            SettingsError: the file cannot be read, or has no token.
            TokenUnavailable: the function failed.
        """
        if time.monotonic() >= self._stale_at:
            if self._fetch is None:
                self._fetch = asyncio.ensure_future(self._renew())
                self._fetch.add_done_callback(self._fetched)
            await asyncio.shield(self._fetch)
        return self._pairs

    def refused(self, pairs: Pairs) -> None:
        """Note that the server refused these: the next call needs others."""
        if self.renewable and pairs == self._pairs:
            self._stale_at, self._changed = float("-inf"), None

    def _fetched(self, task: asyncio.Task[None]) -> None:
        self._fetch = None
        if not task.cancelled():
            task.exception()  # who waits for it gets it; nobody may be waiting any more

    async def _renew(self) -> None:
        if isinstance(self._source, Path):
            self._read(self._source)
        elif callable(self._source):
            try:
                token = await self._source()
            except Exception as error:
                raise TokenUnavailable(f"the token function failed with {type(error).__name__}") from error
            self._pairs = _bearer(token.text)
            self._stale_at = _stale_at(token)

    def _read(self, path: Path) -> None:
        try:
            status = path.stat()
            changed = (status.st_mtime_ns, status.st_ino)
            if changed != self._changed:
                self._pairs, self._changed = _bearer(path.read_text("utf-8")), changed
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"the token file {path} cannot be read: {type(error).__name__}") from error
        self._stale_at = time.monotonic() + _LOOK_EVERY


def _bearer(text: str) -> Pairs:
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsError("a token is one line of printable ASCII characters without spaces")
    return (("authorization", f"Bearer {token}"),)


def _stale_at(token: Token) -> float:
    if token.expires is None:
        return float("inf")
    life = token.expires.timestamp() - time.time()
    return time.monotonic() + max(1.0, life * _RENEW_AT)
