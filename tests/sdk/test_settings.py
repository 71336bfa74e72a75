"""Settings, credentials and namespaces, without a server."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import windshift as ws
from windshift.sdk.contexts import read_context
from windshift.sdk.credentials import Credentials, TokenSource
from windshift.sdk.names import Names
from windshift.sdk.settings import Settings, read_settings


def read(
    environment: dict[str, str],
    address: str | None = None,
    token: TokenSource | None = None,
    tls: ws.Tls | bool | None = None,
) -> Settings:
    """Read settings from an environment, and from some arguments."""
    return read_settings(
        address,
        tls=tls,
        token=token,
        timeout=10,
        namespace=None,
        plaintext_token=False,
        environment=environment,
    )


def test_nothing_given_means_this_machine() -> None:
    """Without arguments and variables a client connects to the server's default address in plain text."""
    settings = read({})
    assert settings.targets == ("127.0.0.1:8080",)
    assert settings.tls is None
    assert not settings.credentials.has_token


def test_arguments_win_over_the_environment() -> None:
    """Variables fill in what is not an argument."""
    environment = {"WINDSHIFT_ADDRESS": "a.example:1", "WINDSHIFT_NAMESPACE": "dev", "WINDSHIFT_TOKEN": "t"}
    settings = read(environment, "localhost:2,[::1]:3")
    assert settings.targets == ("localhost:2", "[::1]:3")
    assert settings.names == Names("dev")
    assert settings.credentials.has_token


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    """The error names everything that is wrong, before any I/O."""
    environment = {
        "WINDSHIFT_NAMESPACE": "a.b",
        "WINDSHIFT_TOKEN": "a",
        "WINDSHIFT_TOKEN_FILE": "b",
        "WINDSHIFT_TLS_CA": str(tmp_path / "none.pem"),
    }
    with pytest.raises(ws.SettingsError) as caught:
        read(environment, "example, ::1:80, http://a:1")
    for part in ("'example'", "without http://", "brackets", "'a.b'", "not both", "none.pem"):
        assert part in caught.value.message


def test_an_address_is_a_text() -> None:
    """A port alone is none."""
    port: Any = 8080
    with pytest.raises(ws.SettingsError, match=r"the address is a text, such as '127.0.0.1:8080', not 8080"):
        ws.connect(port)


def test_a_token_goes_in_plain_text_to_this_machine_only() -> None:
    """A token beyond loopback needs TLS or an explicit wish."""
    with pytest.raises(ws.SettingsError, match=r"a\.example:1 in plain text"):
        read({"WINDSHIFT_TOKEN": "secret"}, "a.example:1")
    assert read({}, "a.example:1", "secret", tls=True).tls is not None
    assert read({}, "localhost:1", "secret").tls is None


async def test_a_token_file_is_read_again_when_it_is_refused(tmp_path: Path) -> None:
    """After the server refused a token its file is read again."""
    file = tmp_path / "token"
    file.write_text("one\n")
    credentials = Credentials(file)
    assert await credentials.pairs() == (("authorization", "Bearer one"),)
    file.write_text("two\n")
    os.utime(file, ns=(1, 1))
    credentials.refused((("authorization", "Bearer one"),))
    assert await credentials.pairs() == (("authorization", "Bearer two"),)


async def test_a_missing_token_file_is_a_settings_error(tmp_path: Path) -> None:
    """The error names the file and not what the system said."""
    with pytest.raises(ws.SettingsError, match="cannot be read"):
        await Credentials(tmp_path / "none").pairs()


async def test_calls_share_one_fetch_of_a_token() -> None:
    """Many calls at once fetch one token; a later one uses it until it is refused."""
    fetched = 0

    async def fetch() -> ws.Token:
        nonlocal fetched
        fetched += 1
        await asyncio.sleep(0)
        return ws.Token(f"token{fetched}", datetime.now(UTC) + timedelta(hours=1))

    credentials = Credentials(fetch)
    pairs = await asyncio.gather(*(credentials.pairs() for _ in range(20)))
    assert set(pairs) == {(("authorization", "Bearer token1"),)}
    credentials.refused(pairs[0])
    credentials.refused(pairs[0])
    assert await credentials.pairs() == (("authorization", "Bearer token2"),)
    credentials.refused(pairs[0])  # of an earlier token: a late answer
    assert await credentials.pairs() == (("authorization", "Bearer token2"),)


async def test_a_fetch_that_fails_is_raised_and_tried_again() -> None:
    """The function's own error is the cause, and the next call fetches anew."""
    results: list[Exception | str] = [OSError("away"), "good"]

    async def fetch() -> ws.Token:
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return ws.Token(result)

    credentials = Credentials(fetch)
    with pytest.raises(ws.TokenUnavailable, match="OSError") as caught:
        await credentials.pairs()
    assert str(caught.value.__cause__) == "away"
    assert await credentials.pairs() == (("authorization", "Bearer good"),)


def test_a_token_is_not_in_its_text_form() -> None:
    """Printing a token shows no secret."""
    assert "secret" not in repr(ws.Token("secret"))


def test_namespaces_come_and_go() -> None:
    """Names and subjects get a prefix on their way out and lose it on their way in."""
    names = Names("dev")
    assert (names.name("orders"), names.subject("orders.>")) == ("dev-orders", "dev.orders.>")
    assert (names.bare_name("dev-orders"), names.bare_subject("dev.orders.x")) == ("orders", "orders.x")
    assert names.owns("dev-orders")
    assert not names.owns("orders")
    assert (Names().name("a"), Names().subject("b"), names.name("")) == ("a", "b", "")
    assert names.subjects(["a.>", "b"]) == ["dev.a.>", "dev.b"]
    with pytest.raises(TypeError, match=r"are a list: \['orders.>'\]"):
        names.subjects("orders.>")


def test_warnings_are_seen_without_a_set_up_of_logging() -> None:
    """A handler that fails is no secret in a program that has not heard of `logging`."""
    program = (
        "import logging, windshift as ws; ws.connect; logging.getLogger('windshift.sdk').warning('failed')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stderr == b"failed\n"


CONTEXTS = """
selected = "dev"

[contexts.dev]
address = "localhost:1"
token_env = "DEV_TOKEN"

[contexts.prod]
address = "a.example:1,b.example:2"
namespace = "shop"
tls = true

[contexts.prod.oidc]
issuer = "https://id.example"
client_id = "ci"
client_secret_file = "secret"

[contexts.files]
token_file = "me.token"
tls = { ca = "none.pem" }

[contexts.wrong]
adress = "x"
token_env = "NONE"
token_command = "'"
tls = 3
namespace = ""
oidc = { issuer = "http://id.example", client_id = "x", client_secret_env = "DEV_TOKEN", typo = 1 }
"""


@pytest.fixture
def contexts(tmp_path: Path) -> dict[str, str]:
    """Return an environment with a contexts file."""
    folder = tmp_path / "windshift"
    folder.mkdir()
    (folder / "contexts.toml").write_text(CONTEXTS)
    return {"XDG_CONFIG_HOME": str(tmp_path), "DEV_TOKEN": "t"}


async def test_a_context_says_what_nothing_else_says(contexts: dict[str, str]) -> None:
    """The selected one is used if nobody says where to; a named one always, below arguments and variables."""
    selected = read(contexts)
    assert selected.targets == ("localhost:1",)
    assert await selected.credentials.pairs() == (("authorization", "Bearer t"),)
    named = read({**contexts, "WINDSHIFT_CONTEXT": "prod"})
    assert named.targets == ("a.example:1", "b.example:2")
    assert (named.names, named.tls is not None, named.credentials.renewable) == (Names("shop"), True, True)
    mixed = read({**contexts, "WINDSHIFT_CONTEXT": "prod", "WINDSHIFT_NAMESPACE": "dev"}, "c.example:3")
    assert (mixed.targets, mixed.names, mixed.tls is not None) == (("c.example:3",), Names("dev"), True)


def test_the_token_of_the_selected_context_goes_nowhere_else(contexts: dict[str, str]) -> None:
    """Who names another server has not meant the selected context."""
    for settings in (read(contexts, "c.example:3"), read({**contexts, "WINDSHIFT_ADDRESS": "c.example:3"})):
        assert not settings.credentials.has_token


def test_a_context_that_is_wrong(contexts: dict[str, str], tmp_path: Path) -> None:
    """All that is wrong with it is told at once, with its place."""
    with pytest.raises(ws.SettingsError) as caught:
        read({**contexts, "WINDSHIFT_CONTEXT": "wrong"})
    for part in (
        "'adress'",
        "names NONE, which is not set",
        "token_command is not a command",
        "token_env and token_command and oidc",
        "tls is not a table",
        "namespace is not a text",
        "'typo'",
        "oidc of context 'wrong'",
        "use https",
        str(tmp_path),
    ):
        assert part in caught.value.message
    with pytest.raises(ws.SettingsError, match="no context 'x'"):
        read({**contexts, "WINDSHIFT_CONTEXT": "x"})
    with pytest.raises(ws.SettingsError, match=re.escape(str(tmp_path / "windshift" / "none.pem"))):
        read({**contexts, "WINDSHIFT_CONTEXT": "files"})
    (tmp_path / "windshift" / "contexts.toml").write_text("[")
    with pytest.raises(ws.SettingsError, match="cannot be read"):
        read(contexts)
    assert read({"XDG_CONFIG_HOME": str(tmp_path / "none")}).targets == ("127.0.0.1:8080",)


def test_the_documented_contexts_can_be_read(tmp_path: Path) -> None:
    """The file in docs/sdk.md is right."""
    document = (Path(__file__).resolve().parents[2] / "docs" / "sdk.md").read_text()
    (file := tmp_path / "contexts.toml").write_text(document.partition("```toml\n")[2].partition("```")[0])
    problems: list[str] = []
    tokens = [
        read_context(name, file, {"CI_SECRET": "x"}, problems).token for name in (None, "dev", "prod", "ci")
    ]
    assert problems == []
    assert tokens[:3] == [None, None, tmp_path / "prod.token"]
    assert isinstance(tokens[3], ws.ClientCredentials)
