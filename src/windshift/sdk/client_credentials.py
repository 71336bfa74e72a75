"""Tokens of an OpenID Connect issuer for programs: OAuth 2.0, client credentials (RFC 6749, section 4.4)."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import SplitResult, quote_plus, urlencode, urlsplit

from .credentials import Token, is_loopback
from .errors import SettingsError, TokenUnavailable

_SIZE_LIMIT = 1 << 20  # bytes of an answer


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCredentials:
    """A source of tokens: `ws.connect(token=ws.ClientCredentials(...))`. A new one is fetched in time.

    Attributes:
        issuer: URL of the issuer, which has its metadata under `/.well-known/openid-configuration`. It begins
            with https; with http only on this machine.
        client_id: name of this client at the issuer.
        client_secret: its secret, or the path of a file with it, which is read for each fetch.
        audience: what the token is for, where the issuer wants to be told.
        scope: scopes to ask for, separated by spaces.
        ca: PEM file of the authorities that the issuer's certificate is of; None = the system's.
        timeout: seconds that a fetch may take.

    Raises:
        SettingsError: the issuer is no URL, or would get the secret in plain text.
    """

    issuer: str
    client_id: str
    client_secret: str | Path = field(repr=False)
    audience: str | None = None
    scope: str | None = None
    ca: str | Path | None = None
    timeout: float = 10.0

    def __post_init__(self) -> None:
        try:
            _checked(self.issuer)
        except ValueError as error:
            raise SettingsError(f"the issuer {self.issuer!r} {error}") from None

    async def __call__(self) -> Token:
        """Fetch a token.

        Raises:
            TokenUnavailable: the issuer did not give one.
        """
        try:
            async with asyncio.timeout(self.timeout):
                return await self._fetch()
        except TimeoutError:
            raise TokenUnavailable(f"the issuer {self.issuer} took longer than {self.timeout:g} s") from None
        except ssl.SSLCertVerificationError as error:
            why = f"its certificate is not valid: {error.verify_message}"
        except OSError as error:
            why = error.strerror or type(error).__name__
        except ValueError as error:
            why = str(error) or type(error).__name__
        raise TokenUnavailable(f"the issuer {self.issuer} gave no token: {why}")

    async def _fetch(self) -> Token:
        known = await self._ask(self.issuer.rstrip("/") + "/.well-known/openid-configuration", None, {})
        if known.get("issuer") != self.issuer:
            raise ValueError("its metadata is of another issuer")
        form = {"grant_type": "client_credentials"}
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        form |= {key: value for key, value in (("audience", self.audience), ("scope", self.scope)) if value}
        secret = self._secret()
        methods = known.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        if "client_secret_basic" in methods:
            pair = f"{quote_plus(self.client_id)}:{quote_plus(secret)}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": self.client_id, "client_secret": secret}
        answer = await self._ask(str(known.get("token_endpoint")), urlencode(form).encode(), headers)
        text, life = answer.get("access_token"), answer.get("expires_in")
        if not isinstance(text, str) or str(answer.get("token_type")).lower() != "bearer":
            raise ValueError("its answer has no bearer token")
        return Token(text, datetime.now(UTC) + timedelta(seconds=float(life)) if life is not None else None)

    def _secret(self) -> str:
        if isinstance(self.client_secret, Path):
            return self.client_secret.read_text("utf-8").strip()
        return self.client_secret

    async def _ask(self, url: str, body: bytes | None, headers: dict[str, str]) -> dict[str, Any]:
        """Send a request, without redirects and caches, and return the object that is answered."""
        parts = _checked(url)
        secure = parts.scheme == "https"
        context = ssl.create_default_context(cafile=self.ca) if secure else None
        port = parts.port or (443 if secure else 80)
        reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=context)
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            headers = {"Host": parts.netloc, "Accept": "application/json", "Connection": "close", **headers}
            if body is not None:
                headers["Content-Length"] = str(len(body))
            head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            writer.write(f"{'GET' if body is None else 'POST'} {target} HTTP/1.1\r\n{head}\r\n".encode())
            writer.write(body or b"")
            content = bytearray()
            while more := await reader.read(65_536):
                content += more
                if len(content) > _SIZE_LIMIT:
                    raise ValueError("its answer is too large")
        finally:
            writer.close()
        return _object(bytes(content))


def _checked(url: str) -> SplitResult:
    """Split a URL that secrets may be sent to.

    Raises:
        ValueError: not such a URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname or "@" in parts.netloc or parts.fragment:
        raise ValueError("is not the URL of a web server")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError("begins with http, which is for this machine only; use https")
    return parts


def _object(content: bytes) -> dict[str, Any]:
    """Return the JSON object in a response.

    Raises:
        ValueError: it has another status than 200, or no object, or is no response at all.
    """
    from http.client import HTTPException, HTTPResponse  # noqa: PLC0415 -- costs much, and few need it

    received: Any = SimpleNamespace(makefile=lambda _: io.BytesIO(content))  # what it wants of a socket
    response = HTTPResponse(received)
    try:
        response.begin()
        body = response.read()
    except HTTPException as error:
        raise ValueError(f"it does not speak HTTP as it should ({type(error).__name__})") from None
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    known = value if isinstance(value, dict) else {}
    if response.status != 200:
        reason = ": ".join(str(known[key])[:200] for key in ("error", "error_description") if key in known)
        raise ValueError(f"it answered with status {response.status}{reason and f' ({reason})'}")
    if not known:
        raise ValueError("it answered with something else than a JSON object")
    return known
