"""The contract's rules for names, subjects, keys and types, as pure functions.

Each takes the path of the request's field and its value, and raises `InvalidField` for an invalid value. They
run on every publish: one dictionary lookup for a recent subject, one regular expression otherwise.

The rules are stricter than the broker's. It stores a publish to ``a.*`` under that very name, accepts control
characters, and would let a client reach its own API through ``$JS.API.…``, or inboxes of other clients.
"""

from __future__ import annotations

import re
import secrets
from functools import lru_cache
from typing import Final

from windshift.server.domain.errors import InvalidField

EVERYTHING: Final = ">"
"""The pattern of all subjects, and of all keys."""
INTERNAL = "windshift.internal"
"""A key in the metadata of consumers that the server made for itself. Lists and metrics leave them out."""

RESERVED_STREAMS = ("KV_", "OBJ_", "WS_")
"""How names of streams begin that are no streams of events: stores, and what the server keeps."""
RESERVED_STORES = ("WS_",)
"""How names of stores begin that nobody may use."""
MAX_LENGTH = 255
MAX_STORE_NAME = MAX_LENGTH - len("KV_")
"""The broker's limit on stream names applies to ``KV_`` plus the name of the store."""
MAX_IDEMPOTENCY_KEY = 256
MAX_TYPE_NAME = 1024

_WORD = "[A-Za-z0-9_-]+"
_RESERVED_FIRST = r"(?!\$|_INBOX|_R_|_WS)"
_WILD = rf"(?:{_WORD}|\*)"

_NAME = re.compile(_WORD)
_GENERATED = re.compile("[0-9a-f]{24}")
_SUBJECT = re.compile(rf"{_RESERVED_FIRST}{_WORD}(?:\.{_WORD})*")
_STREAM_SUBJECT = re.compile(rf"{_RESERVED_FIRST}{_WORD}(?:\.{_WILD})*(?:\.>)?")
_FILTER = re.compile(rf"{_RESERVED_FIRST}(?:>|{_WILD}(?:\.{_WILD})*(?:\.>)?)")
_RESERVED = re.compile(r"\$|_INBOX|_R_|_WS")
_IDEMPOTENCY_KEY = re.compile(r"[!-~](?:[ -~]{0,254}[!-~])?")
_TYPE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")


def stream_name(field: str, value: str) -> None:
    """Check the name of a stream."""
    _check(field, _name_problem(value) or _reserved_name_problem(value, RESERVED_STREAMS))


def consumer_name(field: str, value: str) -> None:
    """Check the name of a consumer."""
    _check(field, _name_problem(value))


def generated_name() -> str:
    """Return an unguessable name for a consumer without one."""
    return secrets.token_hex(12)


def is_generated(name: str) -> bool:
    """Return whether a consumer's name looks generated."""
    return _GENERATED.fullmatch(name) is not None


def given_name(name: str) -> str | None:
    """Return a consumer's name; None if it looks generated, which makes it a secret of whoever got it.

    A client may have chosen such a name, or it is somebody else's; that shows when the consumer is looked up.
    """
    return None if is_generated(name) else name


def store_name(field: str, value: str) -> None:
    """Check the name of a store."""
    is_short = len(value) <= MAX_STORE_NAME  # what is longer is not kept
    _check(field, _store_problem(value) if is_short else _name_problem(value, MAX_STORE_NAME))


def subject(field: str, value: str) -> None:
    """Check the subject of a publish: no wildcard."""
    if len(value) > MAX_LENGTH:
        raise InvalidField(field, _TOO_LONG)
    problem = _subject_problem(value)
    if problem is not None:
        raise InvalidField(field, problem)


def key(field: str, value: str) -> None:
    """Check the key of a store's entry: the rules of a published subject."""
    subject(field, value)


def stream_subject(field: str, value: str) -> None:
    """Check a subject of a stream: wildcards, but not as the first token."""
    if len(value) > MAX_LENGTH or _STREAM_SUBJECT.fullmatch(value) is None:
        raise InvalidField(field, _stream_subject_problem(value))


def filter_subject(field: str, value: str) -> None:
    """Check a filter subject: wildcards anywhere."""
    if len(value) > MAX_LENGTH or _FILTER.fullmatch(value) is None:
        raise InvalidField(field, _wildcard_subject_problem(value))


def idempotency_key(field: str, value: str) -> None:
    """Check a non-empty idempotency key."""
    if _IDEMPOTENCY_KEY.fullmatch(value) is None:
        raise InvalidField(
            field,
            f"use 1 to {MAX_IDEMPOTENCY_KEY} printable ASCII characters without spaces at either end",
        )


def type_name(field: str, type_url: str) -> str:
    """Return the full Protobuf name in a type URL: what follows its last slash."""
    name = type_url.rpartition("/")[2]
    if len(name) > MAX_TYPE_NAME or _TYPE_NAME.fullmatch(name) is None:
        raise InvalidField(
            field,
            "must end in the full name of a Protobuf message, as in type.googleapis.com/acme.v1.Order, "
            f"of at most {MAX_TYPE_NAME} characters",
        )
    return name


_TOO_LONG = f"must be at most {MAX_LENGTH} characters long"
_SHAPE = "must be tokens of A-Z a-z 0-9 _ - joined by single dots"
_WILDCARDS = "a whole token may be *, and the last may be >"


def _check(field: str, problem: str | None) -> None:
    if problem is not None:
        raise InvalidField(field, problem)


def _name_problem(value: str, longest: int = MAX_LENGTH) -> str | None:
    if len(value) > longest:
        return f"must be at most {longest} characters long"
    if _NAME.fullmatch(value) is None:
        return "must not be empty" if not value else "may contain only A-Z a-z 0-9 _ -"
    return None


@lru_cache(maxsize=1024)
def _store_problem(value: str) -> str | None:
    return _name_problem(value, MAX_STORE_NAME) or _reserved_name_problem(value, RESERVED_STORES)


def _reserved_name_problem(value: str, prefixes: tuple[str, ...]) -> str | None:
    prefix = next(filter(value.startswith, prefixes), None)
    return None if prefix is None else f"names that begin with {prefix} are reserved"


@lru_cache(maxsize=4096)
def _subject_problem(value: str) -> str | None:
    if _SUBJECT.fullmatch(value) is not None:
        return None
    return _malformed(value) or f"{_SHAPE}; wildcards are not allowed here"


def _stream_subject_problem(value: str) -> str:
    if value.startswith(("*", ">")):
        return "a stream's subject must not begin with a wildcard"
    return _wildcard_subject_problem(value)


def _wildcard_subject_problem(value: str) -> str:
    return _malformed(value) or f"{_SHAPE}; {_WILDCARDS}"


def _malformed(value: str) -> str | None:
    """Name the fault of an invalid subject, if it is one that all kinds of subjects share."""
    if not value:
        return "must not be empty"
    if len(value) > MAX_LENGTH:
        return _TOO_LONG
    if _RESERVED.match(value) is not None:
        return "subjects whose first token begins with $, _INBOX, _R_ or _WS are reserved"
    return None
