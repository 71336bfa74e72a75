"""Where a client connects to and as whom: arguments, the environment, a context; checked before any I/O."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from windshift.rpc import client_tls

from .contexts import Context, contexts_path, read_context
from .credentials import Credentials, TokenSource, is_loopback
from .errors import SettingsError
from .names import NAMESPACE, Names
from .payloads import Codec, Payloads
from .times import Seconds, seconds

DEFAULT_TARGET = "127.0.0.1:8080"


class Tls(NamedTuple):
    """TLS, with the server verified. `Tls()` trusts the system's authorities.

    Attributes:
        ca: PEM file of the authorities to trust; None = the system's.
        cert: PEM file with the client's own certificate, for servers that ask for one.
        key: PEM file with its private key.
    """

    ca: str | Path | None = None
    cert: str | Path | None = None
    key: str | Path | None = None


class Settings(NamedTuple):
    """What a client needs to know.

    Attributes:
        targets: `host:port` of each server.
        tls: None = plain text.
        credentials: source of the token.
        timeout: seconds that an operation may take with all its attempts.
        names: the namespace.
        payloads: what becomes payloads, and how.
        certificate: file with the client's certificate; None = it has none.
    """

    targets: tuple[str, ...]
    tls: ssl.SSLContext | None
    credentials: Credentials
    timeout: float
    names: Names
    payloads: Payloads
    certificate: Path | None = None


def read_settings(
    address: str | None,
    *,
    tls: Tls | bool | None,
    token: TokenSource | None,
    timeout: Seconds,
    namespace: str | None,
    plaintext_token: bool,
    context: str | None = None,
    codecs: Sequence[Codec] = (),
    environment: Mapping[str, str] = os.environ,
) -> Settings:
    """Combine arguments, the environment and a context; they win in this order.

    Raises:
        SettingsError: names everything that is wrong.
    """
    problems: list[str] = []
    if address is not None and not isinstance(address, str):
        raise SettingsError(f"the address is a text, such as '127.0.0.1:8080', not {address!r}")
    address = address or environment.get("WINDSHIFT_ADDRESS")
    chosen = _context(context, address, environment, problems)
    targets = read_targets(address or chosen.address or DEFAULT_TARGET, problems)
    secure, certificate = _tls(tls, chosen, environment, problems)
    credentials = _credentials(token, chosen, environment, problems)
    space = environment.get("WINDSHIFT_NAMESPACE", chosen.namespace or "") if namespace is None else namespace
    if space and not NAMESPACE.fullmatch(space):
        problems.append(f"the namespace {space!r} is not 1 to 32 letters, digits and _")
    limit = seconds(timeout)
    if not limit > 0:
        problems.append("the timeout must be above 0 seconds")
    hint = ""
    if secure is None and not plaintext_token and credentials.has_token:
        hint = _plaintext_hint(targets, problems)
    if problems:
        raise SettingsError("; ".join(problems), hint=hint)
    return Settings(targets, secure, credentials, limit, Names(space), Payloads(codecs), certificate)


def _plaintext_hint(targets: Sequence[str], problems: list[str]) -> str:
    """Add where a token would go in plain text; return what to do about it, empty where it would not."""
    remote = [target for target in targets if not is_loopback(target.rpartition(":")[0].strip("[]"))]
    problems += [f"the token would go to {target} in plain text" for target in remote]
    return "use tls, or allow it with plaintext_token=True" if remote else ""


def _context(
    name: str | None, address: str | None, environment: Mapping[str, str], problems: list[str]
) -> Context:
    """Read the context that is named, or the selected one.

    The latter only where nothing else says which server is meant: its token is for its own server.
    """
    name = name or environment.get("WINDSHIFT_CONTEXT") or None
    if name is None and address is not None:
        return Context()
    return read_context(name, contexts_path(environment), environment, problems)


def read_targets(text: str, problems: list[str]) -> tuple[str, ...]:
    """Return the `host:port` of each server in an address; `problems` gets what is wrong with it."""
    targets = tuple(part.strip() for part in text.split(","))
    for target in targets:
        host, _, port = target.rpartition(":")
        if "/" in target:
            scheme = f"{target.partition('://')[0]}://" if "://" in target else "a path"
            problems.append(f"the address {target!r} is not right; it is host:port, without {scheme}")
        elif not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
            problems.append(f"the address {target!r} is not right; it is host:port, such as 127.0.0.1:8080")
        elif ":" in host and not (host.startswith("[") and host.endswith("]")):
            problems.append(f"the address {target!r} needs brackets around its IPv6 address")
    return targets


def _tls(
    tls: Tls | bool | None,  # noqa: FBT001 -- they are values of the argument of `connect`
    chosen: Context,
    environment: Mapping[str, str],
    problems: list[str],
) -> tuple[ssl.SSLContext | None, Path | None]:
    """Return what makes TLS connections, and the file with the client's certificate."""
    if tls is None:
        files = Tls(*(environment.get(f"WINDSHIFT_TLS_{part}") or None for part in ("CA", "CERT", "KEY")))
        of_context = chosen.tls if isinstance(chosen.tls, bool) else Tls(**chosen.tls)
        tls = files if any(files) else of_context
    if tls is False:
        return None, None
    if tls is True:
        tls = Tls()
    if (tls.cert is None) != (tls.key is None):
        problems.append("a client certificate and its key go together")
        return None, None
    ca, cert, key = (Path(file) if file else None for file in tls)
    try:
        return client_tls(ca, cert, key), cert
    except OSError as error:
        problems.append(
            f"the TLS files {', '.join(str(file) for file in tls if file)} cannot be used: {error}"
        )
        return None, None


def _credentials(
    token: TokenSource | None, chosen: Context, environment: Mapping[str, str], problems: list[str]
) -> Credentials:
    if token is None:
        text, file = environment.get("WINDSHIFT_TOKEN"), environment.get("WINDSHIFT_TOKEN_FILE")
        if text and file:
            problems.append("set WINDSHIFT_TOKEN or WINDSHIFT_TOKEN_FILE, not both")
        token = text or (Path(file) if file else chosen.token)
    try:
        return Credentials(token)
    except SettingsError as error:
        problems.append(error.message)
        return Credentials(None)
