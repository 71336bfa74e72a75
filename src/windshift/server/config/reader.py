"""Typed reading of environment variables: one line for each wrong one, all of them at once."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Mapping
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)
N = TypeVar("N", int, float)

_TRUE = frozenset({"1", "t", "true", "y", "yes", "on"})
_FALSE = frozenset({"0", "f", "false", "n", "no", "off"})
_MILLISECONDS_FROM = 1000
_LONGEST_MILLISECONDS = 86_400_000
_GO_DURATION = re.compile(r"([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+")

_LONGEST_PATH = 4095
_CONTENT = re.compile(
    r"[\x00-\x1f\x7f]|-----BEGIN|LS0tLS1CRUdJTi|\bws_[A-Za-z0-9_-]{43}|\beyJ[A-Za-z0-9_-]{16,}\."
    r"|\bS[ACNOUX][A-Z2-7]{56}\b"
)
"""What a file may hold and no path has: lines, PEM, that in base64, tokens, the seed of an nkey."""


class ConfigurationError(Exception):
    """One or more variables have wrong values. `problems` holds a line for each."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Reader:
    """Read typed values out of a mapping, and remember what was wrong with them.

    A wrong value reads as its default, so that the rest can be looked at too; `finish` raises.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._problems: list[str] = []

    def finish(self) -> None:
        """Raise `ConfigurationError` if anything was wrong."""
        if self._problems:
            raise ConfigurationError(tuple(self._problems))

    def problem(self, name: str, text: str) -> None:
        """Note what is wrong with a variable. The text must hold no secret."""
        self._problems.append(f"{name}: {text}")

    def text(self, name: str) -> str | None:
        """Give the value without surrounding blanks; None when it is absent or empty."""
        return self._environment.get(name, "").strip() or None

    def parsed(self, name: str, default: T, parse: Callable[[str], T], allowed: str) -> T:
        """Give `parse(value)`; a ValueError means that the value is not `allowed`."""
        value = self.text(name)
        if value is None:
            return default
        try:
            return parse(value)
        except ValueError:
            self.problem(name, f"{value!r} is not allowed; use {allowed}")
            return default

    def secret(self, name: str, default: T, parse: Callable[[str], T]) -> T:
        """Give `parse(value)`; a wrong value is not shown: the ValueError's text must say what to do."""
        value = self.text(name)
        if value is None:
            return default
        try:
            return parse(value)
        except ValueError as error:
            self.problem(name, str(error))
            return default

    def boolean(self, name: str, *, default: bool = False) -> bool:
        """Read true or false, in the usual spellings."""
        return self.parsed(name, default, _boolean, "true or false")

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """Read a whole number from `low` to `high`."""

        def parse(value: str) -> int:
            return _within(_whole(value), low, high)

        return self.parsed(name, default, parse, f"a whole number from {low} to {high}")

    def port(self, name: str, default: int) -> int:
        """Read a TCP port; 0 means any free one."""
        return self.integer(name, default, 0, 65535)

    def seconds(self, name: str, default: float, high: float, low: float = 0) -> timedelta:
        """Read seconds, fractions allowed, from `low` to `high`."""

        def parse(value: str) -> timedelta:
            return timedelta(seconds=_within(float(value), low, high))

        return self.parsed(name, timedelta(seconds=default), parse, f"seconds from {low:g} to {high:g}")

    def telemetry_seconds(self, name: str, default: timedelta) -> timedelta:
        """Read seconds, or from 1000 on milliseconds, which are OpenTelemetry's own unit."""
        return self.parsed(name, default, _telemetry_seconds, "seconds, or milliseconds from 1000 on")

    def flush_interval(self, name: str, default: str) -> str:
        """Read how often to flush: a duration as nats-server writes them, or ``always``."""
        return self.parsed(name, default, _flush_interval, "a duration such as 500ms, 1s or 2m, or always")

    def choice(self, name: str, default: E, aliases: Mapping[str, str] | None = None) -> E:
        """Read one of an enumeration's values, in any case."""
        kind = type(default)

        def parse(value: str) -> E:
            lower = value.lower()
            return kind((aliases or {}).get(lower, lower))

        return self.parsed(name, default, parse, "one of " + ", ".join(kind))

    def endpoint(self, name: str, *, bare: bool = False) -> str | None:
        """Read an http or https URL, or `bare` ``host:port``; credentials are not shown when it is wrong."""
        return self.secret(name, None, _endpoint_or_address if bare else _endpoint)

    def pairs(self, name: str) -> tuple[tuple[str, str], ...]:
        """Read ``key=value`` pairs separated by commas, percent-encoded; values may be secret."""
        return self.secret(name, (), _pairs)

    def ratio(self, name: str, default: float) -> float:
        """Read a share from 0 to 1."""
        return self.parsed(name, default, lambda value: _within(float(value), 0, 1), "a number from 0 to 1")

    def milliseconds(self, name: str, default: timedelta) -> timedelta:
        """Read milliseconds, at least 1."""

        def parse(value: str) -> timedelta:
            return timedelta(milliseconds=_within(_whole(value), 1, _LONGEST_MILLISECONDS))

        return self.parsed(name, default, parse, "milliseconds, at least 1")

    def path(self, name: str) -> Path | None:
        """Read a path, absolute or not; ``~`` and ``~user`` are homes."""
        return self.secret(name, None, _path)

    def file(self, name: str) -> Path | None:
        """Read the path of a file that can be read."""
        path = self.path(name)
        if path is not None and (why := _unusable(path, os.R_OK)):
            self.problem(name, f"cannot read the file '{path}' ({why}); name one that exists and may be read")
        return path

    def program(self, name: str) -> Path | None:
        """Read the path of a program that may be run."""
        path = self.path(name)
        if path is not None and (why := _unusable(path, os.X_OK)):
            self.problem(name, f"'{path}' is no program that may be run ({why}); name one that is")
        return path

    def host(self, name: str, default: str) -> str:
        """Read a host name or address without a port."""
        return self.parsed(name, default, _host, "a host name or an address, without a port")


def _boolean(value: str) -> bool:
    lower = value.lower()
    if lower in _TRUE:
        return True
    if lower in _FALSE:
        return False
    raise ValueError


def _whole(value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise ValueError
    return int(value)


def _within(number: N, low: float, high: float) -> N:
    if not low <= number <= high:
        raise ValueError
    return number


def _telemetry_seconds(value: str) -> timedelta:
    number = _within(float(value), 0.001, _LONGEST_MILLISECONDS)
    return timedelta(milliseconds=number) if number >= _MILLISECONDS_FROM else timedelta(seconds=number)


def _flush_interval(value: str) -> str:
    if value == "always":
        return value
    if not _GO_DURATION.fullmatch(value) or not re.search("[1-9]", value):
        raise ValueError
    return value


def _endpoint(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]+\S*", value):
        raise ValueError("an endpoint must be a URL that begins with http:// or https://")
    return value


def _endpoint_or_address(value: str) -> str:
    return (
        value
        if re.fullmatch(r"[0-9A-Za-z._-]+:[0-9]+|\[[0-9a-fA-F:.]+\]:[0-9]+", value)
        else _endpoint(value)
    )


def _pairs(value: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for member in filter(None, map(str.strip, value.split(","))):
        key, separator, text = member.partition("=")
        if not separator or not key.strip():
            raise ValueError(
                "it must be key=value pairs, separated by commas, with %2C for a comma in a value"
            )
        pairs.append((unquote(key.strip()), unquote(text.strip())))
    return tuple(pairs)


def _unusable(path: Path, mode: int) -> str | None:
    """Say why a file cannot be used so (`os.R_OK`, `os.X_OK`). None: it can. It is not opened: pipes wait."""
    try:
        found = path.stat()
    except OSError as error:  # also when one of its directories is closed to this user
        return error.strerror
    if not stat.S_ISREG(found.st_mode):
        return "not a regular file"
    return None if os.access(path, mode) else os.strerror(errno.EACCES)


def _path(value: str) -> Path:
    if len(value) > _LONGEST_PATH or _CONTENT.search(value) is not None:
        raise ValueError("needs a path, and has what looks like the content of the file; write that into one")
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError as error:  # there is no such user, or the user has no home
        raise ValueError(f"{value!r} is not allowed; use a path; ~ needs a home directory") from error


def _host(value: str) -> str:
    host = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    if not re.fullmatch(r"[0-9A-Za-z._%:-]+", host) or (":" in host and host.count(":") < 2):
        raise ValueError
    return host
