"""Parses the authorization file to a `Policy`, or reports everything that is wrong with it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from ipaddress import ip_address
from math import inf, nextafter
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from windshift.server.auth.certificates import read_name
from windshift.server.auth.document import PolicyError, Value, read_document, shown, type_name
from windshift.server.auth.permissions import LISTS, ListEntry, PatternKind, Permissions, Role
from windshift.server.auth.policy import (
    ALGORITHMS,
    NAME,
    NAME_RULE,
    QUOTAS,
    QUOTAS_IN_BYTES,
    Issuer,
    JwtSubject,
    Policy,
    Principal,
    Quotas,
    StaticToken,
)
from windshift.server.auth.subjects import SubjectPatterns
from windshift.server.auth.tokens import principal_of
from windshift.server.background.writers import other_writers
from windshift.server.domain import names
from windshift.server.domain.errors import InvalidField

__all__ = ["LARGEST", "PolicyError", "parse_policy", "read_policy"]

LARGEST: Final = 1024 * 1024
"""The largest file, in bytes."""

_NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9_-]+\*?|\*")
_DIGEST: Final = re.compile("[0-9A-Fa-f]{64}")
_TOKEN: Final = re.compile(r"\s*(?:bearer\s+)?(?:ws_|eyJ)", re.IGNORECASE)
_LONGEST_CLAIM: Final = 256

_GROUPS: Final = {
    group: {key.partition(".")[2]: kind for key, kind in LISTS.items() if key.startswith(f"{group}.")}
    for group in sorted({key.partition(".")[0] for key in LISTS} - {"publish"})
}
"""The tables in a role, and the lists in each."""
_NEEDED: Final = {
    "streams.consume": "streams.subjects",
    "streams.purge": "streams.subjects",
    "consumers.use": "streams.consume",
    "consumers.reject": "streams.consume",
    "consumers.delete": "streams.consume",
    "consumers.control": "streams.consume",
    "stores.read": "stores.keys",
    "stores.write": "stores.keys",
    "dead_letters.read": "dead_letters.consumers",
    "dead_letters.replay": "dead_letters.consumers",
    "dead_letters.purge": "dead_letters.consumers",
}
"""Lists that allow nothing without another one."""

_ISSUER_KEYS: Final = ("name", "issuer", "audience", "jwks", "algorithms", "max_lifetime", "leeway")
_PRINCIPAL_KEYS: Final = ("name", "roles", "token_sha256", "jwt", "mtls", "max_streams", "max_rps", "quotas")

_OFF: Final = "off"
_SIZE: Final = re.compile(r"([0-9]{1,15}) ?([KMGT])iB")
_UNITS: Final = {"K": 10, "M": 20, "G": 30, "T": 40}
_LARGEST_QUOTA: Final = 2**63 - 1
_NO_QUOTAS: Final[Mapping[str, int]] = {}


def parse_policy(text: str, quotas: Mapping[str, int] = _NO_QUOTAS) -> Policy:
    """Return what an authorization file says. `quotas` are defaults in place of those of `Quotas`.

    Raise `PolicyError` when it has problems; all of them are named, or its syntax error alone.
    """
    if len(text) > LARGEST or len(text.encode(errors="replace")) > LARGEST:
        raise PolicyError((f"line 1: the file is larger than {LARGEST} bytes",))
    document = read_document(text)
    document.only("issuers", "principals", "publishing", "quotas", "role")
    roles = _roles(document["role"].table())
    issuers = _issuers(document["issuers"])
    publishing = document["publishing"].table()
    publishing.only("shared_keys")
    shared_keys = _entries(publishing["shared_keys"], PatternKind.SUBJECT)
    patterns = SubjectPatterns(entry.pattern for entry in shared_keys) if shared_keys else None
    reader = _Principals(roles, issuers, {**quotas, **_quotas(document["quotas"])}, patterns)
    principals = [reader.read(*each) for each in _named_tables(document["principals"], *_PRINCIPAL_KEYS)]
    document.check()
    return Policy(
        principals={each.name: each for each in principals},
        issuers=issuers,
        by_subject={jwt: each for each in principals for jwt in each.jwt},
        by_certificate={name: each for each in principals for name in each.mtls},
        roles=roles,
        shared_keys=shared_keys,
    )


def read_policy(file: Path, quotas: Mapping[str, int] = _NO_QUOTAS) -> Policy:
    """Return what the authorization file at a path says, as `parse_policy` does.

    Raise `PolicyError` when it has problems, and `OSError` when it cannot be read.
    """
    with file.open("rb") as opened:
        if others := other_writers(file, os.fstat(opened.fileno()).st_mode):
            raise PolicyError((f"line 1: {others}",))
        data = opened.read(LARGEST + 1)
    try:
        return parse_policy(data.decode("utf-8-sig"), quotas)  # editors on Windows put a mark before the text
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PolicyError((f"line {line}: not UTF-8; save the file as such",)) from None


def _once(seen: dict[object, int], key: object, place: Value, text: str) -> None:
    """Note a key that may be in the file only once, or report that it is there already."""
    if key in seen:
        place.wrong(f"{text} is there already (line {seen[key]})")
    seen.setdefault(key, place.line)


def _named_tables(array: Value, *known: str) -> Iterator[tuple[str, Value]]:
    """Yield the tables of an array, each with its name; a name that cannot be used is empty."""
    seen: dict[object, int] = {}
    for table in array.elements(dict):
        name = _name(table.required("name"))
        if name:
            _once(seen, name, table["name"], shown(name))
        named = replace(table, label=f"{array.label}.{name}") if name else table
        named.only(*known)
        yield name, named


def _name(value: Value) -> str:
    name = value.text()
    if name is None:
        return ""
    if NAME.fullmatch(name) is None:
        value.wrong(f"{shown(name)}: {NAME_RULE}")
    elif principal_of(name) is not None:
        value.wrong("this looks like a token, which does not belong here; make a new one")
    else:
        return name
    return ""


# Roles


def _roles(section: Value) -> dict[str, Role]:
    roles = {}
    for name in section.keys:
        table = section[name].table()
        if NAME.fullmatch(name) is None:
            table.wrong(f"not a name for a role: {NAME_RULE}")
        roles[name] = _role(name, table)
    return roles


def _role(name: str, table: Value) -> Role:
    allow = _lists(table, "deny", "quotas")
    for key, needed in _NEEDED.items():
        if allow.get(key) and not allow.get(needed):
            group, _, inner = key.partition(".")
            table[group][inner].wrong(f"allows nothing without {needed}; name them too")
    return Role(name, allow, _lists(table["deny"].table()), _quotas(table["quotas"]))


def _lists(table: Value, *others: str) -> dict[str, tuple[ListEntry, ...]]:
    """Return the lists of a table that allows or denies."""
    table.only("publish", *_GROUPS, *others)
    lists = {"publish": _entries(table["publish"], PatternKind.SUBJECT)}
    for group, keys in _GROUPS.items():
        if group not in table.keys:
            continue
        inner = table[group].table(f"a table with {', '.join(keys)}")
        inner.only(*keys)
        lists |= {f"{group}.{key}": _entries(inner[key], kind) for key, kind in keys.items()}
    return {key: entries for key, entries in lists.items() if entries}


def _entries(array: Value, kind: PatternKind) -> tuple[ListEntry, ...]:
    entries = []
    for each in array.elements(str):
        text = each.value
        problem = _subject_problem(text) if kind is PatternKind.SUBJECT else _name_problem(text)
        if problem is not None:
            each.wrong(f"{shown(text)}: {problem}")
        entries.append(ListEntry(text, each.line))
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


# Quotas


def _quotas(table: Value) -> dict[str, int | None]:
    """Return the quotas that a table sets; None = off."""
    table = table.table(f"a table with {', '.join(QUOTAS)}")
    table.only(*QUOTAS)
    return {key: _quota(table[key], key) for key in table.keys if key in QUOTAS}


def _quota(value: Value, key: str) -> int | None:
    given, in_bytes = value.value, key in QUOTAS_IN_BYTES
    if given == _OFF:
        return None
    size = _SIZE.fullmatch(given) if in_bytes and isinstance(given, str) else None
    if size is not None:
        return int(size[1]) << _UNITS[size[2]]
    what = 'a number of bytes, a size such as "10GiB"' if in_bytes else "a whole number"
    return value.number(int, 0, _LARGEST_QUOTA, f'{what}, or "{_OFF}"')


def _quotas_of(
    own: Mapping[str, int | None], roles: Iterable[Role], others: Mapping[str, int | None]
) -> Quotas:
    """Return what holds for a principal: what it has itself, the most of its roles, what holds for all."""
    of_roles: dict[str, int | None] = {}
    for role in roles:
        for key, limit in role.quotas.items():
            most = of_roles.get(key, 0)
            of_roles[key] = None if limit is None or most is None else max(limit, most)
    return Quotas(**{**others, **of_roles, **own})


# Issuers


def _issuers(array: Value) -> dict[str, Issuer]:
    issuers: dict[str, Issuer] = {}
    seen: dict[object, int] = {}
    for name, table in _named_tables(array, *_ISSUER_KEYS):
        claim = _claim(table.required("issuer"))
        if claim:
            _once(seen, claim, table["issuer"], shown(claim))
        issuer = Issuer(
            name,
            issuer=claim,
            audiences=tuple(map(_claim, table.required("audience").elements(str, or_one=True))),
            jwks=_jwks(table.required("jwks")),
            algorithms=tuple(map(_algorithm, table.required("algorithms").elements(str))),
            max_lifetime=_seconds(table["max_lifetime"], 60, 30 * 24 * 3600, timedelta(hours=24)),
            leeway=_seconds(table["leeway"], 0, 300, timedelta(seconds=30)),
        )
        issuers.setdefault(name, issuer)
    return issuers


def _seconds(value: Value, least: int, most: int, default: timedelta) -> timedelta:
    seconds = value.number(int, least, most, f"a whole number of seconds from {least} to {most}")
    return default if seconds is None else timedelta(seconds=seconds)


def _claim(value: Value) -> str:
    """Return the text that a claim of a token must equal."""
    text = value.text()
    if text is None:
        return ""
    if not 1 <= len(text) <= _LONGEST_CLAIM or not text.isprintable():
        value.wrong(f"must be 1 to {_LONGEST_CLAIM} printable characters")
    return text


def _algorithm(value: Value) -> str:
    text: str = value.value
    allowed = f"allowed are {', '.join(ALGORITHMS)}"
    if text.upper().startswith("HS"):
        value.wrong(
            f"{shown(text)} is refused, as whoever can verify such a token can also make one; {allowed}"
        )
    elif text.lower() == "none":
        value.wrong(f"{shown(text)} is refused, as anybody can make such a token; {allowed}")
    elif text not in ALGORITHMS:
        value.wrong(f"{shown(text)} is unknown; {allowed}")
    return text


def _jwks(value: Value) -> str:
    text = value.text() or ""
    if isinstance(value.value, str) and not _is_place_of_keys(text):
        value.wrong(
            "must be an https:// URL without user and fragment (http:// for loopback addresses only), "
            "or an absolute path"
        )
    return text


def _is_place_of_keys(text: str) -> bool:
    if text.startswith("/"):
        return text.isprintable()
    if not text.isprintable() or not text.isascii():
        return False
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


@dataclass(frozen=True, slots=True)
class _Principals:
    """Reads the principals of a file; what identifies one may be there only once."""

    roles: Mapping[str, Role]
    issuers: Mapping[str, Issuer]
    quotas: Mapping[str, int | None]
    shared_keys: SubjectPatterns | None
    seen: dict[object, int] = field(default_factory=dict)

    def read(self, name: str, table: Value) -> Principal:
        if all(table[key].is_missing for key in ("token_sha256", "jwt", "mtls")):
            table.wrong("has no credential; give it token_sha256, jwt or mtls")
        permissions = Permissions(name, self._roles(table.required("roles")))
        return Principal(
            name,
            permissions,
            tokens=tuple(self._tokens(table["token_sha256"])),
            jwt=tuple(self._jwt(table["jwt"])),
            mtls=tuple(self._mtls(table["mtls"])),
            max_streams=table["max_streams"].number(int, 1, inf, "a whole number of at least 1"),
            max_rps=table["max_rps"].number(float, nextafter(0, 1), nextafter(inf, 0), "a number above 0"),
            quotas=_quotas_of(_quotas(table["quotas"]), permissions.roles, self.quotas),
            shared_keys=self.shared_keys,
        )

    def _roles(self, array: Value) -> Iterable[Role]:
        found = {}
        for each in array.elements(str):
            if each.value in self.roles:
                found[each.value] = self.roles[each.value]
            else:
                each.wrong(f"unknown role {shown(each.value)}; known are {_listed(self.roles)}")
        return found.values()

    def _tokens(self, value: Value) -> Iterator[StaticToken]:
        for each in value.elements(str, dict, or_one=True):
            each.only("sha256", "expires")
            given = each if isinstance(each.value, str) else each.required("sha256")
            digest, expires = self._digest(given), _expires(each["expires"])
            if digest is not None:
                yield StaticToken(digest, expires)

    def _digest(self, value: Value) -> bytes | None:
        """Return a digest. Nothing that stands in its place is shown: it may be the token."""
        text = value.text()
        if text is None:
            return None
        if _DIGEST.fullmatch(text) is not None:
            digest = bytes.fromhex(text)
            _once(self.seen, digest, value, "the same token")
            return digest
        if _TOKEN.match(text) is not None:
            value.wrong(
                "write its SHA-256, not the token itself; and make a new one, as others may have read this"
            )
        else:
            value.wrong(
                "must be 64 hexadecimal digits, the SHA-256 of a token; windshift auth token makes both"
            )
        return None

    def _jwt(self, value: Value) -> Iterator[JwtSubject]:
        for table in value.elements(dict, or_one=True):
            table.only("issuer", "sub")
            issuer, sub = table.required("issuer").text(), _claim(table.required("sub"))
            if issuer is None:
                continue
            if issuer not in self.issuers:
                known = _listed(filter(None, self.issuers))
                table["issuer"].wrong(f"unknown issuer {shown(issuer)}; known are {known}")
            subject = JwtSubject(issuer, sub)
            if sub:
                _once(self.seen, subject, table["sub"], "this subject")
            yield subject

    def _mtls(self, value: Value) -> Iterator[str]:
        for each in value.elements(str, or_one=True):
            try:
                name = read_name(each.value)
            except ValueError as error:
                each.wrong(f"{shown(each.value)}: {error}")
            else:
                _once(self.seen, name, each, "this name")
                yield name


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(map(shown, names))) or "none"


def _expires(place: Value) -> float:
    value = place.value
    if value is None:
        return inf
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.timestamp()
    what = "one without an offset" if isinstance(value, datetime) else type_name(value)
    place.wrong(f"must be a date-time with an offset, as in 2027-01-01T00:00:00Z, not {what}")
    return inf
