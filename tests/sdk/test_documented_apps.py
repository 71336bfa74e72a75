"""The examples of docs/apps.md and docs/testing.md, run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def code(document: str) -> str:
    """Return the Python of a document."""
    examples = re.findall(r"^```python\n(.*?)^```", (DOCS / document).read_text(), re.DOTALL | re.MULTILINE)
    return "\n".join(examples)


def test_examples(tmp_path: Path) -> None:
    """The app of one document passes the tests of the other."""
    (tmp_path / "shop.py").write_text(code("apps.md"))
    (tmp_path / "test_shop.py").write_text(code("testing.md"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"],
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=55,
    )
    assert "2 passed" in done.stdout, done.stdout
    assert "handled 1\n" in done.stdout
