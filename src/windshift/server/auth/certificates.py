"""The names in a client's certificate, as the authorization file spells them.

`ssl` has verified the certificate; this only reads the names in it, and those in the file. Names are compared
exactly, so each must have exactly one spelling that no other name has. Anything else is left out: an odd
certificate has fewer names, never wrong ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from math import inf
from typing import Any, Final, NamedTuple

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
"""OpenSSL's long attribute names, as in `ssl`, and how they are written here."""
_ALTERNATIVE: Final = {"DNS": "DNS", "URI": "URI", "email": "EMAIL", "IP Address": "IP"}
_SPECIAL: Final = '\\",+;<>'
_ESCAPED: Final = str.maketrans({character: f"\\{character}" for character in _SPECIAL})

_PLAIN: Final = rf"(?:[^{re.escape(_SPECIAL)}]|\\[{re.escape(_SPECIAL)}])"
_VALUE: Final = rf"(?:\\[# ]|(?![# ]){_PLAIN})(?:{_PLAIN}*(?:(?! ){_PLAIN}|\\ ))?"
_ATTRIBUTE: Final = rf"(?:{'|'.join(_SHORT.values())})={_VALUE}"
_SUBJECT_NAME: Final = re.compile(rf"{_ATTRIBUTE}(?:[,+]{_ATTRIBUTE})*")
"""A subject in the one spelling that it has here."""
_ALTERNATIVE_NAME: Final = re.compile(rf"({'|'.join(_ALTERNATIVE.values())}):(.+)")


class CertificateNames(NamedTuple):
    """The names in a certificate; none where there is no certificate.

    Attributes:
        names: as the authorization file spells them.
        expires: Unix time in seconds until which the certificate is valid.
    """

    names: tuple[str, ...] = ()
    expires: float = inf


def certificate_names(certificate: Mapping[str, Any] | None) -> CertificateNames:
    """Return the names in the result of `ssl.SSLSocket.getpeercert`; none for None or an empty one.

    The subject is first, with its parts in the order of the certificate: ``O=Acme,CN=edge`` differs from
    ``CN=edge,O=Acme``. Special characters are escaped as in RFC 4514, and a part with several values is
    written ``CN=edge+UID=7``. Then the alternative names: ``DNS:``, ``URI:``, ``EMAIL:`` and ``IP:``,
    addresses in their shortest form. Wildcards have no meaning.
    """
    if not certificate:
        return CertificateNames()
    import ssl  # noqa: PLC0415 - it takes 20 ms, and commands only read names in the file

    try:
        expires = ssl.cert_time_to_seconds(certificate["notAfter"])
    except (KeyError, ValueError):
        return CertificateNames()
    names = dict.fromkeys([*_subject(certificate), *_alternatives(certificate)])
    return CertificateNames(tuple(names), float(expires))


def read_name(text: str) -> str:
    """Return a name of the file in its one spelling. Raise `ValueError` with what is wrong."""
    if not text.isprintable() or "*" in text:
        raise ValueError("wildcards and control characters mean nothing here; write each name exactly")
    alternative = _ALTERNATIVE_NAME.fullmatch(text)
    if alternative is not None and alternative[1] != "IP":
        return text
    if alternative is not None:
        try:
            return f"IP:{ip_address(alternative[2])}"
        except ValueError:
            raise ValueError("not an IP address") from None
    if _SUBJECT_NAME.fullmatch(text) is None:
        raise ValueError(
            "must be a whole subject in the order of the certificate, as in CN=edge,O=Acme (without blanks "
            "around the commas; \\ before a comma in a value), or DNS:, URI:, EMAIL: or IP: and a name"
        )
    return text


def _subject(certificate: Mapping[str, Any]) -> Iterator[str]:
    parts = [[_attribute(*attribute) for attribute in part] for part in certificate.get("subject", ())]
    if parts and all(part and all(part) for part in parts):
        yield ",".join(map("+".join, parts))


def _attribute(kind: str, value: Any) -> str:
    """Return an attribute as written here; empty if it has no spelling."""
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
    """Return whether this is non-empty text without control characters."""
    return isinstance(value, str) and bool(value) and value.isprintable()
