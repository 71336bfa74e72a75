"""Parsers of environment variables: text in, a value or a ValueError out."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from urllib.parse import unquote

from windshift.server.config.cores import usable_cores

if TYPE_CHECKING:
    from windshift.nats import ServerAddress  # imports asyncio, which `--help` and probes do without

T_co = TypeVar("T_co", covariant=True)
E = TypeVar("E", bound=StrEnum)
N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True)
class Parser(Generic[T_co]):
    """How the text of a setting becomes its value."""

    parse: Callable[[str], T_co]
    """Raises ValueError for a wrong value."""
    allowed: str = ""
    """What the error message suggests after quoting the value.

    Empty where the value may be secret: the ValueError's text is then the message, and must not repeat it.
    """
    hint: str = ""
    """The range or the choices, for the documentation."""
    example: str = ""
    check: Callable[[Any], str] = lambda _: ""
    """Returns what is wrong with a value that is well-formed; empty when nothing is."""
    secret: bool = False
    """Whether a correct value may hold credentials."""


# --- Numbers and times ------------------------------------------------------------------------------------

_MILLISECONDS_FROM: Final = 1000
_DAY_IN_MILLISECONDS: Final = 86_400_000
_GO_DURATION: Final = re.compile(r"always|(?=.*[1-9])([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+")


def integer(low: int, high: int, unit: int = 1) -> Parser[int]:
    """Parse a whole number from `low` to `high`, and multiply it by `unit`."""
    return Parser(
        lambda text: _within(_whole(text), low, high) * unit,
        f"a whole number from {low} to {high}",
        f"{low:,} to {high:,}",
    )


def seconds(low: float, high: float) -> Parser[timedelta]:
    """Parse seconds from `low` to `high`, fractions allowed."""
    return Parser(
        lambda text: timedelta(seconds=_within(float(text), low, high)),
        f"seconds from {low:g} to {high:g}",
        f"{low:,g} to {high:,g}",
    )


def _otel_seconds(text: str) -> timedelta:
    number = _within(float(text), 0.001, _DAY_IN_MILLISECONDS)
    return timedelta(milliseconds=number) if number >= _MILLISECONDS_FROM else timedelta(seconds=number)


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError
    return int(text)


def _within(number: N, low: float, high: float) -> N:
    if not low <= number <= high:
        raise ValueError
    return number


def _matching(pattern: re.Pattern[str], problem: str = "") -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(problem)
        return text

    return parse


SHARES_PORTS: Final = sys.platform == "linux"
"""Whether connections to one port are spread over the processes that listen there. Other systems have
SO_REUSEPORT too, and give all connections to one of them."""
_MOST_WORKERS: Final = 64


def _workers(text: str) -> int:
    if text.lower() != "auto":
        return _within(_whole(text), 1, _MOST_WORKERS)
    return min(usable_cores(), _MOST_WORKERS) if SHARES_PORTS else 1


workers: Final = Parser(
    _workers, f"a whole number from 1 to {_MOST_WORKERS}, or auto", f"1 to {_MOST_WORKERS}, or auto"
)
port: Final = replace(integer(0, 65535), hint="")
ratio: Final = Parser(lambda text: _within(float(text), 0, 1), "a number from 0 to 1", "0 to 1")
milliseconds: Final = Parser(
    lambda text: timedelta(milliseconds=_within(_whole(text), 1, _DAY_IN_MILLISECONDS)),
    "milliseconds, at least 1",
)
otel_seconds: Final = Parser(_otel_seconds, "seconds, or milliseconds from 1000 on")
"""Seconds; from 1000 on milliseconds, OpenTelemetry's own unit."""
flush_interval: Final = Parser(_matching(_GO_DURATION), "a duration such as 500ms, 1s or 2m, or always")
"""A duration in nats-server's notation, or ``always``."""

# --- Words ------------------------------------------------------------------------------------------------

_TRUE: Final = frozenset({"1", "t", "true", "y", "yes", "on"})
_FALSE: Final = frozenset({"0", "f", "false", "n", "no", "off"})
_PROPAGATORS: Final = ("tracecontext", "baggage", "none")


def choice(kind: type[E], **aliases: str) -> Parser[E]:
    """Parse one of an enumeration's values, or an alias of one, in any case."""
    words = ", ".join(kind)
    return Parser(lambda text: kind(aliases.get(text.lower(), text.lower())), f"one of {words}", words)


def _boolean(text: str) -> bool:
    if text.lower() not in _TRUE | _FALSE:
        raise ValueError
    return text.lower() in _TRUE


def _propagators(text: str) -> tuple[str, ...]:
    names = tuple(name.strip().lower() for name in text.split(",") if name.strip())
    if not names or not all(name in _PROPAGATORS or _has_propagator(name) for name in names):
        raise ValueError
    return names


def _has_propagator(name: str) -> bool:
    from importlib.metadata import entry_points  # noqa: PLC0415 - 1 MB that is rarely needed

    return bool(entry_points(group="opentelemetry_propagator", name=name))


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    members = [member.partition("=") for member in text.split(",") if member.strip()]
    if not all(separator and key.strip() for key, separator, _ in members):
        raise ValueError("it must be key=value pairs, separated by commas, with %2C for a comma in a value")
    return tuple((unquote(key.strip()), unquote(value.strip())) for key, _, value in members)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names or not all(re.fullmatch(r"[A-Za-z0-9_-]{1,255}", name) for name in names):
        raise ValueError
    return names


text: Final = Parser(str)
names: Final = Parser(_names, "names of streams, separated by commas, or all", example="ORDERS,KV_accounts")
boolean: Final = Parser(_boolean, "true or false")
pairs: Final = Parser(_pairs, secret=True, example="key=value")
"""Percent-encoded ``key=value`` pairs separated by commas."""
propagators: Final = Parser(
    _propagators,
    f"some of {', '.join(_PROPAGATORS)}, separated by commas; others, such as b3, can be used once the "
    "package that has them is installed (opentelemetry-propagator-b3 for b3 and b3multi)",
)

# --- Addresses --------------------------------------------------------------------------------------------

URL_EXPECTED: Final = "an endpoint must be a URL that begins with http:// or https://"
_ENDPOINT: Final = re.compile(r"https?://[^\s/]+\S*|[0-9A-Za-z._-]+:[0-9]+|\[[0-9a-fA-F:.]+\]:[0-9]+")


def _host(text: str) -> str:
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not re.fullmatch(r"[0-9A-Za-z._%:-]+", host) or host.count(":") == 1:
        raise ValueError
    return host


def _networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(each.strip()) for each in text.split(",") if each.strip())


def _servers(text: str) -> tuple[ServerAddress, ...]:
    if not text:
        return ()
    from windshift.nats import parse_servers  # noqa: PLC0415 - as above

    return parse_servers(text)


host: Final = Parser(_host, "a host name or an address, without a port")
endpoint: Final = Parser(_matching(_ENDPOINT, URL_EXPECTED), secret=True, example="http://127.0.0.1:4317")
"""An http or https URL, or ``host:port``."""
networks: Final = Parser(
    _networks,
    "addresses and networks such as 192.0.2.1, 10.0.0.0/8 or 2001:db8::/32, separated by commas; the bits of "
    "a network behind its length are zero",
    example="10.0.0.0/8",
)
"""IP addresses and networks; none for empty text."""
servers: Final = Parser(_servers, secret=True, example="nats://127.0.0.1:4222")
"""The URLs of NATS servers; none for empty text."""

# --- Paths ------------------------------------------------------------------------------------------------

_LONGEST_PATH: Final = 4095
_CONTENT: Final = re.compile(
    r"[\x00-\x1f\x7f]|-----BEGIN|LS0tLS1CRUdJTi|\bws_[A-Za-z0-9_-]{43}|\beyJ[A-Za-z0-9_-]{16,}\."
    r"|\bS[ACNOUX][A-Z2-7]{56}\b"
)
"""What a file may hold but no path does: line breaks, PEM, base64 of PEM, tokens, nkey seeds."""


def _path(text: str) -> Path:
    if len(text) > _LONGEST_PATH or _CONTENT.search(text) is not None:
        raise ValueError("needs a path, and has what looks like the content of the file; write that into one")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:  # no such user, or a user without a home
        raise ValueError(f"{text!r} is not allowed; use a path; ~ needs a home directory") from error


def _check_file(path: Path) -> str:
    why = _unusable(path, os.R_OK)
    return why and f"cannot read the file '{path}' ({why}); name one that exists and may be read"


def _check_program(path: Path) -> str:
    why = _unusable(path, os.X_OK)
    return why and f"'{path}' is not a program that may be run ({why}); name one that is"


def _unusable(path: Path, mode: int) -> str:
    """Return why a file does not give the access `mode`, or "". Never opens it: a pipe would block."""
    try:
        found = path.stat()
    except OSError as error:  # also raised when a parent directory is closed to this user
        return os.strerror(error.errno or 0)
    if not stat.S_ISREG(found.st_mode):
        return "not a regular file"
    return "" if os.access(path, mode) else os.strerror(errno.EACCES)


path: Final = Parser(_path, example="/path/to/directory")
"""A path, made absolute; ``~`` and ``~user`` are expanded."""
file: Final = Parser(_path, check=_check_file, example="/path/to/file")
"""The path of a readable file."""
program: Final = Parser(_path, check=_check_program, example="/path/to/program")
"""The path of an executable file."""
