"""Refuses unknown variables that begin with WINDSHIFT_, and those of others' families that were meant for us.

A misspelt one would have no effect, and the server would not be what its owner thinks: possibly open to
everybody. Ignored are those that clients in the same shell read, those that Kubernetes sets in containers for
services, and what gRPC, OpenTelemetry and NATS's tools read themselves.
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
    r"(WINDSHIFT|GRPC|HEALTH|NATS|OTEL)(_[A-Z0-9_]+)?"
    r"_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)"
)
"""https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables"""
_INJECTED_URL: Final = re.compile(r"(WINDSHIFT|GRPC|HEALTH|NATS|OTEL)(_[A-Z0-9_]+)?_PORT")
"""The same, and what somebody may write who means a port; then it is no URL."""
_URL: Final = re.compile(r"(tcp|udp|sctp)://\S+")

_SHARED: Final = re.compile(r"(GRPC|HEALTH|NATS|OTEL)_(.+)")
"""Families of variables of which some are ours."""

_OTHERS: Final = re.compile(
    r"GRPC_(VERBOSITY|TRACE|EXPERIMENTS|DNS_RESOLVER|ARES\w*|POLL_STRATEGY|ABORT_ON_LEAKS|CLIENT_CHANNEL_\w+"
    r"|(NOT_USE_|DEFAULT_|USE_)?(SYSTEM_)?SSL_(CIPHER_SUITES|ROOTS\w*)|ENABLE_FORK_SUPPORT|XDS_\w+|GO_\w+"
    r"|BINARY_LOG_FILTER|PYTHON_\w+|BUILD_\w+|GCP_\w+|GOOGLE_\w+|STACKTRACE_MINLOGLEVEL)"
    r"|NATS_(USER|PASSWORD|TOKEN|CONTEXT|CA|CERT|KEY|TIMEOUT|DOMAIN|DESCRIPTION|INBOX_PREFIX|COLOR|SOCKS_PROXY|JS_\w+"
    r"|SERVER|VERSION|DOCKERIZED)"
    r"|OTEL_(LOG_LEVEL|CONFIG_FILE|ENTITIES|(BSP|BLRP|ATTRIBUTE|SPAN|EVENT|LINK|LOGRECORD|EXPERIMENTAL|PYTHON|JAVA|GO|NODE"
    r"|DOTNET|PHP|RUBY|INSTRUMENTATION|SEMCONV|EXPORTER_(JAEGER|ZIPKIN|PROMETHEUS))_\w+|METRICS_EXEMPLAR_FILTER"
    r"|EXPORTER_OTLP_METRICS_(TEMPORALITY_PREFERENCE|DEFAULT_HISTOGRAM_AGGREGATION)|EXPORTER_OTLP_SPAN_INSECURE"
    r"|EXPORTER_OTLP_METRIC_INSECURE)"
)
"""What others read: gRPC's doc/environment_variables.md, OpenTelemetry's specification, NATS's tools."""

_ABOUT_TLS: Final = re.compile(
    r"(GRPC_(?!CLIENT_(?!CA))|NATS_(?!SERVER_))"
    r"((CA|CLIENT|ENABLE|PRIVATE|REQUIRE|ROOT|SERVER|TRUSTED|USE)_)*"
    r"(M?TLS|SSL|KEY|CA|(CA)?(CERTS?|CRT|CERTIFICATES?))(_?(FILE|PATH|BUNDLE))?|(GRPC|NATS)_(M?TLS|SSL)_\w+"
)
"""Names that can only be meant for TLS, however little they are like ours. Without it others may get in.

Not those for the certificates of gRPC's clients and of NATS's servers.
"""

_SYNONYMS: Final = {"URI": "URL", "SERVERS": "URL", "SERVER_URL": "URL", "CREDENTIALS": "CREDS"}
"""What some write in place of a word of ours, and is not like it."""

_SAYS_LITTLE: Final = re.compile("_(FILE|PATH)$")
"""What some names have at their ends, and others that mean the same have not."""

_LEAST_ALIKE: Final = 0.6
_ALMOST_THE_SAME: Final = 0.75
_ALMOST_THE_PREFIX: Final = 0.8


def unknown(environment: Iterable[tuple[str, str]], known: Iterable[str]) -> dict[str, str]:
    """Return what is said about each variable of ours that is not known, by name."""
    names = frozenset(known) | CLIENT
    variables = [each for each in environment if each[0] not in names and not _injected(*each)]
    return _misspelt(variables, names) | {
        name: _said(rest, names) for name, _ in variables if (rest := _after_prefix(name)) is not None
    }


def _misspelt(variables: Iterable[tuple[str, str]], names: Iterable[str]) -> dict[str, str]:
    """Return the same of those in families that others share. Most of those are nothing to us."""
    said: dict[str, str] = {}
    for name, _ in variables:
        family = _SHARED.fullmatch(name.upper())
        if family is None or _OTHERS.fullmatch(family[0]):
            continue
        ours = {
            _SAYS_LITTLE.sub("", each[2]): each[0]
            for each in map(_SHARED.fullmatch, names)
            if each and each[1] == family[1]
        }
        rest = _SAYS_LITTLE.sub("", family[2])
        found = _closest(family[0], _SYNONYMS.get(rest, rest), ours)
        if found:
            said[name] = f"there is no such setting; did you mean {ours[found[0]]}?"
    return said


def _closest(name: str, rest: str, ours: Iterable[str]) -> list[str]:
    """Return which of the settings of a family is most like a name without it, if one is like it."""
    from difflib import get_close_matches  # noqa: PLC0415 - most environments have nothing to compare

    if not _ABOUT_TLS.fullmatch(name):
        swapped = [each for each in ours if sorted(each) == sorted(rest)]
        return swapped or get_close_matches(rest, ours, n=1, cutoff=_ALMOST_THE_SAME)
    ending = "_CA" if any(word.startswith("CA") for word in rest.split("_")) else ""
    about_tls = [each for each in ours if each.startswith("TLS_") and each.endswith(ending)]
    return get_close_matches(rest, about_tls, n=1, cutoff=0.0)


def _after_prefix(name: str) -> str | None:
    """Return what follows WINDSHIFT_, in any case, or something that is nearly that; None for other names."""
    first, *others = re.sub(r"[^A-Z0-9]", "_", name.upper()).split("_")
    if not others or not first.startswith("W"):
        return None
    if _nearly_the_prefix(first):
        return "_".join(others)
    second, *others = others
    return "_".join(others) if others and _nearly_the_prefix(first + second) else None


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
