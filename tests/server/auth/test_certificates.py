"""The names in a client's certificate: each is spelled in one way, and none can pass for another."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from windshift.server.auth.certificates import certificate_names

NOT_AFTER = "Jan  1 00:00:00 2030 GMT"
EXPIRES = 1_893_456_000.0


def names(
    subject: Sequence[Sequence[tuple[str, Any]]] = (), alternatives: Sequence[tuple[str, Any]] = ()
) -> tuple[str, ...]:
    """Return the names of a certificate with this subject and these alternative names."""
    return certificate_names(
        {"subject": tuple(map(tuple, subject)), "subjectAltName": tuple(alternatives), "notAfter": NOT_AFTER}
    ).names


def subject(*attributes: tuple[str, Any]) -> tuple[str, ...]:
    """Return the names of a certificate whose subject has these attributes, one in each part."""
    return names([[attribute] for attribute in attributes])


def test_a_subject_is_written_in_its_own_order() -> None:
    """The parts stand as in the certificate, so that other orders are other subjects."""
    assert subject(("commonName", "edge"), ("organizationName", "Acme")) == ("CN=edge,O=Acme",)
    assert subject(("organizationName", "Acme"), ("commonName", "edge")) == ("O=Acme,CN=edge",)


def test_each_known_attribute_has_its_short_name() -> None:
    """All attributes that may stand in a subject, by their short names."""
    known = {
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
    for long, short in known.items():
        assert subject((long, "x")) == (f"{short}=x",)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("edge,O=Acme", r"edge\,O=Acme"),
        ("edge+O=Acme", r"edge\+O=Acme"),
        (r"edge\,O=Acme", r"edge\\\,O=Acme"),
        ('"edge"', r"\"edge\""),
        ("a;b<c>d", r"a\;b\<c\>d"),
        ("#edge", r"\#edge"),
        (" edge", r"\ edge"),
        ("edge ", r"edge\ "),
        (" ", r"\ "),
        ("  ", r"\ \ "),
        ("a  b", "a  b"),
        ("a=b", "a=b"),
        ("Bücher", "Bücher"),
        ("DNS:edge.acme", "DNS:edge.acme"),
    ],
)
def test_special_characters_are_escaped(value: str, written: str) -> None:
    """A value is escaped as RFC 4514 has it, so that no value can pass for several attributes."""
    assert subject(("commonName", value)) == (f"CN={written}",)


def test_no_two_subjects_are_written_alike() -> None:
    """Subjects made of the characters that mean something all have spellings of their own."""
    values = ["a", "a,O=b", "a+O=b", r"a\,O=b", "a\\", "a\\\\,O=b", ' a"', "a ", "a\\ ", "#a", r"\#a"]
    seen: dict[str, object] = {}
    for first in values:
        for shape in (
            [[("commonName", first)]],
            [[("commonName", first)], [("organizationName", "b")]],
            [[("commonName", first), ("organizationName", "b")]],
            [[("organizationName", "b")], [("commonName", first)]],
        ):
            (name,) = names(shape)
            assert name not in seen, (shape, seen[name])
            seen[name] = shape


def test_a_part_with_several_values_is_not_several_parts() -> None:
    """Values that share a part are joined with a plus sign."""
    assert names([[("commonName", "edge"), ("organizationName", "Acme")]]) == ("CN=edge+O=Acme",)


@pytest.mark.parametrize(
    "attribute",
    [
        ("title", "Dr"),
        ("1.2.3.4.5", "odd"),
        ("x500UniqueIdentifier", b"uu"),
        ("CN", "edge"),
        ("commonname", "edge"),
        ("commonName", "edge\0"),
        ("commonName", "edge\0.evil"),
        ("commonName", "edge\n"),
        ("commonName", "ed\u202ege"),
        ("commonName", "edge\u00a0"),
        ("commonName", ""),
        ("commonName", b"edge"),
        ("commonName", None),
    ],
)
def test_a_subject_with_something_unknown_is_no_name(attribute: tuple[str, Any]) -> None:
    """What cannot be written makes the whole subject unusable; alternative names still count."""
    assert names([[("organizationName", "Acme")], [attribute]], [("DNS", "edge.acme")]) == ("DNS:edge.acme",)


def test_case_makes_a_difference() -> None:
    """Names are given as they stand in the certificate."""
    assert subject(("commonName", "Edge")) == ("CN=Edge",)
    assert names((), [("DNS", "Edge.Acme")]) == ("DNS:Edge.Acme",)


def test_alternative_names_have_prefixes() -> None:
    """Each kind of alternative name has its prefix; kinds that are not known are left out."""
    given = [
        ("DNS", "edge.acme"),
        ("DNS", "*.acme"),
        ("URI", "spiffe://acme/edge,DNS:x"),
        ("email", "edge@acme.example"),
        ("IP Address", "10.0.0.1"),
        ("IP Address", "2001:DB8:0:0:0:0:0:1"),
        ("IP Address", "<invalid>"),
        ("Registered ID", "1.2.3"),
        ("othername", "UPN:edge"),
        ("DirName", ((("commonName", "edge"),),)),
        ("DNS", "edge.acme\0.evil"),
        ("DNS", ""),
        ("DNS", "edge.acme"),
    ]
    assert names((), given) == (
        "DNS:edge.acme",
        "DNS:*.acme",
        "URI:spiffe://acme/edge,DNS:x",
        "EMAIL:edge@acme.example",
        "IP:10.0.0.1",
        "IP:2001:db8::1",
    )


def test_a_certificate_says_how_long_it_is_valid() -> None:
    """The end of its validity comes with the names, in seconds since 1970."""
    found = certificate_names({"subject": ((("commonName", "edge"),),), "notAfter": NOT_AFTER})
    assert found == (("CN=edge",), EXPIRES)


@pytest.mark.parametrize("certificate", [None, {}, {"subject": ((("commonName", "edge"),),)}])
def test_no_certificate_has_no_names(certificate: dict[str, Any] | None) -> None:
    """None, an unverified certificate, and one without an end have no names."""
    assert certificate_names(certificate).names == ()


@pytest.mark.parametrize("end", ["", "tomorrow", "Jan 32 00:00:00 2030 GMT", "Jan  1 00:00:00 2030"])
def test_a_certificate_with_an_unreadable_end_has_no_names(end: str) -> None:
    """What cannot be known to expire is not accepted."""
    assert certificate_names({"subject": ((("commonName", "edge"),),), "notAfter": end}).names == ()


def test_names_of_a_real_certificate(tmp_path: Path) -> None:
    """What `ssl` reads from a certificate is what is expected here."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
            x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, "Bayern"),
            x509.NameAttribute(NameOID.LOCALITY_NAME, "Hof"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Acme, Inc."),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Edge"),
            x509.NameAttribute(NameOID.DOMAIN_COMPONENT, "acme"),
            x509.NameAttribute(NameOID.USER_ID, "7"),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, "42"),
            x509.NameAttribute(NameOID.EMAIL_ADDRESS, "e@acme"),
        ]
    )
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(end - timedelta(days=2))
        .not_valid_after(end)
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.DNSName("edge.acme"),
                    x509.UniformResourceIdentifier("spiffe://acme/edge"),
                    x509.RFC822Name("edge@acme.example"),
                    x509.IPAddress(ip_address("2001:db8::1")),
                    x509.DirectoryName(name),
                    x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
                ]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "edge.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    read = ssl._ssl._test_decode_cert(str(path))  # type: ignore[attr-defined] # reads as getpeercert does
    found = certificate_names(read)
    assert found.expires == end.timestamp()
    assert found.names == (
        r"C=DE,ST=Bayern,L=Hof,O=Acme\, Inc.,OU=Edge,DC=acme,UID=7,serialNumber=42,emailAddress=e@acme",
        "DNS:edge.acme",
        "URI:spiffe://acme/edge",
        "EMAIL:edge@acme.example",
        "IP:2001:db8::1",
    )
