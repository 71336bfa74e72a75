"""Contexts: named servers with what is needed to reach them, in a TOML file.

::

    selected = "dev"

    [contexts.prod]
    address = "a.example:8080,b.example:8080"
    token_file = "~/prod.token"     # or token_env, token_command, or an oidc table
    namespace = "shop"
    tls = { ca = "prod-ca.pem" }    # or true for the system's authorities

    [contexts.prod.oidc]
    issuer = "https://id.example"
    client_id = "ci"
    client_secret_env = "CI_SECRET" # or client_secret_file
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from .credentials import Token, TokenSource
from .errors import SettingsError, TokenUnavailable

_COMMAND_TIMEOUT = 30.0  # seconds


class Context(NamedTuple):
    """What a context says.

    Attributes:
        address: `host:port` of each server; None = not said.
        token: source of the token.
        tls: paths of the files `ca`, `cert` and `key`; True = the system's authorities.
        namespace: prefix of names and subjects.
    """

    address: str | None = None
    token: TokenSource | None = None
    tls: Mapping[str, Path] | bool = False
    namespace: str | None = None


def contexts_path(environment: Mapping[str, str]) -> Path:
    """Return the file's path: `windshift/contexts.toml` in `$XDG_CONFIG_HOME`, by default `~/.config`."""
    configured = environment.get("XDG_CONFIG_HOME")
    folder = Path(configured) if configured else Path("~/.config").expanduser()
    return folder / "windshift" / "contexts.toml"


def read_context(
    name: str | None, path: Path, environment: Mapping[str, str], problems: list[str]
) -> Context:
    """Read a context, or without a name the selected one, if there is any; `problems` gets what is wrong."""
    import tomllib  # noqa: PLC0415 -- most clients have no contexts

    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        document = {}
    except (OSError, ValueError) as error:
        problems.append(f"{path} cannot be read: {error}")
        return Context()
    name = document.get("selected") if name is None else name
    contexts = document.get("contexts", {})
    if name is None:
        return Context()
    known = contexts if isinstance(contexts, dict) and isinstance(name, str) else {}
    if not isinstance(known.get(name), dict):
        problems.append(f"there is no context {name!r} in {path}")
        return Context()
    table = _Table(known[name], f"context {name!r} in {path}", path.parent, environment, problems)
    table.skip("descriptors")  # for the command line
    result = Context(table.text("address"), _token(table), _tls(table), table.text("namespace"))
    table.finish()
    return result


class _Table:
    """Reads the entries of a table, and notes what is wrong with them."""

    def __init__(
        self,
        entries: dict[str, Any],
        where: str,
        folder: Path,
        environment: Mapping[str, str],
        problems: list[str],
    ) -> None:
        self._entries = dict(entries)
        self._where = where
        self._folder = folder
        self._environment = environment
        self._problems = problems

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def skip(self, key: str) -> Any:
        """Take an entry that needs no check."""
        return self._entries.pop(key, None)

    def text(self, key: str) -> str | None:
        value = self.skip(key)
        if value is None or (isinstance(value, str) and value):
            return value
        self.wrong(f"{key} is not a text")
        return None

    def path(self, key: str) -> Path | None:
        """Take a path; a relative one begins at the file's folder."""
        value = self.text(key)
        return None if value is None else self._folder / Path(value).expanduser()

    def variable(self, key: str) -> str | None:
        """Take the name of a variable, and return what that has."""
        name = self.text(key)
        if name is None:
            return None
        if not self._environment.get(name):
            self.wrong(f"{key} names {name}, which is not set")
        return self._environment.get(name) or None

    def inner(self, key: str, value: Any) -> _Table | None:
        """Read the value of an entry as a table."""
        if isinstance(value, dict):
            return _Table(value, f"{key} of {self._where}", self._folder, self._environment, self._problems)
        self.wrong(f"{key} is not a table")
        return None

    def finish(self) -> None:
        """Note what is left."""
        if self._entries:
            self.wrong(f"has the unknown {', '.join(map(repr, sorted(self._entries)))}")

    def wrong(self, what: str) -> None:
        self._problems.append(f"{self._where}: {what}")


def _token(table: _Table) -> TokenSource | None:
    readers: dict[str, Callable[[], TokenSource | None]] = {
        "token_file": lambda: table.path("token_file"),
        "token_env": lambda: table.variable("token_env"),
        "token_command": lambda: _command(table),
        "oidc": lambda: _oidc(table),
    }
    given = [key for key in readers if key in table]
    if len(given) > 1:
        table.wrong(f"has {' and '.join(given)}; one is enough")
    sources = [readers[key]() for key in given]
    return sources[0] if sources else None


def _command(table: _Table) -> TokenSource | None:
    import shlex  # noqa: PLC0415 -- few contexts have a command

    value = table.skip("token_command")
    try:
        words = shlex.split(value) if isinstance(value, str) else list(value)
    except (TypeError, ValueError):
        words = []
    if not words or not all(isinstance(word, str) for word in words):
        table.wrong("token_command is not a command")
        return None
    return partial(token_of_command, words)


def _oidc(table: _Table) -> TokenSource | None:
    from .client_credentials import ClientCredentials  # noqa: PLC0415 -- few contexts have it

    inner = table.inner("oidc", table.skip("oidc"))
    if inner is None:
        return None
    has_secret = "client_secret_file" in inner or "client_secret_env" in inner
    issuer, client = inner.text("issuer"), inner.text("client_id")
    file, variable = inner.path("client_secret_file"), inner.variable("client_secret_env")
    audience, scope, ca = inner.text("audience"), inner.text("scope"), inner.path("ca")
    inner.finish()
    secret = file or variable
    if not (issuer and client and has_secret):
        inner.wrong("needs issuer, client_id, and client_secret_file or client_secret_env")
        return None
    if not secret:  # what it names is not there, which was said
        return None
    try:
        return ClientCredentials(
            issuer=issuer, client_id=client, client_secret=secret, audience=audience, scope=scope, ca=ca
        )
    except SettingsError as error:
        inner.wrong(error.message)
        return None


def _tls(table: _Table) -> Mapping[str, Path] | bool:
    value = table.skip("tls") if "tls" in table else False
    if isinstance(value, bool):
        return value
    inner = table.inner("tls", value)
    if inner is None:
        return False
    files = {part: path for part in ("ca", "cert", "key") if (path := inner.path(part)) is not None}
    inner.finish()
    return files or True


async def token_of_command(words: Sequence[str]) -> Token:
    """Return the token that a program prints. It is run again when the server refuses the token.

    Raises:
        TokenUnavailable: it failed, or took longer than 30 seconds.
    """
    name = words[0]
    try:
        process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    except OSError as error:
        raise TokenUnavailable(f"{name} cannot be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(_COMMAND_TIMEOUT):
            printed, _ = await process.communicate()
    except TimeoutError:
        raise TokenUnavailable(f"{name} took longer than {_COMMAND_TIMEOUT:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        raise TokenUnavailable(f"{name} ended with status {process.returncode}")
    return Token(printed.decode("utf-8", "replace"))
