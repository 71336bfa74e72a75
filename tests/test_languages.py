"""The pages about other languages show what their examples have, which `make languages` runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples" / "languages"
SOURCES = {
    "go": "main.go",
    "node": "main.js",
    "typescript": "main.ts",
    "java": "src/main/java/shop/Main.java",
    "csharp": "Program.cs",
}


def bare(text: str) -> str:
    """Return a text without what its lines are indented by."""
    return "\n".join(line.strip() for line in text.strip().splitlines())


@pytest.mark.parametrize("language", SOURCES)
def test_pages_show_the_examples(language: str) -> None:
    """Every piece of code on a page stands in its example."""
    page = (ROOT / "docs" / "languages" / f"{language}.md").read_text()
    files = (EXAMPLES / language / name for name in (SOURCES[language], "buf.gen.yaml"))
    example = bare("\n".join(file.read_text() for file in files if file.exists()))
    shown = re.findall(r"^```(?:go|js|ts|java|csharp|yaml)\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(shown) >= 4
    assert [block for block in shown if bare(block) not in example] == []


def test_page_shows_the_service_config() -> None:
    """What the page shows is what the examples use."""
    page = (ROOT / "docs" / "languages" / "index.md").read_text()
    (shown,) = re.findall(r"^```json\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert json.loads(shown) == json.loads((EXAMPLES / "service-config.json").read_text())
