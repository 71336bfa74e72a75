"""The command line, as far as it needs no server. The rest is in tests/e2e."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.command_line import heavy_modules_after
from windshift.cli import main
from windshift.server.config.read import health_address
from windshift.server.config.tree import SETTINGS, ListenConfig


def run(*arguments: str, code: str = "pass", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, after some code."""
    program = f"import sys; {code}; from windshift.cli import main; main(prog_name='windshift')"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=30,
    )


def test_version() -> None:
    """`windshift --version` tells the installed version."""
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0
    assert result.output == f"windshift {importlib.metadata.version('windshift')}\n"


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_lists_commands(option: str) -> None:
    """The help names every command with a line of its own."""
    result = CliRunner().invoke(main, [option])
    assert result.exit_code == 0
    assert re.search(r"^  serve +Run a server\.$", result.output, re.MULTILINE)


def test_unknown_command() -> None:
    """A command that is not there is a usage error."""
    result = CliRunner().invoke(main, ["fly"])
    assert result.exit_code == 2
    assert "No such command 'fly'" in result.output
    assert "Did you mean 'streams'?" in CliRunner().invoke(main, ["stream", "ls"]).output


@pytest.mark.parametrize("option", [("--address", "127.0.0.1:1"), ("-q",)])
@pytest.mark.parametrize(
    "command",
    [
        ("serve",),
        ("backup", "there"),
        ("restore", "there"),
        ("health",),
        ("auth", "token", "billing"),
        ("auth", "check"),
    ],
)
def test_options_that_would_do_nothing(option: tuple[str, ...], command: tuple[str, ...]) -> None:
    """A command that does not go by a shared option refuses it, and does nothing."""
    result = CliRunner().invoke(main, [*option, *command])
    assert result.exit_code == 2
    assert f" does not take {option[0].replace('-q', '--quiet')}. Leave it out: `" in result.output


def test_options_in_the_wrong_place() -> None:
    """One that the command has itself is wanted behind it; where programs read, the refusal is JSON."""
    result = CliRunner().invoke(main, ["--timeout", "1s", "health"])
    assert result.exit_code == 2
    assert "Write --timeout behind `" in result.output
    programs = CliRunner().invoke(main, ["-o", "json", "health"])
    assert programs.exit_code == 2
    assert "Write --output behind `" in json.loads(programs.stderr)["error"]["message"]


def test_variables_are_no_options() -> None:
    """What the environment says of the server does not keep commands from their work that do not need it."""
    result = CliRunner().invoke(
        main, ["auth", "token", "billing"], env={"WINDSHIFT_ADDRESS": "a:1", "WINDSHIFT_NAMESPACE": "n"}
    )
    assert result.exit_code == 0


def test_serve_help_lists_variables() -> None:
    """`windshift serve --help` lists every variable, with its meaning and default, in order."""
    result = CliRunner().invoke(main, ["serve", "--help"], terminal_width=300, max_content_width=300)
    assert result.exit_code == 0
    rows = dict(re.findall(r"^  ([A-Z][A-Z_]+)\s+(.*)$", result.output, re.MULTILINE))
    assert list(rows) == list(SETTINGS)
    for name, each in SETTINGS.items():
        default = f" [default: {each.shown_default}]" if each.shown_default else ""
        assert rows[name] == each.description + default


def test_serve_takes_no_arguments() -> None:
    """Everything is told by the environment."""
    assert CliRunner().invoke(main, ["serve", "8080"]).exit_code == 2
    port = CliRunner().invoke(main, ["serve", "--port", "9000"])
    assert port.exit_code == 2
    assert "settings are variables, such as GRPC_PORT=9000" in port.output


def test_help_is_quick() -> None:
    """Help imports nothing that only a server needs."""
    commands = ("--help", "serve --help", "health --help", "run --help")
    assert heavy_modules_after(*commands) == ([0] * len(commands), "[]")


@pytest.mark.parametrize("module", ["click", "windshift.cli.streams"])
def test_ctrl_c_while_it_is_loaded(module: str) -> None:
    """Ctrl-C ends the command with 130 and without a traceback before it has begun, too."""
    code = (
        "finder = type('Finder', (), {'find_spec': lambda self, name, *_: "
        f"exec('raise KeyboardInterrupt') if name == {module!r} else None}}); "
        "sys.meta_path.insert(0, finder())"
    )
    done = run("streams", "ls", code=code)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "")


@pytest.mark.parametrize("missing", ["uvloop", "h11"])
def test_without_the_server_extra(missing: str, tmp_path: Path) -> None:
    """Where only the client is installed, `serve` says what to install."""
    done = run("serve", code=f"sys.modules[{missing!r}] = None", HOME=str(tmp_path))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"windshift: the server is not installed ({missing} is missing): pip install 'windshift[server]'\n"
    )


def test_wrong_environment(tmp_path: Path) -> None:
    """A wrong value: status 2 and a line that names the variable, the value and what is allowed."""
    done = run("serve", HOME=str(tmp_path), GRPC_PORT="http")
    assert done.returncode == 2
    assert done.stderr == "windshift: GRPC_PORT: 'http' is not allowed; use a whole number from 0 to 65535\n"


def test_as_a_module() -> None:
    """`python -m windshift` is the same command."""
    done = subprocess.run(
        [sys.executable, "-m", "windshift", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout.startswith("windshift ")


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        ('{"status": "ok", "since": "now"}', 0, "ok, since now"),
        ('{"status": "unavailable", "reason": "draining"}', 1, "windshift: draining"),
        ("<html>", 1, "windshift: what answers is not a Windshift server (status 200)"),
        ("[1]", 1, "windshift: what answers is not a Windshift server (status 200)"),
    ],
)
def test_health_reads_the_answer(body: str, status: int, line: str) -> None:
    """The answer decides the status; what is no answer of a server is a failure."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if "unavailable" not in body else 503)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_request(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        result = CliRunner().invoke(main, ["health"], env={"HEALTH_PORT": str(server.server_port)})
        thread.join(10)
    assert (result.exit_code, result.output) == (status, f"{line}\n")


def test_health_needs_a_port() -> None:
    """With any free port there is nobody to ask: status 2."""
    result = CliRunner().invoke(main, ["health"], env={"HEALTH_PORT": "0"})
    assert result.exit_code == 2
    assert result.output.startswith("windshift: HEALTH_PORT: ")


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({}, ("127.0.0.1", 8088)),
        ({"GRPC_HOST": "0.0.0.0"}, ("127.0.0.1", 8088)),  # noqa: S104 - that is it
        ({"GRPC_HOST": "10.0.0.1", "HEALTH_HOST": "::", "HEALTH_PORT": "1"}, ("::1", 1)),
        ({"HEALTH_HOST": "10.0.0.1", "NATS_URL": "wrong://"}, ("10.0.0.1", 8088)),
    ],
)
def test_health_asks_where_the_server_listens(environment: dict[str, str], address: tuple[str, int]) -> None:
    """Addresses that only listeners know become loopback; other variables do not matter."""
    assert health_address(environment) == ListenConfig(*address)


@pytest.mark.parametrize(
    ("when", "files", "status"),
    [("read_config", "", 3), ("import_server", "", 0), ("import_server", "WINDSHIFT_AUTH_FILE", 3)],
    ids=["nothing is known yet", "nothing to reload", "files to reload"],
)
def test_a_hangup_before_the_start(tmp_path: Path, when: str, files: str, status: int) -> None:
    """It means to stop where there is nothing to reload, and otherwise nothing: the files are read later."""
    rules = tmp_path / "rules.toml"
    rules.touch()
    environment = {files: str(rules)} if files else {}
    code = f"""
import os, signal
from windshift.cli import serve

def interrupted(function):
    def call(*arguments):
        os.kill(os.getpid(), signal.SIGHUP)
        return function(*arguments)
    return call

def loaded(name):
    raise SystemExit(3)

serve.import_server = loaded
serve.{when} = interrupted(serve.{when})
serve.run_server({environment!r}, print, share_port=False, words={{}})
"""
    result = run("serve", code=code.strip())
    assert result.returncode == status
    assert result.stderr == ("" if status else "windshift: SIGHUP: stopped before it had started\n")


def test_a_signal_before_the_start() -> None:
    """A SIGTERM that comes while the server is still being loaded ends it in good order, and says so."""
    code = (
        "import os, signal; from windshift.cli.failing import stop_early; "
        "signal.signal(signal.SIGTERM, stop_early); os.kill(os.getpid(), signal.SIGTERM)"
    )
    result = run("serve", code=code)
    assert result.returncode == 0
    assert result.stderr == "windshift: SIGTERM: stopped before it had started\n"
