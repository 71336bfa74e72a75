"""The last hour in numbers, without a broker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

from windshift.server.admin.history import History, _Sample
from windshift.server.admin.look import ConsumerRow
from windshift.server.events.model import ConsumerKey


class Consumers:
    """A look at consumers, one of each stream, and counts of their dead letters: they have none."""

    async def consumers_of(self, streams: Sequence[str], _deadline: float) -> list[ConsumerRow]:
        """Return them."""
        return [ConsumerRow(ConsumerKey(name, "c"), 1, 0, True, "") for name in streams]

    def silent_last(self, streams: Iterable[str]) -> list[str]:
        """Return them in order."""
        return sorted(streams)

    async def of(self, whose: Sequence[tuple[str, str]], _deadline: float) -> dict[tuple[str, str], int]:
        """Count none."""
        return dict.fromkeys(whose, 0)


async def test_streams_at_rest() -> None:
    """Their consumers are as they were."""
    look: Any = Consumers()
    history = History(look, look, SimpleNamespace(answer=lambda *_: None))  # type: ignore[arg-type]
    rows: list[Any] = [SimpleNamespace(name=f"S{number}", consumers=1) for number in range(3)]
    names, deadline = {row.name for row in rows}, asyncio.get_running_loop().time() + 60
    for step, active in ((0, names), (1, {"S0"})):
        history._active = lambda _, active=active: active  # type: ignore[method-assign, misc]
        after = _Sample(step=step)
        await history._sample_consumers(rows, after, deadline)
        history._before = after
    assert {name for name, ring in history._consumers.items() if ring.last == 1} == {
        f"{name}/c" for name in names
    }
