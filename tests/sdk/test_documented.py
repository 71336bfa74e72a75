"""The examples of docs/sdk.md, run as they stand there."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

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
event 1002
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
    code += "\n        await asyncio.to_thread(script)\n        await asyncio.to_thread(place_order, Placed)"
    monkeypatch.setitem(sys.modules, "django", SimpleNamespace())
    transaction = SimpleNamespace(on_commit=lambda done: sys.stdout.write(f"event {done().id}\n"))
    monkeypatch.setitem(sys.modules, "django.db", SimpleNamespace(transaction=transaction))
    names: dict[str, object] = {
        "asyncio": asyncio,
        "__name__": __name__,
        "Placed": SimpleNamespace(pk=8),
    }
    exec(compile(code, DOCUMENT.name, "exec"), names)  # noqa: S102 -- our own document
    await names["all_of_it"]()  # type: ignore[operator] # it is the function above
    assert capsys.readouterr().out == EXPECTED
