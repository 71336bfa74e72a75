"""Files that variables name: why one cannot be used is said in one line, whatever it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from windshift.server.config.read import config_from_environment
from windshift.server.config.settings import ConfigurationError


def problem(**environment: str) -> str:
    """Return the one thing that is wrong with an environment."""
    with pytest.raises(ConfigurationError) as caught:
        config_from_environment(environment)
    (line,) = caught.value.problems
    return line


def test_why_a_file_cannot_be_read(tmp_path: Path) -> None:
    """It is not there, is something else, or the system refuses to look."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "file").touch()
    for path, why in (
        (tmp_path / "absent", "No such file or directory"),
        (tmp_path / "file" / "x", "Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
        (tmp_path, "not a regular file"),
        (pipe, "not a regular file"),
    ):
        told = problem(WINDSHIFT_AUTH_FILE=str(path))
        file = f"cannot read the file '{path}' ({why})"
        assert told == f"WINDSHIFT_AUTH_FILE: {file}; name one that exists and may be read"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_this_user_may_not_read(tmp_path: Path) -> None:
    """The file itself, or a directory on the way to it, is closed."""
    file = tmp_path / "closed" / "auth.toml"
    file.parent.mkdir()
    file.touch()
    for closed in (file, file.parent):
        closed.chmod(0)
        assert "(Permission denied)" in problem(WINDSHIFT_AUTH_FILE=str(file))
        closed.chmod(0o700)


def test_why_a_program_cannot_be_run(tmp_path: Path) -> None:
    """The same, and that it may not be executed."""
    program = tmp_path / "nats-server"
    program.touch(mode=0o600)
    assert "(Permission denied)" in problem(WINDSHIFT_NATS_SERVER=str(program))
    assert "(No such file or directory)" in problem(WINDSHIFT_NATS_SERVER=str(tmp_path / "absent"))


@pytest.mark.parametrize(
    "name", ["GRPC_TLS_KEY", "NATS_CREDS", "NATS_NKEY", "WINDSHIFT_AUTH_FILE", "WINDSHIFT_DATA_DIR"]
)
@pytest.mark.parametrize(
    "value",
    [
        "-----BEGIN PRIVATE KEY-----\ns3cret\n-----END PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY----- s3cret",
        "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0tCs3cret",
        f"s3cret{'x' * 5000}",
        "ws_billing_s3cret7890123456789012345678901234567890123",
        "eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.s3cret.s3cret",
        'name = "s3cret"\r\nroles = []',
        *(f"S{kind}{'S3CRET':A<56}" for kind in "UAOX"),
    ],
)
def test_what_should_be_in_a_file_is_not_repeated(name: str, value: str) -> None:
    """Keys and tokens end up in variables that are for paths; they must not end up in a log then."""
    with pytest.raises(ConfigurationError) as caught:
        config_from_environment({name: value})
    told = f"{name}: needs a path, and has what looks like the content of the file; write that into one"
    assert told in caught.value.problems
    assert "s3cret" not in str(caught.value).lower()
