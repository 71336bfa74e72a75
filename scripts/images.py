"""Pin the images that the Dockerfile and compose.yaml name, by digest: `make images`.

Asks the registries, through Docker, which digest each tag has now, and writes it behind the tag
(`name:tag@sha256:…`), so that the same image is pulled until this is run again. Needs Docker with buildx,
and a network.

    images.py DOCKER [ARGUMENT…]   the program that asks, such as docker
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_DIGEST = r"(@sha256:[0-9a-f]{64})?"
_BASE = re.compile(rf"(?m)^(ARG PYTHON=)([\w.-]+){_DIGEST}$")
_IMAGE = re.compile(rf"(?m)^(\s+image: )([\w./-]+:[\w.-]+){_DIGEST}$")

Ask = Callable[[str], str]
"""Returns the digest of an image, such as ``sha256:…``."""


def pinned_dockerfile(text: str, ask: Ask) -> str:
    """Return the Dockerfile with its base image pinned: the argument is a tag of `python` with its digest."""
    return _BASE.sub(lambda found: f"{found[1]}{found[2]}@{ask(f'python:{found[2]}')}", text)


def pinned_compose(text: str, ask: Ask) -> str:
    """Return a compose file with its images pinned, but for those that have no tag: they are built here."""
    return _IMAGE.sub(lambda found: f"{found[1]}{found[2]}@{ask(found[2])}", text)


def digest_in(answer: str) -> str:
    """Return the digest in what buildx says of an image as JSON, that of all its platforms together.

    Raises:
        ValueError: it says something else.
    """
    digest = json.loads(answer)["digest"]
    if not re.fullmatch("sha256:[0-9a-f]{64}", digest):
        raise ValueError(f"{digest} is no digest")
    return str(digest)


def main(docker: list[str]) -> int:
    """Pin all images, and return the exit status."""

    def ask(image: str) -> str:
        # As JSON: of a format that begins with `{{.Manifest`, buildx makes a table.
        command = [*docker, "buildx", "imagetools", "inspect", "--format", "{{json .Manifest}}", image]
        digest = digest_in(subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout)
        print(f"{image} is {digest}")
        return digest

    for name, pinned in (("Dockerfile", pinned_dockerfile), ("compose.yaml", pinned_compose)):
        file = ROOT / name
        file.write_text(pinned(file.read_text(), ask))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
