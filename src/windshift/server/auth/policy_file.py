"""The authorization file: from its text to a `Policy`, or to everything that is wrong with it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from ipaddress import ip_address
from math import inf, nextafter
from pathlib import Path
from typing import Final, Generic, TypeVar
from urllib.parse import urlsplit

from windshift.server import names
from windshift.server.auth.permissions import LISTS, Entry, Kind, Permissions, Role
from windshift.server.auth.policy import ALGORITHMS, Issuer, JwtSubject, Policy, Principal, StaticToken
from windshift.server.auth.positions import Path as Place
from windshift.server.auth.reading import (
    PolicyError,
    Problems,
    Table,
    Text,
    kind_of,
    read_document,
    shown,
)
from windshift.server.auth.tokens import principal_of
from windshift.server.errors import InvalidField

__all__ = ["LARGEST", "PolicyError", "parse_policy", "read_policy"]

LARGEST: Final = 1024 * 1024
"""The largest file, in bytes."""

_NAME: Final = re.compile("[A-Za-z0-9_-]{1,64}")
_NAME_RULE: Final = "use 1 to 64 characters of A-Z a-z 0-9 _ -"
_NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9_-]+\*?|\*")
_DIGEST: Final = re.compile("[0-9A-Fa-f]{64}")
_TOKEN: Final = re.compile(r"\s*(?:bearer\s+)?(?:ws_|eyJ)", re.IGNORECASE)
_LONGEST_CLAIM: Final = 256

_ROLE_KEYS: Final = {key.partition(".")[0] for key in LISTS}
_NEEDED: Final = {
    "streams.consume": "streams.subjects",
    "consumers.use": "streams.consume",
    "consumers.delete": "streams.consume",
    "stores.read": "stores.keys",
    "stores.write": "stores.keys",
    "dead_letters.read": "dead_letters.consumers",
    "dead_letters.replay": "dead_letters.consumers",
    "dead_letters.purge": "dead_letters.consumers",
}
"""Lists that allow nothing without another one."""

_ISSUER_KEYS: Final = ("name", "issuer", "audience", "jwks", "algorithms", "max_lifetime", "leeway")
_PRINCIPAL_KEYS: Final = ("name", "roles", "token_sha256", "jwt", "mtls", "max_streams", "max_rps")
_SECONDS_OF_30_DAYS: Final = 30 * 24 * 3600

_PLAIN: Final = r'(?:[^\\",+;<>]|\\[\\",+;<>])'
_VALUE: Final = rf"(?:\\[# ]|(?![# ]){_PLAIN})(?:{_PLAIN}*(?:(?! ){_PLAIN}|\\ ))?"
_ATTRIBUTE: Final = rf"(?:CN|O|OU|C|L|ST|emailAddress|DC|UID|serialNumber)={_VALUE}"
_SUBJECT: Final = re.compile(rf"{_ATTRIBUTE}(?:[,+]{_ATTRIBUTE})*")
"""A certificate's subject in the one spelling that `certificates` gives it."""
_ALTERNATIVE: Final = re.compile("(DNS|URI|EMAIL|IP):(.+)")


def parse_policy(text: str) -> Policy:
    """Return what an authorization file says.

    Raises:
        PolicyError: it has problems; all of them are named, or its syntax error alone.
    """
    if len(text) > LARGEST or len(text.encode(errors="replace")) > LARGEST:
        raise PolicyError((f"line 1: the file is larger than {LARGEST} bytes",))
    document = read_document(text)
    document.only(("issuers", "principals", "role"))
    roles = _roles(document)
    issuers = _issuers(document)
    principals = _Principals(document.problems, roles, issuers)
    for table in document.tables("principals"):
        principals.read(table)
    document.problems.check()
    return principals.policy()


def read_policy(file: Path) -> Policy:
    """Return what the authorization file at a path says.

    Raises:
        PolicyError: it has problems.
        OSError: it cannot be read.
    """
    with file.open("rb") as opened:
        if os.fstat(opened.fileno()).st_mode & stat.S_IWOTH:
            raise PolicyError(("line 1: anybody on this machine may write to the file; chmod o-w",))
        data = opened.read(LARGEST + 1)
    try:
        return parse_policy(data.decode("utf-8-sig"))  # editors on Windows put a mark before the text
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PolicyError((f"line {line}: not UTF-8; save the file as such",)) from None


_Value = TypeVar("_Value")


class _Once(Generic[_Value]):
    """Values that may be in the file once only."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._seen: dict[_Value, Place] = {}

    def add(self, value: _Value, path: Place, text: str) -> None:
        """Note a value; `text` says what is wrong when it is there already."""
        first = self._seen.setdefault(value, path)
        if first is not path:
            self._problems.add(path, f"{text} (line {self._problems.line(first)})")


# Roles


def _roles(document: Table) -> dict[str, Role]:
    roles = {}
    section = document.table("role")
    for name in section.values if section is not None else ():
        if section is None or (table := section.table(name)) is None:
            roles[name] = Role(name)  # wrong, but known
            continue
        if _NAME.fullmatch(name) is None:
            table.wrong(f"not a name for a role: {_NAME_RULE}")
        roles[name] = _role(name, table)
    return roles


def _role(name: str, table: Table) -> Role:
    allow = _lists(table, {*_ROLE_KEYS, "deny"})
    for key, needed in _NEEDED.items():
        if allow.get(key) and not allow.get(needed):
            path = (*table.path, *key.split("."))
            table.problems.add(path, f"{table.inside(key)}: allows nothing without {needed}; name them too")
    denying = table.table("deny")
    return Role(name, allow, {} if denying is None else _lists(denying, _ROLE_KEYS))


def _lists(table: Table, known: Iterable[str]) -> dict[str, tuple[Entry, ...]]:
    """Return the lists of a table that allows or denies."""
    table.only(set(known))
    lists = {"publish": _entries(table, "publish", Kind.SUBJECT)}
    for group in sorted(_ROLE_KEYS - {"publish"}):
        keys = {key.partition(".")[2]: kind for key, kind in LISTS.items() if key.startswith(f"{group}.")}
        inner = table.table(group, f"a table with {', '.join(keys)}")
        if inner is not None:
            inner.only(keys)
            lists |= {f"{group}.{key}": _entries(inner, key, kind) for key, kind in keys.items()}
    return {key: entries for key, entries in lists.items() if entries}


def _entries(table: Table, key: str, kind: Kind) -> tuple[Entry, ...]:
    entries = []
    for text, path in table.texts(key):
        problem = _subject_problem(text) if kind is Kind.SUBJECT else _name_problem(text)
        if problem is not None:
            table.problems.add(path, f"{table.inside(key)}: {shown(text)}: {problem}")
        entries.append(Entry(text, table.problems.line(path)))
    return tuple(entries)


def _subject_problem(text: str) -> str | None:
    try:
        names.filter_subject("", text)
    except InvalidField as error:
        return error.description
    return None


def _name_problem(text: str) -> str | None:
    if len(text) > names.MAX_LENGTH:
        return f"must be at most {names.MAX_LENGTH} characters long"
    if _NAME_PATTERN.fullmatch(text) is None:
        return "must be a name of A-Z a-z 0-9 _ -, the beginning of one and *, or * alone"
    return None


# Issuers


def _issuers(document: Table) -> dict[str, Issuer]:
    found: dict[str, Issuer] = {}
    once: _Once[tuple[str, str]] = _Once(document.problems)
    for table in document.tables("issuers"):
        issuer = _issuer(table)
        for key, value in (("name", issuer.name), ("issuer", issuer.issuer)):
            if value:
                once.add((key, value), (*table.path, key), f"issuers: {key} {shown(value)} is there already")
        found.setdefault(issuer.name, issuer)
    return found


def _issuer(table: Table) -> Issuer:
    """Return an issuer; what is wrong in it is empty, and a problem."""
    name = _own_name(table)
    if name:
        table = Table(table.problems, table.path, table.values, f"issuers.{name}")
    table.only(_ISSUER_KEYS)
    lifetime = table.number(
        "max_lifetime", 60, _SECONDS_OF_30_DAYS, "a whole number of seconds from 60 to 2592000", whole=True
    )
    leeway = table.number("leeway", 0, 300, "a whole number of seconds from 0 to 300", whole=True)
    return Issuer(
        name,
        issuer=_claim(table, "issuer"),
        audiences=tuple(_audiences(table)),
        jwks=_jwks(table),
        algorithms=tuple(_algorithms(table)),
        max_lifetime=timedelta(hours=24) if lifetime is None else timedelta(seconds=lifetime),
        leeway=timedelta(seconds=30) if leeway is None else timedelta(seconds=leeway),
    )


def _own_name(table: Table) -> str:
    """Return the name in a table, empty when there is none that can be used."""
    name = table.text("name")
    if name is None:
        return ""
    if _NAME.fullmatch(name) is None:
        table.problem("name", f"{shown(name)}: {_NAME_RULE}")
    elif principal_of(name) is not None:
        table.problem("name", "this looks like a token, which does not belong here; make a new one")
    else:
        return name
    return ""


def _claim(table: Table, key: str) -> str:
    """Return the text that a claim of a token must equal."""
    text = table.text(key)
    if text is not None and (problem := _claim_problem(text)) is not None:
        table.problem(key, problem)
    return text or ""


def _claim_problem(text: str) -> str | None:
    if 1 <= len(text) <= _LONGEST_CLAIM and text.isprintable():
        return None
    return f"must be 1 to {_LONGEST_CLAIM} printable characters"


def _audiences(table: Table) -> Iterator[str]:
    texts = table.texts("audience", or_one=True)
    if not texts and table.values.get("audience") in (None, []):
        table.wrong("has no audience")
    for text, path in texts:
        if (problem := _claim_problem(text)) is not None:
            table.problems.add(path, f"{table.inside('audience')}: {problem}")
        yield text


def _algorithms(table: Table) -> Iterator[str]:
    texts = table.texts("algorithms")
    if not texts and table.values.get("algorithms") in (None, []):
        table.wrong("has no algorithms")
    for text, path in texts:
        if text not in ALGORITHMS:
            table.problems.add(path, f"{table.inside('algorithms')}: {_algorithm_problem(text)}")
        yield text


def _algorithm_problem(text: str) -> str:
    allowed = f"allowed are {', '.join(ALGORITHMS)}"
    if text.upper().startswith("HS"):
        return f"{shown(text)} is refused, as whoever can verify such a token can also make one; {allowed}"
    if text.lower() == "none":
        return f"{shown(text)} is refused, as anybody can make such a token; {allowed}"
    return f"{shown(text)} is unknown; {allowed}"


def _jwks(table: Table) -> str:
    text = table.text("jwks")
    if text is not None and not _is_place_of_keys(text):
        table.problem(
            "jwks",
            "must be an https:// URL without user and fragment (http:// for loopback addresses only), "
            "or an absolute path",
        )
    return text or ""


def _is_place_of_keys(text: str) -> bool:
    if not text.isprintable() or not text.isascii():
        return text.startswith("/") and text.isprintable()
    if text.startswith("/"):
        return True
    try:
        url = urlsplit(text)
        host, port = url.hostname or "", url.port
    except ValueError:
        return False
    plain = not host or " " in text or port == 0 or "@" in url.netloc or bool(url.fragment)
    return not plain and (url.scheme == "https" or (url.scheme == "http" and _is_loopback(host)))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


# Principals


class _Principals:
    """The principals of the file, one after the other."""

    def __init__(self, problems: Problems, roles: Mapping[str, Role], issuers: Mapping[str, Issuer]) -> None:
        self._problems = problems
        self._roles = roles
        self._issuers = issuers
        self._principals: dict[str, Principal] = {}
        self._names: _Once[str] = _Once(problems)
        self._digests: _Once[bytes] = _Once(problems)
        self._subjects: _Once[JwtSubject] = _Once(problems)
        self._certificates: _Once[str] = _Once(problems)

    def policy(self) -> Policy:
        """Return what was read, if it has no problems."""
        all_of_them = self._principals.values()
        return Policy(
            principals=self._principals,
            issuers=self._issuers,
            by_subject={(jwt.issuer, jwt.sub): each for each in all_of_them for jwt in each.jwt},
            by_certificate={name: each for each in all_of_them for name in each.mtls},
            roles=self._roles,
        )

    def read(self, table: Table) -> None:
        """Read one more."""
        name = _own_name(table)
        if name:
            self._names.add(name, (*table.path, "name"), f'principals: name "{name}" is there already')
            table = Table(table.problems, table.path, table.values, f"principals.{name}")
        table.only(_PRINCIPAL_KEYS)
        if all(table.values.get(key) in (None, []) for key in ("token_sha256", "jwt", "mtls")):
            table.wrong("has no credential; give it token_sha256, jwt or mtls")
        streams = table.number("max_streams", 1, inf, "a whole number of at least 1", whole=True)
        self._principals[name] = Principal(
            name,
            Permissions(name, self._roles_of(table)),
            tokens=tuple(self._tokens(table)),
            jwt=tuple(self._jwt(table)),
            mtls=tuple(self._mtls(table)),
            max_streams=None if streams is None else int(streams),
            max_rps=table.number("max_rps", _ABOVE_ZERO, _FINITE, "a number above 0", whole=False),
        )

    def _roles_of(self, table: Table) -> Iterator[Role]:
        if table.values.get("roles") in (None, []):
            table.wrong("has no roles")
        seen = set()
        for name, path in table.texts("roles"):
            if name not in self._roles:
                known = ", ".join(sorted(map(shown, self._roles))) or "none"
                self._problems.add(
                    path, f"{table.inside('roles')}: unknown role {shown(name)}; known are {known}"
                )
            elif name not in seen:
                seen.add(name)
                yield self._roles[name]

    def _tokens(self, table: Table) -> Iterator[StaticToken]:
        for each in table.texts_or_tables("token_sha256"):
            expires = None
            if isinstance(each, Table):
                each.only(("sha256", "expires"))
                text = each.text("sha256")
                expires = _expires(each)
                if text is None:
                    continue
                given = Text(text, (*each.path, "sha256"))
            else:
                given = each
            digest = self._digest(table, given)
            if digest is not None:
                yield StaticToken(digest, expires)

    def _digest(self, table: Table, given: Text) -> bytes | None:
        """Return a digest. Nothing of what stands in its place is ever shown: it may be the token."""
        label = table.inside("token_sha256")
        if _DIGEST.fullmatch(given.value) is not None:
            digest = bytes.fromhex(given.value)
            self._digests.add(digest, given.path, f"{label}: the same token is there already")
            return digest
        if _TOKEN.match(given.value) is not None:
            problem = (
                "write its SHA-256, not the token itself; and make a new one, as others may have read this"
            )
        else:
            problem = "must be 64 hexadecimal digits, the SHA-256 of a token; windshift auth token makes both"
        self._problems.add(given.path, f"{label}: {problem}")
        return None

    def _jwt(self, table: Table) -> Iterator[JwtSubject]:
        for each in table.tables("jwt", or_one=True):
            each.only(("issuer", "sub"))
            issuer, sub = each.text("issuer"), _claim(each, "sub")
            if issuer is None:
                continue
            if issuer not in self._issuers:
                known = ", ".join(sorted(map(shown, filter(None, self._issuers)))) or "none"
                each.problem("issuer", f"unknown issuer {shown(issuer)}; known are {known}")
            subject = JwtSubject(issuer, sub)
            if sub:
                text = f"{table.inside('jwt')}: this subject is there already"
                self._subjects.add(subject, (*each.path, "sub"), text)
            yield subject

    def _mtls(self, table: Table) -> Iterator[str]:
        label = table.inside("mtls")
        for text, path in table.texts("mtls", or_one=True):
            try:
                name = _certificate_name(text)
            except ValueError as error:
                self._problems.add(path, f"{label}: {shown(text)}: {error}")
                continue
            self._certificates.add(name, path, f"{label}: this name is there already")
            yield name


_ABOVE_ZERO: Final = nextafter(0, 1)
_FINITE: Final = nextafter(inf, 0)


def _expires(table: Table) -> float | None:
    value = table.values.get("expires")
    if value is None:
        return None
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.timestamp()
    what = "one without an offset" if isinstance(value, datetime) else kind_of(value)
    table.problem("expires", f"must be a date-time with an offset, as in 2027-01-01T00:00:00Z, not {what}")
    return None


def _certificate_name(text: str) -> str:
    """Return a name as `certificates` spells it. Raise `ValueError` with what is wrong."""
    if not text.isprintable() or "*" in text:
        raise ValueError("wildcards and control characters mean nothing here; write each name exactly")
    alternative = _ALTERNATIVE.fullmatch(text)
    if alternative is not None and alternative[1] != "IP":
        return text
    if alternative is not None:
        try:
            return f"IP:{ip_address(alternative[2])}"
        except ValueError:
            raise ValueError("not an IP address") from None
    if _SUBJECT.fullmatch(text) is None:
        raise ValueError(
            "must be a whole subject in the order of the certificate, as in CN=edge,O=Acme (without blanks "
            "around the commas; \\ before a comma in a value), or DNS:, URI:, EMAIL: or IP: and a name"
        )
    return text
