"""Authorization files for tests, and the tokens of the principals in them."""

from __future__ import annotations

import os
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

ALL = """
[role.all]
publish = [">"]
streams.manage = ["*"]
streams.purge = ["*"]
streams.ephemeral = ["*"]
streams.bind = [">"]
streams.consume = ["*"]
streams.subjects = [">"]
streams.delete = ["*"]
consumers = { use = ["*"], reject = ["*"], delete = ["*"], control = ["*"] }
stores = { manage = ["*"], read = ["*"], write = ["*"], keys = [">"] }
dead_letters = { read = ["*"], replay = ["*"], purge = ["*"], consumers = ["*"] }
server = { observe = ["*"], control = ["*"] }
quotas.memory_streams = "off"
"""
"""A role that may do everything. Tests that share a nats-server leave hundreds of streams in its memory."""


def token_of(principal: str, version: int = 1) -> str:
    """Return a principal's token: always the same, so that rows of a table can name it."""
    secret = urlsafe_b64encode(sha256(f"{principal} {version}".encode()).digest()).decode().rstrip("=")
    return f"ws_{principal}_{secret}"


def digest_of(principal: str, version: int = 1) -> str:
    """Return what the file says of that token."""
    return sha256(token_of(principal, version).encode()).hexdigest()


def principal(name: str, *roles: str, more: str = "") -> str:
    """Write a principal that has a token; its role has its name when no other is given."""
    listed = ", ".join(f'"{role}"' for role in roles or (name,))
    return f"""
[[principals]]
name = "{name}"
token_sha256 = ["{digest_of(name)}"]
roles = [{listed}]
{more}"""


def one_for_each(roles: Iterable[str]) -> str:
    """Write a principal for each role, with its name."""
    return "".join(principal(role) for role in roles)


def put(file: Path, text: str) -> Path:
    """Replace a file at once, as a careful operator does."""
    new = file.with_name(f".{file.name}.new")
    new.write_text(text)
    new.chmod(0o600)
    os.replace(new, file)  # noqa: PTH105 - Path.replace says less plainly that it is one step
    return file
