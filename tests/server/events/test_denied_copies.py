"""What streams copy without a right to it, while some have no leader, without a broker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from windshift.nats import Unavailable
from windshift.nats.jetstream.api import JsonObject, Page
from windshift.server.domain.errors import PermissionDenied
from windshift.server.events import copies as copies_module
from windshift.server.events.copies import Copies, with_copier
from windshift.server.events.losses import Copied


class Streams:
    """A broker that has mirrors, which somebody made.

    Attributes:
        names: of those that have a leader.
        missing: of the others.
        failure: why nothing is listed.
    """

    def __init__(self, *names: str) -> None:
        self.names: tuple[str, ...] = names
        self.missing: frozenset[str] = frozenset()
        self.failure: Unavailable | None = None

    async def pages(self, *_: object) -> AsyncIterator[Page]:
        """List them."""
        if self.failure is not None:
            raise self.failure
        items: list[JsonObject] = [
            {"config": with_copier({"name": name, "mirror": {"name": "ORIGIN"}}, "ann")}
            for name in self.names
        ]
        yield Page(items, len(items), self.missing)


async def test_a_copy_without_a_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as before while its principal has no right, and is told once."""
    is_allowed, told = False, list[str]()

    def judge(*_: object) -> None:
        if not is_allowed:
            raise PermissionDenied("ann", "copy it", "copy", "ORIGIN >", "")

    monkeypatch.setattr(copies_module, "require_of", judge)
    authenticator = SimpleNamespace(principals={"ann": object()})
    access: Any = SimpleNamespace(on_replaced=[], authenticator=authenticator)
    audit: Any = SimpleNamespace(copying=lambda stream, *_: told.append(stream))
    broker = Streams("A", "B")
    copies = Copies(cast("Any", broker), access, audit)
    await copies._judge()
    broker.names, broker.missing = ("A",), frozenset({"B", "never seen"})
    await copies._judge()
    assert copies.denied.keys() == {("A", Copied("ORIGIN", ">")), ("B", Copied("ORIGIN", ">"))}
    broker.names, broker.missing = ("A", "B"), frozenset()
    await copies._judge()
    assert told == ["A", "B"]
    broker.names, broker.missing, is_allowed = ("A",), frozenset({"B"}), True
    await copies._judge()
    assert copies.denied == {}


async def test_pauses() -> None:
    """Streams without a leader are looked at again soon, and less and less often; a failure soon."""
    access: Any = SimpleNamespace(on_replaced=[])
    broker = Streams()
    copies = Copies(cast("Any", broker), access, cast("Any", None))
    assert await copies._judge() == 600
    broker.missing = frozenset({"A"})
    assert [await copies._judge() for _ in range(8)] == [10, 20, 40, 80, 160, 320, 600, 600]
    broker.failure = Unavailable()
    assert await copies._judge() == 10
    broker.missing, broker.failure = frozenset(), None
    assert await copies._judge() == 600
    broker.missing = frozenset({"A"})
    assert await copies._judge() == 10
