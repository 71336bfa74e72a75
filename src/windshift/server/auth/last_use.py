"""When each credential was used last, as long as this process runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Final

NEVER: Final = 0.0


class LastUse:
    """When a credential was used last.

    Attributes:
        at: Unix time in seconds; `NEVER` = not since the server was started.
    """

    __slots__ = ("at",)

    def __init__(self) -> None:
        self.at = NEVER


class LastUses:
    """When all credentials were used, across changes of the rules. `clock` gives the Unix time in seconds.

    Attributes:
        since: the Unix time in seconds from which on they are known.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.since = clock()
        self._uses: defaultdict[tuple[str, str], LastUse] = defaultdict(LastUse)

    def of(self, principal: str, credential: str) -> LastUse:
        """Return the use of a principal's credential, to be read or set."""
        return self._uses[principal, credential]

    def keep(self, principals: Collection[str]) -> None:
        """Forget all but these principals."""
        for key in [key for key in self._uses if key[0] not in principals]:
            del self._uses[key]
