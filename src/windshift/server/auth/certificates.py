"""The names in a client's certificate, as the authorization file spells them.

`ssl` has verified the certificate; here it is only read. Names are compared exactly, so each must have one
spelling only, and none that another name could have. What cannot be spelled so is left out: an odd
certificate has fewer names, never a wrong one.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address
from math import inf
from typing import Any, Final, Self

_SHORT: Final = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "emailAddress": "emailAddress",
    "domainComponent": "DC",
    "userId": "UID",
    "serialNumber": "serialNumber",
}
"""OpenSSL's long names of attributes, which `ssl` gives, and how they are written here."""
_ALTERNATIVE: Final = {"DNS": "DNS", "URI": "URI", "email": "EMAIL", "IP Address": "IP"}
_ESCAPED: Final = str.maketrans({character: f"\\{character}" for character in '\\",+;<>'})


class CertificateNames(tuple[str, ...]):  # noqa: SLOT001 - a subclass of tuple cannot have any
    """The names in a certificate.

    Attributes:
        expires: Unix time in seconds after which the certificate is no longer valid.
    """

    expires: float

    def __new__(cls, names: Iterable[str] = (), expires: float = inf) -> Self:
        """Return these names."""
        self = super().__new__(cls, names)
        self.expires = expires
        return self


NO_NAMES: Final = CertificateNames()
"""What a client without a certificate has."""


def certificate_names(certificate: Mapping[str, Any] | None) -> CertificateNames:
    """Return the names in what `ssl.SSLSocket.getpeercert` gives; none for None or an empty one.

    The subject comes first, its parts in the order of the certificate: ``O=Acme,CN=edge`` is another one than
    ``CN=edge,O=Acme``. Special characters are escaped as in RFC 4514, and a part with several values is
    written ``CN=edge+UID=7``. Then come the alternative names: ``DNS:``, ``URI:``, ``EMAIL:`` and ``IP:``,
    addresses in their shortest form. No wildcard means anything.
    """
    if not certificate:
        return NO_NAMES
    try:
        expires = ssl.cert_time_to_seconds(certificate["notAfter"])
    except (KeyError, ValueError):
        return NO_NAMES
    return CertificateNames(
        dict.fromkeys([*_subject(certificate), *_alternatives(certificate)]), float(expires)
    )


def _subject(certificate: Mapping[str, Any]) -> Iterator[str]:
    parts = [[_attribute(*attribute) for attribute in part] for part in certificate.get("subject", ())]
    if parts and all(part and all(part) for part in parts):
        yield ",".join(map("+".join, parts))


def _attribute(kind: str, value: Any) -> str:
    """Return how an attribute is written, nothing for one that has no spelling here."""
    short = _SHORT.get(kind)
    if short is None or not _plain(value):
        return ""
    text = value.translate(_ESCAPED)
    if text.startswith(("#", " ")):
        text = f"\\{text}"
    if text.endswith(" ") and text != "\\ ":
        text = f"{text[:-1]}\\ "
    return f"{short}={text}"


def _alternatives(certificate: Mapping[str, Any]) -> Iterator[str]:
    for kind, value in certificate.get("subjectAltName", ()):
        prefix = _ALTERNATIVE.get(kind)
        if prefix is None or not _plain(value):
            continue
        if prefix != "IP":
            yield f"{prefix}:{value}"
            continue
        try:
            yield f"IP:{ip_address(value)}"
        except ValueError:
            continue


def _plain(value: object) -> bool:
    """Tell whether this is text that looks like what it is: something, and no control characters."""
    return isinstance(value, str) and bool(value) and value.isprintable()
