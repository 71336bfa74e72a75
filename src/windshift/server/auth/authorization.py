"""The authorization file, read at the start and again whenever it changes, and the rules that it gives."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from windshift.server.auth.access import ActivePolicy
from windshift.server.auth.authenticate import Authenticator
from windshift.server.auth.jwks import KeySets
from windshift.server.auth.last_use import LastUses
from windshift.server.auth.ledger import Ledger
from windshift.server.auth.policy import Policy
from windshift.server.auth.policy_file import PolicyError, read_policy
from windshift.server.background.reloading import NotUsable, Watched, refuse_pipes

_log = logging.getLogger(__name__)

_BETWEEN_FETCHES: Final = 10.0
"""Seconds from one fetch of keys on demand to the next."""
_SHOWN: Final = 5
"""Problems of a file that one line names."""


class PolicyNotUsable(NotUsable):
    """The file says something that it must not. `problems` holds a line for each."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        more = len(problems) - _SHOWN
        super().__init__("; ".join(problems[:_SHOWN]) + (f"; and {more} more" if more > 0 else ""))
        self.problems = problems


class Authorization:
    """Keeps the rules of a file in force.

    Attributes:
        access: the rules; nobody is known before `start`.
        watched: loads the file again.
        uses: when credentials were used last.
    """

    def __init__(
        self, file: Path, ledger: Ledger | None = None, quotas: Mapping[str, int] | None = None
    ) -> None:
        """Read nothing yet.

        `ledger` is where the workers of this server count together, if there are any; `quotas` has defaults
        that are not those of every server.
        """
        self._file = file
        self._quotas = quotas or {}
        self._keys = KeySets()
        self._policy = Policy()
        self._demanded = asyncio.Event()
        self.uses = LastUses(time.time)
        self.access = ActivePolicy(Authenticator(Policy(), uses=self.uses), ledger=ledger)
        self.watched = Watched("authorization", [file], self._load, self._take)

    async def watch(self) -> None:
        """Follow the file and end what has expired, until cancelled."""
        await asyncio.gather(self.watched.watch(), self.access.watch(), self._fetch_on_demand())

    def fetch_keys(self) -> None:
        """Have the keys of all issuers fetched anew, and everybody judged by them: once in 10 s at most."""
        self._demanded.set()

    async def _fetch_on_demand(self) -> None:
        while True:
            await self._demanded.wait()
            self._demanded.clear()
            if self._policy.issuers:
                all_read = await self._keys.renew()
                self._put_in_force()
                if all_read:
                    _log.info("the issuers were asked for their keys; everybody is judged by them")
                await asyncio.sleep(_BETWEEN_FETCHES)

    def _load(self) -> Policy:
        refuse_pipes([self._file])
        try:
            return read_policy(self._file, self._quotas)
        except PolicyError as error:
            raise PolicyNotUsable(error.problems) from error

    def _take(self, policy: Policy) -> None:
        self._policy = policy
        self._put_in_force()
        self._keys.prefetch()
        known = {"principals": len(policy.principals), "issuers": len(policy.issuers)}
        _log.info("the rules of the authorization file are in force", extra=known)

    def _put_in_force(self) -> None:
        self.uses.keep(self._policy.principals)
        rules = Authenticator(self._policy, self._keys.for_policy(self._policy), uses=self.uses)
        self.access.replace(rules, asyncio.get_running_loop().time())
