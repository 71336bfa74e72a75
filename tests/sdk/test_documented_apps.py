"""The examples of docs/apps.md and docs/testing.md, run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


FASTAPI = """
class FastAPI:
    def __init__(self, lifespan):
        self.lifespan, self.state, self.routes = lifespan, type("State", (), {})(), {}

    def get(self, path):
        return lambda function: self.routes.setdefault(path, function)

    post = get
"""
"""What the example needs of the package, which is not among the tests' own."""
TEST_WEB = """
import web
from shop import Total


async def test_web(windshift_server, monkeypatch):
    monkeypatch.setenv("WINDSHIFT_ADDRESS", windshift_server.address)
    monkeypatch.setenv("WINDSHIFT_NAMESPACE", "web")
    async with web.web.lifespan(web.web):
        assert await web.web.routes["/orders/{price}"]("3") == {"event": 1}
        await web.web.state.run.idle()
        entry = await web.web.state.client.store("accounting", Total).get("total")
        assert entry.value.value == "3"
        assert await web.web.routes["/readyz"]() == {"ready": True}
"""


def code(document: str, *, web: bool = False) -> str:
    """Return the Python of a document: all of it but that of web.py, or that."""
    examples = re.findall(r"^```python\n(.*?)^```", (DOCS / document).read_text(), re.DOTALL | re.MULTILINE)
    return "\n".join(each for each in examples if each.startswith("# web.py") is web)


def test_examples(tmp_path: Path) -> None:
    """The app of one document passes the tests of the other, also within a web service."""
    (tmp_path / "shop.py").write_text(code("apps.md"))
    (tmp_path / "test_shop.py").write_text(code("testing.md"))
    (tmp_path / "fastapi.py").write_text(FASTAPI)
    (tmp_path / "web.py").write_text(code("apps.md", web=True))
    (tmp_path / "test_web.py").write_text(TEST_WEB)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"],
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=55,
    )
    assert "3 passed" in done.stdout, done.stdout
    assert "handled 1\n" in done.stdout
