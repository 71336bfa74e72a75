"""The authorization file: what it says, and everything that can be wrong with it."""

# ruff: noqa: E501 - rows of tables, and files as people write them

from __future__ import annotations

import os
import random
import tomllib
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import get_default_algorithms

from windshift.server.auth.actions import Consume, Publish
from windshift.server.auth.permissions import LISTS
from windshift.server.auth.policy import ALGORITHMS, QUOTAS, Issuer, JwtSubject, Policy, Quotas
from windshift.server.auth.policy_file import LARGEST, PolicyError, parse_policy, read_policy

A, B = "a1" * 32, "B2" * 32
TOKEN = "ws_billing_" + "Aa-_1" * 8 + "xyz"
A_JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJzZWNyZXQifQ.c2ln"
WHOLE = f"""\
issuers = [ {{ name = "corp", issuer = "https://id.example", audience = "windshift", jwks = "https://id.example/jwks", algorithms = ["ES256"] }} ]
principals = [
  {{ name = "billing", token_sha256 = ["{A}", {{ sha256 = "{B}", expires = 2027-01-01T00:00:00Z }}], roles = ["order-writer"], max_streams = 20, max_rps = 2000 }},
  {{ name = "ci", jwt = {{ issuer = "corp", sub = "repo:acme/app" }}, roles = ["order-writer", "nothing"] }},
  {{ name = "edge", mtls = "CN=edge,O=Acme", roles = ["order-writer"] }},
]
[role.order-writer]
publish = ["orders.>"]
streams = {{ manage = ["ORDERS"], view = ["ORDERS"], purge = ["ORDERS"], delete = ["ORDERS"], ephemeral = ["ORDERS"], bind = ["orders.>"], consume = ["ORDERS"], subjects = ["orders.>"] }}
consumers = {{ use = ["billing-*"], reject = ["billing-*"], delete = ["billing-*"], control = ["billing-*"] }}
stores = {{ manage = ["cfg"], read = ["cfg"], write = ["cfg"], keys = ["billing.>"] }}
dead_letters = {{ read = ["ORDERS"], replay = ["ORDERS"], purge = ["ORDERS"], consumers = ["billing-*"] }}
deny.publish = ["orders.internal.>"]
deny.streams.subjects = ["orders.internal.>"]
server = {{ observe = ["*"], control = ["billing"] }}
[role.nothing]
[publishing]
shared_keys = ["orders.imported.>"]
"""
LONG_FORM = f"""\
[[issuers]]
name = "corp"
issuer = "https://id.example"
audience = ["windshift", "other"]
jwks = "/etc/windshift/jwks.json"
algorithms = ["EdDSA", "PS512"]
max_lifetime = 3600
leeway = 0

[[principals]]
name = "billing"
token_sha256 = "{A}"
roles = ["r"]
max_rps = 0.5

[[principals]]
name = "all-kinds"
token_sha256 = {{ sha256 = "{B}", expires = 2027-01-01T02:00:00+02:00 }}
mtls = ["DNS:edge.acme", "URI:spiffe://acme/edge", "EMAIL:ops@acme.example", "IP:2001:0DB8::0001", 'O=Acme\\, Inc.,CN=e+UID=7']
roles = ["r"]
[[principals.jwt]]
issuer = "corp"
sub = "one"
[[principals.jwt]]
issuer = "corp"
sub = "two"

[role.r.stores]
read = ["*"]
keys = [">"]
[role.r.deny.stores]
keys = ["secret.>"]
"""


def problems(text: str) -> list[str]:
    """Return what is wrong with a file."""
    try:
        parse_policy(text)
    except PolicyError as error:
        return list(error.problems)
    return []


def principal(**values: str) -> str:
    """Return a file with one principal, in line 1, and a role `r`; values are TOML, empty ones are left out."""
    keys = {"name": '"p"', "token_sha256": f'"{A}"', "roles": '["r"]'} | values
    inside = ", ".join(f"{key} = {value}" for key, value in keys.items() if value)
    return f"principals = [{{ {inside} }}]\nrole.r = {{}}\n"


def issuer(**values: str) -> str:
    """Return a file with one issuer, in line 1; values are TOML, empty ones are left out."""
    keys = {"name": '"i"', "issuer": '"x"', "audience": '"y"', "jwks": '"/k"', "algorithms": '["ES256"]'}
    inside = ", ".join(f"{key} = {value}" for key, value in (keys | values).items() if value)
    return f"issuers = [{{ {inside} }}]\n"


def test_quotas() -> None:
    """What a principal says holds, else the most that a role says, else what holds for all, else the default."""
    policy = parse_policy(
        f"""
[quotas]
streams = 1
stores = 2
consumers = 3
reserved_bytes = "2 MiB"
[role.a]
quotas = {{ stores = 20, consumers = 30, sources = 5, replicas = 1 }}
[role.b.quotas]
stores = 10
consumers = "off"
sources = 0
[role.c]
[[principals]]
name = "one"
roles = ["a", "b"]
token_sha256 = "{A}"
quotas = {{ stores = 0, memory_bytes = "3GiB" }}
[[principals]]
name = "two"
roles = ["c"]
token_sha256 = "{B}"
"""
    )
    one, two = policy.principals.values()
    assert one.quotas == Quotas(
        streams=1,
        stores=0,
        consumers=None,
        sources=5,
        replicas=1,
        reserved_bytes=2 << 20,
        memory_bytes=3 << 30,
    )
    assert two.quotas == Quotas(streams=1, stores=2, consumers=3, reserved_bytes=2 << 20)


def test_defaults_of_a_server() -> None:
    """They hold in place of the usual ones, and whatever the file says goes before."""
    one, two = parse_policy(
        f"""
[quotas]
streams = 1
[role.a]
[role.b]
quotas = {{ connections = "off" }}
[[principals]]
name = "one"
roles = ["a"]
token_sha256 = "{A}"
[[principals]]
name = "two"
roles = ["b"]
token_sha256 = "{B}"
""",
        {"streams": 5, "connections": 6},
    ).principals.values()
    assert one.quotas == Quotas(streams=1, connections=6)
    assert two.quotas == Quotas(streams=1, connections=None)


def _lists(group: str) -> str:
    """Name the lists of a table in a role."""
    return ", ".join(key.partition(".")[2] for key in LISTS if key.startswith(f"{group}."))


def test_the_whole_file() -> None:
    """Everything that the file says is in the policy."""
    policy = parse_policy(WHOLE)
    billing, ci, edge = policy.principals.values()
    assert list(policy.principals) == ["billing", "ci", "edge"]
    assert [token.digest for token in billing.tokens] == [bytes.fromhex(A), bytes.fromhex(B)]
    assert [token.expires for token in billing.tokens] == [inf, datetime(2027, 1, 1, tzinfo=UTC).timestamp()]
    assert (billing.max_streams, billing.max_rps, ci.max_streams, ci.max_rps) == (20, 2000, None, None)
    assert ci.jwt == (JwtSubject("corp", "repo:acme/app"),)
    assert policy.by_subject == {JwtSubject("corp", "repo:acme/app"): ci}
    assert policy.by_certificate == {"CN=edge,O=Acme": edge}
    expected = Issuer("corp", "https://id.example", ("windshift",), "https://id.example/jwks", ("ES256",))
    assert policy.issuers == {"corp": expected}
    writer, nothing = ci.permissions.roles
    assert (writer.name, nothing.name, nothing.allow, nothing.deny) == ("order-writer", "nothing", {}, {})
    assert set(writer.allow) == set(LISTS)
    assert [entry.pattern for entry in policy.shared_keys] == ["orders.imported.>"]
    assert (billing.key_scope("orders.imported.x"), billing.key_scope("orders.x")) == ("", "billing")
    assert set(writer.deny) == {"publish", "streams.subjects"}


def test_decisions_name_the_lines_of_the_file() -> None:
    """What decides has the line in which it stands."""
    permissions = parse_policy(WHOLE).principals["billing"].permissions
    assert permissions.decide(Publish("orders.new")) == (
        True,
        'role order-writer, publish "orders.>" (line 8)',
    )
    assert permissions.decide(Consume("ORDERS", ">", None)) == (
        False,
        'role order-writer, deny.streams.subjects "orders.internal.>" (line 14)',
    )


def test_the_long_form() -> None:
    """Headers of tables say the same as inline tables; one value may stand for an array of one."""
    policy = parse_policy(LONG_FORM)
    billing, other = policy.principals.values()
    assert policy.issuers["corp"] == Issuer(
        "corp",
        "https://id.example",
        ("windshift", "other"),
        "/etc/windshift/jwks.json",
        ("EdDSA", "PS512"),
        timedelta(hours=1),
        timedelta(0),
    )
    assert billing.max_rps == 0.5
    assert other.tokens[0].expires == datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    assert other.jwt == (JwtSubject("corp", "one"), JwtSubject("corp", "two"))
    assert other.mtls == (
        "DNS:edge.acme",
        "URI:spiffe://acme/edge",
        "EMAIL:ops@acme.example",
        "IP:2001:db8::1",
        "O=Acme\\, Inc.,CN=e+UID=7",
    )
    assert other.permissions.roles[0].deny["stores.keys"] == (("secret.>", 32),)


def test_nobody() -> None:
    """An empty file is fine: then nobody may do anything."""
    assert parse_policy("") == parse_policy("# nothing\n") or isinstance(parse_policy(""), Policy)
    assert not parse_policy("").principals


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a = ", "line 1: Invalid value"),
        ('\n[role.x\npublish = ["a"]', "line 2: Expected ']' at the end of a table declaration"),
        ("a = 1\na = 2", "line 2: Cannot overwrite a value"),
        ("a = 2027-13-01T00:00:00Z", "line 1: "),
        ("a = " + "[" * 100_000, "line 1: nested too deeply"),
        ("a = " + "9" * 10_000, "line 1: "),
        ("#" * (LARGEST + 1), "line 1: the file is larger than 1048576 bytes"),
        ("#" + "é" * (LARGEST // 2), "line 1: the file is larger than 1048576 bytes"),
        (
            "roles = 1",
            'line 1: unknown key "roles" (did you mean "role"?); known are issuers, principals, publishing, quotas, role',
        ),
        ("principals = {}", "line 1: principals: must be an array of tables, not a table"),
        ("principals = [1]", "line 1: principals: must be a table, not an integer"),
        ("issuers = 'x'", "line 1: issuers: must be an array of tables, not a string"),
        ("role = []", "line 1: role: must be a table, not an array"),
        ("role.x = 1", "line 1: role.x: must be a table, not an integer"),
        (
            "[role.'a b']",
            'line 1: role."a b": not a name for a role: use 1 to 64 characters of A-Z a-z 0-9 _ -',
        ),
        ('[role."a\\nb"]', 'line 1: role."a\\nb": '),
    ],
)
def test_the_document(text: str, problem: str) -> None:
    """What is no such document is told with its line, in one line of text."""
    found = problems(text)
    assert found
    assert [each[: len(problem)] for each in found] == [problem]
    assert not any("\n" in each for each in found)


def test_unknown_keys_are_found_everywhere() -> None:
    """A key that means nothing is a problem wherever it stands, with what was meant."""
    text = f"""\
[[issuers]]
name = "i"
issuer = "x"
audience = "y"
jwks = "/k"
algorithms = ["ES256"]
algorithm = "ES256"
[[principals]]
name = "p"
token_sha256 = [{{ sha256 = "{A}", expire = 2027-01-01T00:00:00Z }}]
jwt = {{ issuer = "i", sub = "s", aud = "x" }}
roles = ["r"]
max_stream = 1
[role.r]
publsih = []
[role.r.streams]
managed = []
[role.r.deny]
deny = {{}}
consumers.use = ["x"]
consumers.used = ["x"]
[other]
"""
    assert [problem.partition("; known are")[0] for problem in problems(text)] == [
        'line 7: issuers.i: unknown key "algorithm" (did you mean "algorithms"?)',
        'line 10: principals.p.token_sha256: unknown key "expire" (did you mean "expires"?)',
        'line 11: principals.p.jwt: unknown key "aud"',
        'line 13: principals.p: unknown key "max_stream" (did you mean "max_streams"?)',
        'line 15: role.r: unknown key "publsih" (did you mean "publish"?)',
        'line 17: role.r.streams: unknown key "managed" (did you mean "manage"?)',
        'line 19: role.r.deny: unknown key "deny"',
        'line 21: role.r.deny.consumers: unknown key "used" (did you mean "use"?)',
        'line 22: unknown key "other"',
    ]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"name": ""}, "principals: has no name"),
        ({"name": "1"}, "principals.name: must be a string, not an integer"),
        ({"name": '"a b"'}, 'principals.name: "a b": use 1 to 64 characters of A-Z a-z 0-9 _ -'),
        ({"name": '""'}, 'principals.name: "": use 1 to 64 characters of A-Z a-z 0-9 _ -'),
        ({"name": f'"{"x" * 65}"'}, f'principals.name: "{"x" * 65}": use 1 to 64 characters of A-Z a-z 0-9 _ -'),
        ({"roles": ""}, "principals.p: has no roles"),
        ({"roles": "[]"}, "principals.p: has no roles"),
        ({"roles": '"r"'}, "principals.p.roles: must be an array of strings, not a string"),
        ({"roles": '["x"]'}, 'principals.p.roles: unknown role "x"; known are "r"'),
        ({"roles": "[1]"}, "principals.p.roles: must be a string, not an integer"),
        ({"token_sha256": ""}, "principals.p: has no credential; give it token_sha256, jwt or mtls"),
        ({"token_sha256": "[]"}, "principals.p: has no credential; give it token_sha256, jwt or mtls"),
        ({"token_sha256": "7"}, "principals.p.token_sha256: must be an array of strings or tables, not an integer"),
        ({"token_sha256": "[7]"}, "principals.p.token_sha256: must be a string or a table, not an integer"),
        ({"token_sha256": "{}"}, "principals.p.token_sha256: has no sha256"),
        (
            {"token_sha256": f'{{ sha256 = "{A}", expires = 2027-01-01T00:00:00 }}'},
            ("principals.p.token_sha256.expires: must be a date-time with an offset, as in "
            "2027-01-01T00:00:00Z, not one without an offset"),
        ),
        (
            {"token_sha256": f'{{ sha256 = "{A}", expires = "2027-01-01" }}'},
            ("principals.p.token_sha256.expires: must be a date-time with an offset, as in "
            "2027-01-01T00:00:00Z, not a string"),
        ),
        ({"token_sha256": f'["{A}", "{A.upper()}"]'}, "principals.p.token_sha256: the same token is there already (line 1)"),
        ({"jwt": '"x"'}, "principals.p.jwt: must be an array of tables, not a string"),
        ({"jwt": '{ sub = "s" }'}, "principals.p.jwt: has no issuer"),
        ({"jwt": '{ issuer = "corp", sub = "s" }'}, 'principals.p.jwt.issuer: unknown issuer "corp"; known are none'),
        ({"mtls": "1"}, "principals.p.mtls: must be an array of strings, not an integer"),
        ({"mtls": '["CN=a", "CN=a"]'}, "principals.p.mtls: this name is there already (line 1)"),
        ({"max_streams": "0"}, "principals.p.max_streams: must be a whole number of at least 1"),
        ({"max_streams": "1.0"}, "principals.p.max_streams: must be a whole number of at least 1"),
        ({"max_streams": "true"}, "principals.p.max_streams: must be a whole number of at least 1"),
        ({"max_rps": "0"}, "principals.p.max_rps: must be a number above 0"),
        ({"max_rps": "-1"}, "principals.p.max_rps: must be a number above 0"),
        ({"max_rps": "inf"}, "principals.p.max_rps: must be a number above 0"),
        ({"max_rps": "nan"}, "principals.p.max_rps: must be a number above 0"),
        ({"max_rps": "'1'"}, "principals.p.max_rps: must be a number above 0"),
        ({"quotas": "5"}, f"principals.p.quotas: must be a table with {', '.join(QUOTAS)}, not an integer"),
        ({"quotas": "{ streams = -1 }"}, 'principals.p.quotas.streams: must be a whole number, or "off"'),
        ({"quotas": "{ streams = 1.0 }"}, 'principals.p.quotas.streams: must be a whole number, or "off"'),
        ({"quotas": "{ streams = false }"}, 'principals.p.quotas.streams: must be a whole number, or "off"'),
        ({"quotas": "{ streams = '1GiB' }"}, 'principals.p.quotas.streams: must be a whole number, or "off"'),
        (
            {"quotas": "{ memory_bytes = '1GB' }"},
            'principals.p.quotas.memory_bytes: must be a number of bytes, a size such as "10GiB", or "off"',
        ),
    ],
)  # fmt: skip
def test_principals(values: dict[str, str], problem: str) -> None:
    """What is wrong with a principal is named."""
    assert not problems(principal())
    assert problems(principal(**values)) == [f"line 1: {problem}"]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"name": ""}, "issuers: has no name"),
        ({"issuer": ""}, "issuers.i: has no issuer"),
        ({"issuer": '""'}, "issuers.i.issuer: must be 1 to 256 printable characters"),
        ({"issuer": f'"{"x" * 257}"'}, "issuers.i.issuer: must be 1 to 256 printable characters"),
        ({"issuer": '"a\\n"'}, "issuers.i.issuer: must be 1 to 256 printable characters"),
        ({"audience": ""}, "issuers.i: has no audience"),
        ({"audience": "[]"}, "issuers.i: has no audience"),
        ({"audience": "[1]"}, "issuers.i.audience: must be a string, not an integer"),
        ({"audience": '["a", ""]'}, "issuers.i.audience: must be 1 to 256 printable characters"),
        ({"jwks": ""}, "issuers.i: has no jwks"),
        ({"algorithms": ""}, "issuers.i: has no algorithms"),
        ({"algorithms": "[]"}, "issuers.i: has no algorithms"),
        ({"algorithms": '"ES256"'}, "issuers.i.algorithms: must be an array of strings, not a string"),
        ({"algorithms": '["es256"]'}, 'issuers.i.algorithms: "es256" is unknown; allowed are '),
        ({"algorithms": '["HS256"]'}, 'issuers.i.algorithms: "HS256" is refused, as whoever can verify '),
        ({"algorithms": '["none"]'}, 'issuers.i.algorithms: "none" is refused, as anybody can make such '),
        ({"max_lifetime": "59"}, "issuers.i.max_lifetime: must be a whole number of seconds from 60 to 2592000"),
        ({"max_lifetime": "2592001"}, "issuers.i.max_lifetime: must be a whole number of seconds from 60 to 2592000"),
        ({"leeway": "-1"}, "issuers.i.leeway: must be a whole number of seconds from 0 to 300"),
        ({"leeway": "301"}, "issuers.i.leeway: must be a whole number of seconds from 0 to 300"),
        ({"leeway": "false"}, "issuers.i.leeway: must be a whole number of seconds from 0 to 300"),
    ],
)  # fmt: skip
def test_issuers(values: dict[str, str], problem: str) -> None:
    """What is wrong with an issuer is named."""
    (found,) = problems(issuer(**values))
    assert found.startswith(f"line 1: {problem}")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_algorithms(algorithm: str) -> None:
    """Every asymmetric algorithm of the list can be named."""
    assert parse_policy(issuer(algorithms=f'["{algorithm}"]')).issuers["i"].algorithms == (algorithm,)


def test_algorithms_can_be_verified() -> None:
    """The algorithms that the file may name are known to what verifies signatures."""
    assert set(ALGORITHMS) <= set(get_default_algorithms())


@pytest.mark.parametrize(
    ("place", "fine"),
    [
        ("https://id.example/jwks", True),
        ("https://id.example:8443/jwks?x=1", True),
        ("http://localhost:8080/jwks", True),
        ("http://127.0.0.1/jwks", True),
        ("http://127.9.9.9/jwks", True),
        ("http://[::1]:8080/jwks", True),
        ("/etc/jwks.json", True),
        ("/etc/schlüssel.json", True),
        ("http://id.example/jwks", False),
        ("http://localhost.example/jwks", False),
        ("http://127.0.0.1.example/", False),
        ("https://user:password@id.example/jwks", False),
        ("https://@id.example/jwks", False),
        ("https://id.example/jwks#x", False),
        ("https:///jwks", False),
        ("https://", False),
        ("https://[::1/jwks", False),
        ("https://id.example:99999/jwks", False),
        ("https://id.example/a b", False),
        ("https://id.exämple/jwks", False),
        ("ftp://id.example/jwks", False),
        ("file:///etc/jwks.json", False),
        ("jwks.json", False),
        ("", False),
        ("/etc/\\u0000", False),
    ],
)
def test_places_of_keys(place: str, fine: bool) -> None:
    """Keys come over https, from this machine, or from a file; nothing of a wrong place is shown."""
    found = problems(issuer(jwks=f'"{place}"'))
    assert not found if fine else len(found) == 1
    assert "password" not in str(found)


@pytest.mark.parametrize(
    ("name", "fine"),
    [
        ("CN=edge", True),
        ("C=DE,O=Acme,OU=Ops,CN=edge 1", True),
        ("CN=a+UID=7,O=x", True),
        ("O=Acme\\\\, Inc.", True),
        ("CN=a=b", True),
        ("CN=\\\\#1", True),
        ("CN=ends with a blank\\\\ ", True),
        ("CN=Jörg", True),
        ("DNS:edge.acme", True),
        ("IP:10.0.0.1", True),
        ("IP:::1", True),
        ("edge", False),
        ("", False),
        ("CN=", False),
        ("CN=a,", False),
        ("CN=a, O=b", False),
        ("CN=a;O=b", False),
        ("CN=#1", False),
        ("CN= a", False),
        ("CN=a ", False),
        ("CN=a\\\\", False),
        ("CN=a\\\\x", False),
        ("cn=a", False),
        ("X=a", False),
        ("commonName=a", False),
        ("CN=*.acme", False),
        ("CN=a\\n", False),
        ("DNS:*.acme", False),
        ("DNS:", False),
        ("dns:edge", False),
        ("IP:10.0.0.0/8", False),
        ("IP:edge", False),
    ],
)
def test_names_in_certificates(name: str, fine: bool) -> None:
    """A name has one spelling, and no wildcards."""
    assert len(problems(principal(mtls=f'"{name}"'))) == (not fine)


@pytest.mark.parametrize(
    ("inside", "problem"),
    [
        ('publish = "a"', "publish: must be an array of strings, not a string"),
        ("publish = [1]", "publish: must be a string, not an integer"),
        ('publish = [""]', 'publish: "": must not be empty'),
        ('publish = ["$JS.>"]', 'publish: "$JS.>": subjects whose first token begins with $, _INBOX, _R_ or _WS are reserved'),
        ('publish = ["a..b"]', 'publish: "a..b": must be tokens of A-Z a-z 0-9 _ - joined by single dots; a whole token may be *, and the last may be >'),
        ('streams.manage = ["A*B"]', 'streams.manage: "A*B": must be a name of A-Z a-z 0-9 _ -, the beginning of one and *, or * alone'),
        ('streams.manage = [""]', 'streams.manage: "": must be a name of A-Z a-z 0-9 _ -, the beginning of one and *, or * alone'),
        ('streams.manage = [">"]', 'streams.manage: ">": must be a name of A-Z a-z 0-9 _ -, the beginning of one and *, or * alone'),
        (f'streams.manage = ["{"x" * 256}"]', f'streams.manage: "{"x" * 80}…": must be at most 255 characters long'),
        ('consumers = ["a"]', f"consumers: must be a table with {_lists('consumers')}, not an array"),
        ("streams = 1", f"streams: must be a table with {_lists('streams')}, not an integer"),
        ('streams.consume = ["A"]', "streams.consume: allows nothing without streams.subjects; name them too"),
        ('streams.purge = ["A"]', "streams.purge: allows nothing without streams.subjects; name them too"),
        ('consumers.reject = ["A"]', "consumers.reject: allows nothing without streams.consume; name them too"),
        ('consumers.use = ["A"]', "consumers.use: allows nothing without streams.consume; name them too"),
        ('consumers.delete = ["A"]', "consumers.delete: allows nothing without streams.consume; name them too"),
        ('stores.read = ["A"]', "stores.read: allows nothing without stores.keys; name them too"),
        ('stores.write = ["A"]\nstores.keys = []', "stores.write: allows nothing without stores.keys; name them too"),
        ('dead_letters.read = ["A"]', "dead_letters.read: allows nothing without dead_letters.consumers; name them too"),
        ('dead_letters.purge = ["A"]', "dead_letters.purge: allows nothing without dead_letters.consumers; name them too"),
        ('deny.publish = ["a*"]', 'deny.publish: "a*": must be tokens of A-Z a-z 0-9 _ - joined by single dots; a whole token may be *, and the last may be >'),
        ("deny = 1", "deny: must be a table, not an integer"),
    ],
)  # fmt: skip
def test_roles(inside: str, problem: str) -> None:
    """What is wrong with a role is named."""
    assert problems(f"[role.r]\n{inside}\n") == [f"line 2: role.r.{problem}"]


def test_deny_lists_stand_for_themselves() -> None:
    """What allows nothing alone denies alone."""
    assert not problems('[role.r.deny]\nstreams.consume = ["A"]\nconsumers.use = ["A"]\nstores.read = ["A"]')


def test_twice() -> None:
    """Names, tokens, subjects and names in certificates belong to one principal, and issuers are different."""
    text = f"""\
issuers = [
  {{ name = "i", issuer = "x", audience = "y", jwks = "/k", algorithms = ["ES256"] }},
  {{ name = "i", issuer = "x", audience = "z", jwks = "/l", algorithms = ["ES384"] }},
]
principals = [
  {{ name = "a", token_sha256 = "{A}", jwt = {{ issuer = "i", sub = "s" }}, mtls = "IP:::1", roles = ["r"] }},
  {{ name = "a", token_sha256 = "{B}", roles = ["r"] }},
  {{ name = "b", token_sha256 = ["{A}"], jwt = [{{ issuer = "i", sub = "s" }}], roles = ["r"] }},
  {{ name = "c", mtls = ["IP:0:0:0:0:0:0:0:1"], roles = ["r", "r"] }},
]
role.r = {{}}
"""
    assert problems(text) == [
        'line 3: issuers.name: "i" is there already (line 2)',
        'line 3: issuers.i.issuer: "x" is there already (line 2)',
        'line 7: principals.name: "a" is there already (line 6)',
        "line 8: principals.b.token_sha256: the same token is there already (line 6)",
        "line 8: principals.b.jwt.sub: this subject is there already (line 6)",
        "line 9: principals.c.mtls: this name is there already (line 6)",
    ]


@pytest.mark.parametrize(
    "key", ["token_sha256", "name", "roles", "mtls", "jwt", "expires", "max_rps", "nonsense", "issuer"]
)
@pytest.mark.parametrize("secret", [TOKEN, A_JWT, "ab" * 32])
def test_secrets_in_wrong_places_are_not_shown(key: str, secret: str) -> None:
    """A token, or the hash of one, is shown in no problem, wherever it stands."""
    texts = [
        principal(**{key: f'"{secret}"'}),
        principal(**{key: f'["{secret}"]'}),
        principal(token_sha256=f'{{ sha256 = "{secret}", {key} = "{secret}" }}'),
        issuer(**{key: f'"{secret}"'}),
        f'"{secret}" = 1',
        f'[role."{secret}"]\nx = 1',
        f'role."{secret}" = 1\nrole.r.publish = ["{secret}!"]\nrole.r.streams.manage = ["{secret}!"]',
        f'a."{secret}" = 1\na."{secret}" = 1',
        f'[a."{secret}"]\n[a."{secret}"]',
    ]
    for text in texts:
        assert secret not in str(problems(text))
        assert secret.upper() not in str(problems(text)).upper()


@pytest.mark.parametrize("wrong", [TOKEN, f"Bearer {TOKEN}", "ws_short", A_JWT])
def test_a_token_in_place_of_its_hash(wrong: str) -> None:
    """Who writes the token itself is told what to do."""
    for value in (f'"{wrong}"', f'["{wrong}"]', f'{{ sha256 = "{wrong}" }}'):
        label = "token_sha256.sha256" if "{" in value else "token_sha256"
        assert problems(principal(token_sha256=value)) == [
            (
                f"line 1: principals.p.{label}: write its SHA-256, not the token itself; and make a new one, "
                "as others may have read this"
            )
        ]


@pytest.mark.parametrize("wrong", ["", A[1:], A + "0", "g" * 64, "\u0660" * 64, f" {A}", f"{A}\\n"])
def test_a_hash_is_64_digits(wrong: str) -> None:
    """A hash that is none is not shown."""
    assert problems(principal(token_sha256=f'"{wrong}"')) == [
        (
            "line 1: principals.p.token_sha256: must be 64 hexadecimal digits, the SHA-256 of a token; "
            "windshift auth token makes both"
        )
    ]


def test_all_problems_at_once() -> None:
    """Problems of all parts come together, in the order of their lines."""
    text = principal(roles='["x"]', max_rps="0") + '[role.s]\npublish = ["a b", "ok", ""]\n[[issuers]]\n'
    found = problems(text)
    lines = [int(each.split()[1].rstrip(":")) for each in found]
    assert lines == sorted(lines)
    assert len(found) == 2 + 2 + 5
    assert set(lines) == {1, 4, 5}


def test_the_error_is_a_text() -> None:
    """The error itself says what its problems say."""
    with pytest.raises(PolicyError) as caught:
        parse_policy("a = 1\nb = 2")
    assert str(caught.value) == "\n".join(caught.value.problems)


def test_values_are_not_in_the_representation() -> None:
    """What is shown of a policy has no hash of a token."""
    assert A not in repr(parse_policy(WHOLE))
    assert repr(bytes.fromhex(A)) not in repr(parse_policy(WHOLE))


def test_reading(tmp_path: Path) -> None:
    """A file is read by its path; one that anybody may change is not trusted."""
    file = tmp_path / "auth.toml"
    file.touch(0o600)
    file.write_text(WHOLE)
    assert set(read_policy(file).roles) == {"order-writer", "nothing"}
    file.write_bytes(WHOLE.encode() + b"\n# \xff")
    with pytest.raises(
        PolicyError, match=f"^line {WHOLE.count(chr(10)) + 2}: not UTF-8; save the file as such$"
    ):
        read_policy(file)
    file.write_bytes(b"\xef\xbb\xbf" + WHOLE.replace("\n", "\r\n").encode())
    assert set(read_policy(file).roles) == {"order-writer", "nothing"}  # as Windows' editors write it
    file.write_bytes(b"#" * (LARGEST + 1))
    with pytest.raises(PolicyError, match="larger than"):
        read_policy(file)
    with pytest.raises(FileNotFoundError):
        read_policy(tmp_path / "other")


@pytest.mark.parametrize(
    ("mode", "who"), [(0o602, "anybody on this machine"), (0o620, "a group"), (0o666, "anybody")]
)
def test_files_that_others_write_to_are_refused(tmp_path: Path, mode: int, who: str) -> None:
    """Whoever may write to the file makes the rules: a group does not, and neither does anybody else."""
    file = tmp_path / "auth.toml"
    file.write_text(WHOLE)
    file.chmod(mode)
    with pytest.raises(PolicyError, match=f"^line 1: {who}.* may write to the file; chmod go-w {file}$"):
        read_policy(file)
    file.chmod(0o644)
    assert read_policy(file).roles


def test_files_that_anybody_may_replace_are_refused(tmp_path: Path) -> None:
    """In a directory that everybody may write to, a file is anybody's, unless the sticky bit protects it."""
    shared, own = tmp_path / "shared", tmp_path / "own"
    for directory in (shared, own):
        directory.mkdir()
        (directory / "auth.toml").write_text(WHOLE)
        (directory / "auth.toml").chmod(0o600)
    (own / "link.toml").symlink_to(shared / "auth.toml")
    shared.chmod(0o777)
    for file in (shared / "auth.toml", own / "link.toml"):
        with pytest.raises(
            PolicyError, match=f"anybody .* may replace the file; chmod o-w {shared}, or keep"
        ):
            read_policy(file)
    assert read_policy(own / "auth.toml").roles
    for mode in (0o1777, 0o775):
        shared.chmod(mode)
        assert read_policy(shared / "auth.toml").roles


def test_volumes_of_kubernetes_are_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ConfigMap or Secret is a directory of mode 0777, mounted read-only, with links to what is in force."""
    version = tmp_path / "..2026_11_28_00_00_00.1"
    version.mkdir(mode=0o755)
    (version / "auth.toml").write_text(WHOLE)
    (version / "auth.toml").chmod(0o644)
    (tmp_path / "..data").symlink_to(version.name)
    (tmp_path / "auth.toml").symlink_to("..data/auth.toml")
    tmp_path.chmod(0o777)
    with pytest.raises(PolicyError, match="anybody"):
        read_policy(tmp_path / "auth.toml")
    mounted = os.statvfs(tmp_path)
    fields = [*mounted]
    fields[8] |= os.ST_RDONLY
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))
    assert read_policy(tmp_path / "auth.toml").roles


@given(st.data())
@settings(max_examples=50)
def test_any_damage_is_a_problem_or_none(data: st.DataObject) -> None:
    """However a file is damaged, it is read or its problems are told, each with a line that is there."""
    text = data.draw(st.sampled_from([WHOLE, LONG_FORM]))
    for _ in range(data.draw(st.integers(min_value=1, max_value=3))):
        at = data.draw(st.integers(min_value=0, max_value=len(text)))
        gone = data.draw(st.integers(min_value=0, max_value=12))
        put = data.draw(st.text(alphabet="[]{}=\"'\\\n,.#ab1 *>\u2028", max_size=4))
        text = text[:at] + put + text[at + gone :]
    for problem in problems(text):
        line = int(problem.split()[1].rstrip(":"))
        assert 1 <= line <= text.count("\n") + 1
        assert len(problem.splitlines()) == 1


VALUES = st.recursive(
    st.sampled_from(["1", "true", '"x"', "1.5", "2027-01-01T00:00:00Z", "2027-01-01", "00:00:00", "nan"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2).map(lambda each: f"[{', '.join(each)}]"),
        st.lists(
            st.tuples(st.sampled_from(["name", "x", "use", "publish", "sub"]), inner),
            max_size=2,
            unique_by=lambda pair: pair[0],
        ).map(lambda pairs: "{" + ", ".join(f"{key} = {value}" for key, value in pairs) + "}"),
    ),
    max_leaves=5,
)


@given(st.integers(), VALUES)
@settings(max_examples=50)
def test_any_type_anywhere(seed: int, value: str) -> None:
    """A value of any type in place of any other is read or is a problem, never a failure."""
    text = LONG_FORM
    lines = [index for index, line in enumerate(text.splitlines()) if " = " in line]
    index = random.Random(seed).choice(lines)
    changed = text.splitlines()
    changed[index] = f"{changed[index].partition(' = ')[0]} = {value}"
    tomllib.loads("\n".join(changed))
    problems("\n".join(changed))
