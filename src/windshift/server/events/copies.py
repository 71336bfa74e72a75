"""Reports streams that still copy others after their creator lost the right to it.

Nothing is changed: the rules may be wrong, and a mirror can only be stopped by deleting it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Final

from windshift.nats import NatsError
from windshift.nats.jetstream.api import JetStream, JsonObject, metadata_of, with_metadata
from windshift.server.auth.access import ActivePolicy, require_of
from windshift.server.auth.actions import Copy
from windshift.server.auth.audit import Audit
from windshift.server.domain.errors import PermissionDenied
from windshift.server.events.losses import Copied, copied

_log = logging.getLogger(__name__)

COPIER: Final = "windshift.copier"
"""Where the name of the principal lies that ensured a mirror or aggregate last, in its ``metadata``."""

_INTERVAL: Final = 600.0
"""Seconds after which streams are looked at though the rules are the same: others may have made some."""
_READING: Final = 30.0
"""Seconds that the list of streams may take to be read."""
_RETRY: Final = 10.0
"""Seconds until it is read again when that failed; and when some streams had no leader, doubled each time."""


def with_copier(config: JsonObject, principal: str) -> JsonObject:
    """Return the configuration of a stream with the principal in it that has it copy others, if it does."""
    if not config.keys() & {"mirror", "sources"}:
        return config
    return with_metadata(config, COPIER, principal)


class Copies:
    """What streams copy on behalf of principals.

    Attributes:
        denied: what streams copy though their principal may not, as it was seen last.
    """

    def __init__(self, api: JetStream, access: ActivePolicy, audit: Audit) -> None:
        self._api = api
        self._access = access
        self._audit = audit
        self._due = asyncio.Event()
        self._pause = 0.0
        """Seconds until streams are looked at again of which some had no leader; 0 = all have one."""
        self.denied: Mapping[tuple[str, Copied], PermissionDenied] = {}
        access.on_replaced.append(self._due.set)

    async def watch(self) -> None:
        """Judge at once, whenever the rules change, and from time to time, until cancelled."""
        pause = 0.0
        while True:
            try:
                async with asyncio.timeout(pause):
                    await self._due.wait()
            except TimeoutError:
                pass
            self._due.clear()
            pause = await self._judge()

    async def _judge(self) -> float:
        """Judge all streams; return the seconds after which that is due again."""
        now, silent = asyncio.get_running_loop().time(), set[str]()
        try:
            found = {key: error async for key, error in self._denials(now + _READING, silent)}
        except NatsError as failure:
            _log.warning("what streams copy cannot be judged: %s", failure)
            return _RETRY
        for key, denied in found.items():
            if key not in self.denied:
                self._audit.copying(key[0], denied, now)
        self.denied = found
        self._pause = min(2 * self._pause or _RETRY, _INTERVAL) if silent else 0.0
        return self._pause or _INTERVAL

    async def _denials(
        self, deadline: float, silent: set[str]
    ) -> AsyncIterator[tuple[tuple[str, Copied], PermissionDenied]]:
        """Say what is denied, and which streams have no leader: of those what was denied before counts."""
        async for page in self._api.pages("STREAM.LIST", "streams", deadline):
            silent |= page.missing
            for info in page.items:
                config = info["config"]
                principal = str(metadata_of(config).get(COPIER, ""))
                for each in copied(config) if principal else ():
                    error = self._denial(principal, each)
                    if error is not None:
                        yield (config["name"], each), error
        for key, before in self.denied.items():
            error = self._denial(before.principal, key[1]) if key[0] in silent else None
            if error is not None:
                yield key, error

    def _denial(self, name: str, each: Copied) -> PermissionDenied | None:
        action = Copy(*each)
        principal = self._access.authenticator.principals.get(name)
        if principal is None:
            rule = "the file has no principal of that name"
            return PermissionDenied(name, action.phrase, action.verb, action.resource, rule)
        try:
            require_of(principal, action)
        except PermissionDenied as error:
            return error
        return None
