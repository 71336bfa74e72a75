"""Refuses unknown variables that begin with WINDSHIFT_.

A misspelt one would have no effect, and the server would not be what its owner thinks: possibly open to
everybody. Ignored are those that clients in the same shell read, and those that Kubernetes sets in containers
for services whose names begin with ``windshift``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

PREFIX: Final = "WINDSHIFT_"

CLIENT: Final = frozenset(
    PREFIX + name
    for name in ("ADDRESS", "CONTEXT", "NAMESPACE", "TLS_CA", "TLS_CERT", "TLS_KEY", "TOKEN", "TOKEN_FILE")
)
"""What clients read."""

_INJECTED: Final = re.compile(
    r"WINDSHIFT(_[A-Z0-9_]+)?_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)"
)
"""https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables"""
_INJECTED_URL: Final = re.compile(r"WINDSHIFT(_[A-Z0-9_]+)?_PORT")
"""The same, and what somebody may write who means a port; then it is no URL."""
_URL: Final = re.compile(r"(tcp|udp|sctp)://\S+")

_LEAST_ALIKE: Final = 0.6
_ALMOST_THE_PREFIX: Final = 0.8


def unknown(environment: Iterable[tuple[str, str]], known: Iterable[str]) -> dict[str, str]:
    """Return what is said about each variable of ours that is not known, by name."""
    names = frozenset(known) | CLIENT
    return {
        name: _said(rest, names)
        for name, value in environment
        if name not in names and (rest := _after_prefix(name)) is not None and not _injected(name, value)
    }


def _after_prefix(name: str) -> str | None:
    """Return what follows WINDSHIFT_, in any case, or something that is nearly that; None for other names."""
    beginning, separator, rest = re.sub(r"[^A-Z0-9]", "_", name.upper()).partition("_")
    if not separator or not beginning.startswith("W"):
        return None
    return rest if f"{beginning}_" == PREFIX or _nearly_the_prefix(beginning) else None


def _nearly_the_prefix(beginning: str) -> bool:
    from difflib import SequenceMatcher  # noqa: PLC0415 - most environments have nothing to compare

    return SequenceMatcher(None, beginning, PREFIX[:-1]).ratio() >= _ALMOST_THE_PREFIX


def _injected(name: str, value: str) -> bool:
    if _INJECTED_URL.fullmatch(name) and _URL.fullmatch(value):
        return True
    return _INJECTED.fullmatch(name) is not None


def _said(rest: str, names: Iterable[str]) -> str:
    """Name the setting that was probably meant, with the prefix or without: GRPC_PORT may be it."""
    from difflib import get_close_matches  # noqa: PLC0415 - as above

    meant = {_after_prefix(each) or each: each for each in sorted(names)}
    found = get_close_matches(rest, meant, n=1, cutoff=_LEAST_ALIKE)
    if found:
        return f"there is no such setting; did you mean {meant[found[0]]}?"
    return "there is no such setting; unset it, or see `windshift serve --help` for those that there are"
