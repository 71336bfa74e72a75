"""A hook of mkdocs: what the site has beside docs/, and where links out of docs/ lead to.

Pages link to files of the project as they lie in the repository. On the site README.md and its neighbours
are pages of their own, a .proto file is its page of the reference, a folder is its README.md, and any other
file is shown as it is.
"""

from __future__ import annotations

import posixpath
import re
import subprocess
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
GENERATED = ROOT / "build" / "reference"
"""What scripts/reference.py wrote."""
TOP = ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "SUPPORT.md")
INSTEAD = {
    "proto": "reference/index.md",
    "proto/windshift": "reference/index.md",
    "src/windshift/server/domain/errors.py": "reference/errors.md",
}
"""Pages of the site that tell what is in a file or folder of the repository."""
LANGUAGES = {
    ".cs": "csharp",
    ".go": "go",
    ".java": "java",
    ".js": "js",
    ".ts": "ts",
    ".xml": "xml",
    ".csproj": "xml",
    ".py": "python",
    ".proto": "protobuf",
    ".yaml": "yaml",
    ".json": "json",
    ".service": "ini",
}

_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>(?![a-z]+:|#)[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
_FENCE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    added = {"index.md": (ROOT / "README.md").read_text()}
    added |= {name: (ROOT / name).read_text() for name in TOP}
    added |= {
        f"reference/{path.relative_to(GENERATED)}": path.read_text() for path in GENERATED.rglob("*.md")
    }
    origins = {"index.md": "README.md"} | {name: name for name in TOP}
    wanted = set()
    for file in files.documentation_pages():
        wanted |= outside(f"docs/{file.src_uri}", file.content_string)
    for uri, text in added.items():
        if uri in origins:
            wanted |= outside(origins[uri], text)
    added |= {shown_as(path): shown(path) for path in sorted(wanted)}
    for uri, text in added.items():
        files.append(File.generated(config, uri, content=text))
    _expand(config["nav"], sorted(files.src_uris))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Point the links of a page to where their targets are on the site."""
    uri = page.file.src_uri
    if uri.startswith("source/"):
        return markdown
    origin = "README.md" if uri == "index.md" else uri if uri in TOP else f"docs/{uri}"

    def moved(found: re.Match[str]) -> str:
        target = resolved(origin, found["target"])
        if origin.startswith("docs/") and target.startswith("docs/"):
            return found[0]
        path = posixpath.relpath(place_of(target), posixpath.dirname(uri) or ".")
        anchor = "" if target.endswith(".proto") else found["anchor"] or ""
        return f"[{found['text']}]({path}{anchor})"

    parts = _FENCE.split(markdown)  # what is code stands at odd places
    return "".join(part if at % 2 else _LINK.sub(moved, part) for at, part in enumerate(_joined(parts)))


def _joined(parts: list[str]) -> list[str]:
    """Keep code in the texts of links together with its link."""
    result: list[str] = []
    for at, part in enumerate(parts):
        inline = at % 2 == 1 and not part.startswith("```")
        if result and (inline or (at and len(result) % 2 == 1)):
            result[-1] += part
        else:
            result.append(part)
    return result


def outside(origin: str, text: str) -> set[str]:
    """Return the files and folders that a document links to and that are no pages."""
    targets = {resolved(origin, found["target"]) for found in _LINK.finditer(text)}
    return {
        target
        for target in targets
        if not target.startswith("docs/")
        and target not in {"README.md", *TOP}
        and not (target.startswith("proto/windshift/") and target.endswith(".proto"))
        and target not in INSTEAD
    }


def resolved(origin: str, target: str) -> str:
    """Return the path in the repository that a link of the document `origin` means."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))


def place_of(path: str) -> str:
    """Return where a file or folder of the repository is on the site."""
    if path == "README.md":
        return "index.md"
    if path in TOP:
        return path
    if path in INSTEAD:
        return INSTEAD[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.startswith("proto/windshift/") and path.endswith(".proto"):
        parts = Path(path).with_suffix("").parts
        name = parts[2] if parts[-1] in {"service", parts[2]} else parts[-1]
        return f"reference/api/{name}.md"
    return shown_as(path)


def shown_as(path: str) -> str:
    """Return the page that shows a file or folder of the repository as it is."""
    return f"source/{path.removeprefix('.')}.md"  # the site leaves out what begins with a dot


def shown(path: str) -> str:
    """Return such a page."""
    head = f"---\nsearch:\n  exclude: true\n---\n\n# {path}\n\n"
    target = ROOT / path
    if target.is_dir():
        if (target / "README.md").exists():
            return head + _LINK.sub(r"\g<text>", (target / "README.md").read_text()).partition("\n")[2]
        listed = subprocess.run(
            ["git", "ls-files", path], cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE
        ).stdout.split()
        return head + "\n".join(f"- `{name}`" for name in listed) + "\n"
    return f"{head}````{LANGUAGES.get(target.suffix, 'text')}\n{target.read_text()}````\n"


def _expand(nav: list[Any], uris: list[str]) -> None:
    """Put the pages of a folder in the place of an entry that names it."""
    for at, entry in reversed(list(enumerate(nav))):
        if isinstance(entry, str) and entry.endswith("/"):
            nav[at : at + 1] = [uri for uri in uris if uri.startswith(entry) and uri.endswith(".md")]
        for below in entry.values() if isinstance(entry, dict) else ():
            if isinstance(below, list):
                _expand(below, uris)
