"""`windshift auth`, run as people run it."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from tests.support.command_line import Ended, heavy_modules_after, windshift_command
from windshift.server.auth.permissions import NEEDS

TOKEN = "ws_billing_" + "Aa-_1" * 8 + "xyz"
OLD = "ws_billing_" + "Bb-_2" * 8 + "xyz"
FILE = f"""\
[[principals]]
name = "billing"
roles = ["writer"]
token_sha256 = ["{sha256(TOKEN.encode()).hexdigest()}",
  {{ sha256 = "{sha256(OLD.encode()).hexdigest()}", expires = 2020-01-01T00:00:00Z }}]
mtls = "CN=billing"
max_streams = 3
max_rps = 0.5
[[principals]]
name = "ci"
jwt = {{ issuer = "corp", sub = "repo:acme/app" }}
roles = ["writer"]
quotas = {{ stores = 7, consumers = "off" }}
[[issuers]]
name = "corp"
issuer = "https://id.example"
audience = "windshift"
algorithms = ["ES256"]
jwks = "JWKS"
[role.writer]
publish = ["orders.>"]
streams = {{ consume = ["ORDERS"], subjects = ["orders.>"] }}
consumers.use = ["billing-*"]
dead_letters = {{ read = ["*"], consumers = ["*"] }}
deny.publish = ["orders.internal.>"]
[role.spare]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return an authorization file."""
    path = tmp_path / "auth.toml"
    path.touch(0o600)
    path.write_text(FILE.replace("JWKS", str(tmp_path / "jwks.json")))
    return path


def auth(*arguments: str | Path, text: str = "", **environment: str) -> Ended:
    """Run `windshift auth`."""
    return windshift_command("auth", *arguments, text=text, **environment)


def rows(output: str) -> dict[str, str]:
    """Return a table of two columns."""
    return dict(line.split(maxsplit=1) for line in output.splitlines() if line)


def test_a_token_fits_what_is_said_of_it(tmp_path: Path) -> None:
    """The token alone is on stdout; the lines on stderr, with a role in them, are what a file takes."""
    made = auth("token", "new-one")
    assert made.returncode == 0
    assert re.fullmatch(r"ws_new-one_[A-Za-z0-9_-]{43}\n", made.stdout)
    assert "shown only now" in made.stderr
    assert made.stdout.strip() not in made.stderr
    _, lines, _ = made.stderr.strip().split("\n\n")
    file = tmp_path / "auth.toml"
    file.touch(0o600)
    file.write_text(f"[role.r]\n{lines.replace('…', 'r')}")
    found = auth("check", "--file", file, "--token-stdin", text=made.stdout)
    assert found.returncode == 0
    assert rows(found.stdout)["principal"] == "new-one"


@pytest.mark.parametrize(
    ("when", "written"),
    [
        ("2999-01-01", "2999-01-01T00:00:00Z"),
        ("2999-01-01T00:00:00+02:00", "2998-12-31T22:00:00Z"),
        ("2999-01-01T00:00:00.9Z", "2999-01-01T00:00:00Z"),
        ("90d", None),
        ("1h", None),
        ("2w", None),
    ],
)
def test_a_token_may_expire(when: str, written: str | None) -> None:
    """An end is given as a time from now, a date or a moment, and is written in UTC."""
    made = auth("token", "billing", "--expires", when)
    found = re.search(r"expires = (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) }", made.stderr)
    assert found is not None
    assert written is None or found[1] == written


@pytest.mark.parametrize(
    "when", ["", "2020-01-01", "90", "0d", "2999-01-01T00:00:00", "999999w", "soon", "-1d"]
)
def test_an_end_that_is_none(when: str) -> None:
    """What is past, has no offset, or is no time is wrong usage, and nothing is made."""
    made = auth("token", "billing", f"--expires={when}")
    assert (made.returncode, made.stdout) == (2, "")
    assert "--expires" in made.stderr


@pytest.mark.parametrize("name", ["", "a b", "ü", "x" * 65])
def test_a_name_that_is_none(name: str) -> None:
    """A name that the file would refuse gets no token."""
    made = auth("token", name)
    assert (made.returncode, made.stdout) == (2, "")


def test_what_is_in_the_file(file: Path) -> None:
    """Without more, all that the file says is shown, and nothing secret of it."""
    told = auth("check", WINDSHIFT_AUTH_FILE=str(file))
    assert (told.returncode, told.stderr) == (0, "")
    assert (
        told.stdout
        == f"""\
principal    billing
token        {sha256(TOKEN.encode()).hexdigest()[:8]}
token        {sha256(OLD.encode()).hexdigest()[:8]} expired 2020-01-01T00:00:00Z
mtls         CN=billing
roles        writer
max_streams  3
max_rps      0.5

principal         ci
jwt               repo:acme/app of corp
roles             writer
quotas.stores     7
quotas.consumers  off

issuer        corp
iss           https://id.example
audience      windshift
jwks          {file.parent}/jwks.json
algorithms    ES256
max_lifetime  86400
leeway        30

role                    writer
publish                 orders.>
streams.consume         ORDERS
streams.subjects        orders.>
consumers.use           billing-*
dead_letters.read       *
dead_letters.consumers  *
deny.publish            orders.internal.>

role  spare (nobody has it)

principals: 2, issuers: 1, roles: 2; no problems
"""
    )


def test_what_one_principal_has(file: Path) -> None:
    """With a principal alone, only that one and its roles are shown."""
    told = auth("check", "--file", file, "--as", "ci")
    assert told.returncode == 0
    assert "repo:acme/app" in told.stdout
    assert "orders.internal.>" in told.stdout
    assert "billing\n" not in told.stdout
    assert "spare" not in told.stdout
    quotas = [line.split(maxsplit=1) for line in told.stdout.splitlines() if line.startswith("quotas.")]
    assert ["quotas.streams", "1000 (default)"] in quotas
    connections = "2500 (default; a quarter of GRPC_MAX_CONNECTIONS if that is set)"
    assert ["quotas.connections", connections] in quotas
    assert ["quotas.stores", "7"] in quotas
    assert ["quotas.consumers", "off"] in quotas


def test_keys_that_others_may_write(file: Path) -> None:
    """A server would refuse them, so they are a problem of the file that names them."""
    keys = file.with_name("jwks.json")
    keys.write_text("{}")
    keys.chmod(0o664)
    told = auth("check", "--file", file)
    assert (told.returncode, told.stdout) == (2, "")
    problem = f"a group may write to the file; chmod go-w {keys}"
    assert told.stderr == f"windshift: the keys of the issuer 'corp': {problem}\n"
    keys.chmod(0o644)
    assert auth("check", "--file", file).returncode == 0


def test_problems_have_their_places(file: Path) -> None:
    """Every problem is on stderr as FILE:LINE: and the text; the status is 2."""
    file.write_text(
        file.read_text().replace('["writer"]', '["writter"]', 1).replace("consumers.use", "consumers.used")
    )
    told = auth("check", "--file", file, "--as", "billing", "publish", "orders.new")
    assert (told.returncode, told.stdout) == (2, "")
    lines = [re.match(r"(.*):(\d+): \S", line) for line in told.stderr.splitlines()]
    assert [(line[1], int(line[2])) for line in lines if line] == [(str(file), 3), (str(file), 23)]


@pytest.mark.parametrize(
    ("question", "status", "rule"),
    [
        (["publish", "orders.new"], 0, 'role writer, publish "orders.>" (line 21)'),
        (["publish", "orders.internal.x"], 1, 'role writer, deny.publish "orders.internal.>" (line 25)'),
        (["publish", "orders.>"], 1, 'role writer, deny.publish "orders.internal.>" (line 25)'),
        (["publish", "other"], 1, "no role of billing allows it"),
        (
            ["consume", "ORDERS", "orders.eu", "-"],
            0,
            'role writer, streams.consume "ORDERS" (line 22), streams.subjects "orders.>" (line 22)',
        ),
        (
            ["consume", "ORDERS", "orders.eu", "0123456789abcdef01234567"],
            1,
            (
                "no role of billing allows it; role writer comes nearest: it allows streams.consume "
                '"ORDERS" (line 22), streams.subjects "orders.>" (line 22), but not all of consumers.use'
            ),
        ),
        (
            ["use-consumer", "ORDERS", "billing-1"],
            0,
            'role writer, streams.consume "ORDERS" (line 22), consumers.use "billing-*" (line 23)',
        ),
        (
            ["read-dead-letters", "*", "*"],
            0,
            'role writer, dead_letters.read "*" (line 24), dead_letters.consumers "*" (line 24)',
        ),
        (["write-key", "cfg", "a.b"], 1, "no role of billing allows it"),
    ],
)
def test_a_decision_is_explained(file: Path, question: list[str], status: int, rule: str) -> None:
    """Who, verb, resource, decision and rule; the status is that of the decision."""
    told = auth("check", "--file", file, "--as", "billing", *question)
    said = rows(told.stdout)
    assert (told.returncode, told.stderr) == (status, "")
    assert list(said) == ["principal", "verb", "resource", "decision", "rule"]
    assert (said["principal"], said["verb"]) == ("billing", question[0])
    assert said["decision"] == ("denied" if status else "allowed")
    assert said["rule"] == rule


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--as", "nobody"], "no principal 'nobody'; there are billing, ci"),
        (["--as", "billing", "--token-stdin"], "exclude each other"),
        (["publish", "a"], "say who asks"),
        (["--as", "billing", "publsih", "a"], "no verb 'publsih'"),
        (["--as", "billing", "publish"], "write publish SUBJECT"),
        (["--as", "billing", "consume", "ORDERS", "a"], "write consume STREAM SUBJECT CONSUMER"),
        (["--as", "billing", "publish", "a..b"], "subject 'a..b': must be"),
        (["--as", "billing", "publish", "$JS.API.INFO"], "reserved"),
        (["--as", "billing", "manage-stream", "a*"], "stream 'a*': may contain"),
        (["--file", "/nowhere/auth.toml"], "/nowhere/auth.toml: No such file or directory"),
    ],
)
def test_wrong_usage(file: Path, arguments: list[str], text: str) -> None:
    """What cannot be asked is status 2, with what to do instead."""
    told = auth("check", *arguments, WINDSHIFT_AUTH_FILE=str(file))
    assert (told.returncode, told.stdout) == (2, "")
    assert text in told.stderr


def test_no_file() -> None:
    """Without a file there is nothing to check; an empty name is a mistake, as it is for the server."""
    told = auth("check")
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == "windshift: name a file with --file, or set WINDSHIFT_AUTH_FILE\n"
    told = auth("check", WINDSHIFT_AUTH_FILE="")
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith("windshift: WINDSHIFT_AUTH_FILE: it is set, and empty")


def test_whose_a_token_is(file: Path) -> None:
    """A token from stdin is told its principal, and can ask."""
    told = auth("check", "--file", file, "--token-stdin", text=f"{TOKEN}\n")
    assert told.returncode == 0
    assert rows(told.stdout)["principal"] == "billing"
    assert rows(told.stdout)["credential"] == f"token {sha256(TOKEN.encode()).hexdigest()[:8]}"
    told = auth("check", "--file", file, "--token-stdin", "publish", "other", text=TOKEN)
    assert told.returncode == 1
    assert rows(told.stdout)["decision"] == "denied"


@pytest.mark.parametrize(
    "token", [OLD, TOKEN[:-1] + "0", TOKEN.replace("billing", "other"), "", "x", TOKEN * 1000]
)
def test_a_token_of_nobody(file: Path, token: str) -> None:
    """A token that is not valid is status 1 with the reason, and is not repeated."""
    told = auth("check", "--file", file, "--token-stdin", text=token)
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.startswith("windshift: not valid: ")
    assert len(token) < 2 or token not in told.stderr


def test_whose_a_json_web_token_is(file: Path) -> None:
    """A JWT is verified with its issuer's keys, as a server does it."""
    key = generate_private_key(SECP256R1())
    numbers = key.public_key().public_numbers()
    point = {
        name: base64.urlsafe_b64encode(value.to_bytes(32, "big")).decode().rstrip("=")
        for name, value in (("x", numbers.x), ("y", numbers.y))
    }
    keys = {"keys": [{"kty": "EC", "crv": "P-256", "kid": "k", "alg": "ES256", "use": "sig", **point}]}
    (file.parent / "jwks.json").write_text(json.dumps(keys))
    now = int(time.time())
    claims = {
        "iss": "https://id.example", "aud": "windshift", "sub": "repo:acme/app", "iat": now, "exp": now + 600,
    }  # fmt: skip
    token = jwt.encode(claims, key, "ES256", headers={"kid": "k"})
    told = auth("check", "--file", file, "--token-stdin", "publish", "orders.new", text=token)
    assert (told.returncode, told.stderr) == (0, "")
    assert rows(told.stdout)["principal"] == "ci"
    forged = jwt.encode(claims, generate_private_key(SECP256R1()), "ES256", headers={"kid": "k"})
    told = auth("check", "--file", file, "--token-stdin", text=forged)
    assert (told.returncode, told.stdout) == (1, "")
    assert "signature" in told.stderr


def test_help_has_every_verb() -> None:
    """The help of `check` lists every verb with what it wants."""
    text = auth("check", "--help").stdout
    for action, needs in NEEDS.items():
        wants = " ".join(needs).upper()
        assert re.search(rf"^    {action.verb} {wants}( |$)", text, re.MULTILINE)


def test_little_is_imported() -> None:
    """Nothing is imported that only a server needs."""
    commands = ("--help", "token --help", "check --help", "token a", "check --file /nowhere")
    codes, heavy = heavy_modules_after(*(f"auth {command}" for command in commands))
    assert codes == [0, 0, 0, 0, 2]
    assert heavy == "[]"


def test_without_the_server_extra(file: Path) -> None:
    """Where only the client is installed, files are checked; asking for a token says what to install."""
    code = "import sys; sys.modules['jwt'] = None; from windshift.cli import main; main()"

    def check(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, "auth", "check", "--file", file, *arguments],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    assert check().returncode == 0
    told = check("--token-stdin", text=TOKEN)
    assert told.returncode == 2
    assert told.stderr == (
        "windshift: the server is not installed (jwt is missing): pip install 'windshift[server]'\n"
    )
