"""The examples of docs/sdk.md, run as they stand there."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import django
import flask
import pytest
from django.conf import settings as django_settings
from django.db import connections, transaction

import windshift as ws

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "sdk.md"
EXPECTED = """\
stored as event 1
999 more
the last is 1001
Order(order_id='7', cents=3490)
1001 events, ('orders.>',)
1001 pending
992 would be delivered anew
1
accounting pending no_subscriber
1001 orders.placed
at least one: True
991 purged
3 GiveUp no letter
3 True
ann is not what it was
ann has 7
bob has 8
0 were late
0 replayed
0 replays cancelled, 0 delivered
0 purged
sending hello
mails.new
"""


async def test_examples(
    server: str,
    unique: Callable[[], str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every example runs, and prints what it should."""
    monkeypatch.setenv("WINDSHIFT_NAMESPACE", unique())
    monkeypatch.setenv("WINDSHIFT_ADDRESS", server)
    examples = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    code = "\n".join(examples).replace("127.0.0.1:8080", server).replace("asyncio.run(main())", "")
    functions = re.findall(r"^async def (\w+)\((client)?\)", code, re.MULTILINE)[1:]
    steps = "\n".join(f"        await {name}({client})" for name, client in functions)
    code += (
        f"\n\nasync def all_of_it():\n    await main()\n    async with ws.connect({server!r}) as client:\n"
    )
    code += steps
    code += "\n        await asyncio.to_thread(script)"
    names: dict[str, Any] = {"asyncio": asyncio, "__name__": __name__}
    exec(compile(code, DOCUMENT.name, "exec"), names)  # noqa: S102 -- our own document
    await names["all_of_it"]()
    assert capsys.readouterr().out == EXPECTED
    await asyncio.to_thread(_flask, names["web_service"])
    await asyncio.to_thread(_django, names["place_order"])


def _flask(web_service: Callable[[], flask.Flask]) -> None:
    """See that a request stores an event, once."""
    browser = web_service().test_client()
    answers = [browser.post("/orders/9").json for _ in range(2)]
    assert answers == [{"event": 1002}] * 2


def _django(place_order: Callable[[SimpleNamespace], None]) -> None:
    """See that a transaction stores its event when it is committed, and none when it is not."""
    if not django_settings.configured:
        database = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
        django_settings.configure(DATABASES={"default": database}, LOGGING_CONFIG=None)
        django.setup()
    stream = ws.sync.shared().stream("orders")
    with transaction.atomic():
        place_order(SimpleNamespace(pk=10))
        transaction.set_rollback(True)
    with transaction.atomic():
        place_order(SimpleNamespace(pk=8))
        assert stream.info().last_id == 1002
    assert stream.info().last_id == 1003
    connections.close_all()
