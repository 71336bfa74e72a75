"""The examples that end each command's help, run as they stand there; the page that shows them."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import windshift as ws
from tests.cli.conftest import Cli
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import wait_for, windshift
from windshift.cli import main
from windshift.cli.options import Command
from windshift.protos import test

OLDER = {"auth", "backup", "health", "restore", "run", "serve"}
"""Commands that take none of the shared options, and have examples of their own or none."""
LASTING = {"windshift dev", "windshift dev --port 0", "windshift tail orders -f --subject 'orders.eu.>'"}
"""What goes on until Ctrl-C."""


def commands(group: click.Group, path: str) -> Iterator[tuple[str, Command]]:
    """Yield every command with its path."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        elif isinstance(command, Command):
            yield f"{path} {name}", command
        else:
            assert {path, name} & (OLDER | {"windshift auth"})


COMMANDS = dict(commands(main, "windshift"))
EXAMPLES = [example for command in COMMANDS.values() for example in command.examples]


@pytest.fixture
def world(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Have what the examples name: orders with a consumer, a store, and a file."""
    with ws.sync.connect(cli.environment["WINDSHIFT_ADDRESS"], namespace=cli.namespace) as client:
        client.streams.ensure("orders", subjects=["orders.>"]).consumers.ensure("accounting", start=ws.START)
        for subject in ("orders.placed", "orders.eu.1", "orders.placed"):
            client.publish(subject, test.StringValue(value="1"))
        client.stores.ensure("accounting", test.StringValue).set("total", test.StringValue(value="1"))
    (tmp_path / "streams.toml").write_text('[streams.orders]\nsubjects = ["orders.>"]\n')
    monkeypatch.chdir(tmp_path)
    return cli


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples(world: Cli, example: str) -> None:
    """Every example does what it should."""
    if "dead-letters" in example:
        world("subscribe", "orders", "accounting", "--dead-letter", "-n", "1", "-q")
    if example.startswith("windshift context") and " add " not in example:
        world("context", "add", "dev", "--address", world.environment["WINDSHIFT_ADDRESS"])
    if set(example) & set("|$>(;") - set(">" if "'" in example else ""):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", example],
            env=os.environ | world.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert (done.returncode, done.stderr) == (0, "")
    elif example in LASTING:
        world.environment["GRPC_PORT"] = "0"
        process = world.popen(shlex.split(example)[1:], stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline()
        process.terminate()
        process.wait(60)
    elif example == "windshift auth end billing":
        assert "the rules have no principal 'billing'" in world(*shlex.split(example)[1:], code=3).err
    else:
        told = world(*shlex.split(example)[1:]).err
        # A server that another test has just killed counts for a while as one that does not answer.
        assert re.sub("servers that did not answer in time: .*\n", "", told) in {"", "revision 1\n"}


def test_help_ends_with_examples(cli: Cli) -> None:
    """Every command has examples at the end of its help."""
    for path, command in COMMANDS.items():
        assert command.examples
        assert cli(*path.split()[1:], "--help").out.rstrip().endswith(command.examples[-1])


def in_help(cli: Cli, *path: str) -> list[str]:
    """Return the examples in the help of a command that takes none of the shared options."""
    _, _, after = cli(*path, "--help").out.partition("Examples:\n")
    return [line.strip() for line in after.partition("\n\n")[0].splitlines()]


def ends(process: subprocess.Popen[bytes]) -> int:
    """Ask a process to stop, and return its exit code."""
    process.terminate()
    return process.wait(60)


def test_examples_of_servers(world: Cli, tmp_path: Path, nats_server: NatsServer) -> None:
    """Those of `serve` start a server, and those of `health` ask it."""
    serve, health = in_help(world, "serve"), in_help(world, "health")
    assert serve
    assert health
    for example in serve:
        world.environment |= {"GRPC_PORT": "0", "HEALTH_PORT": "0", "NATS_URL": nats_server.url}
        process = world.popen(shlex.split(example)[1:], stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline()
        assert ends(process) == 0
    with windshift(tmp_path, NATS_URL=nats_server.url) as server:
        world.environment["HEALTH_PORT"] = str(server.health_port)
        for example in health:
            assert world(*shlex.split(example)[1:]).out


def test_dev_where_another_one_runs(world: Cli, tmp_path: Path) -> None:
    """In its directory, or at its port, it says what to do instead, in words of its own."""
    environment = world.environment.copy()
    command = [sys.executable, "-m", "windshift", "dev", "--port"]
    (tmp_path / "other").mkdir()
    first = subprocess.Popen([*command, "0"], cwd=tmp_path, env=environment, stdout=-1, stderr=-1, text=True)
    assert first.stdout is not None
    port = first.stdout.readline().partition("API on 127.0.0.1:")[2].partition(",")[0]
    for place, number, advice in (
        (tmp_path, "0", "run this in another directory"),
        (tmp_path / "other", port, "say another --port"),
    ):
        refused = subprocess.run(
            [*command, number],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert refused.returncode == 1
        assert refused.stderr.endswith(f"{advice}\n")
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=100)
    assert first.returncode == 0


def test_examples_of_apps(world: Cli, tmp_path: Path) -> None:
    """Those of `run` run an app until it is stopped."""
    (tmp_path / "shop.py").write_text(
        "import windshift as ws\n"
        "app = ws.App('shop')\n"
        "orders = app.consumer(app.stream('orders', subjects=['orders.>']), 'mail')\n"
        "@orders.on_unknown\n"
        "async def mail(delivery: ws.Delivery[object]) -> None: ...\n"
    )
    assert in_help(world, "run")
    for example in in_help(world, "run"):
        process = world.popen(shlex.split(example)[1:], stderr=subprocess.PIPE, cwd=tmp_path)
        assert process.stderr is not None
        with process.stderr:
            for _ in range(2 if "--workers 2" in example else 1):
                while b"shop runs" not in (line := process.stderr.readline()):
                    assert line, "it ended"
            assert ends(process) == 0


def test_examples_of_tokens(world: Cli, tmp_path: Path) -> None:
    """Those of `auth token` print a token; the other commands of `auth` have some, for servers with rules."""
    assert all(in_help(world, "auth", name) for name in ("check", "list", "end"))
    for example in in_help(world, "auth", "token"):
        words, _, file = example.partition(" > ")
        assert world(*shlex.split(words)[1:]).out, file


ACCEPTANCE = """
windshift streams ensure t --subject 't.>' -q
windshift publish t.x '{"value":"hi"}' --type windshift.test.v1.StringValue
windshift tail t -n 1 --since 1h
windshift tail t -n 1 --since 1h -o json | jq -r .data.value
windshift streams info tt; echo $?
"""


def test_the_first_minutes_of_a_script(cli: Cli) -> None:
    """A stream, an event, a look at it by a person and a program, and an error that helps."""
    cli.environment["WINDSHIFT_NAMESPACE"] = ""
    read = """python -c 'import json; print(json.load(open(0))["data"]["value"])'"""
    script = ACCEPTANCE.replace("jq -r .data.value", read)
    done = subprocess.run(
        ["bash", "-c", script],
        env=os.environ | cli.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=100,
    )
    stored, shown, value, error, code = done.stdout.splitlines()
    assert stored == "stored as event 1"
    assert re.fullmatch(r'1  \d\d:\d\d:\d\d  t\.x  StringValue  \{"value":"hi"\}', shown)
    assert (value, code) == ("hi", "3")
    helpful = "windshift: stream 'tt' does not exist; did you mean 't'? (STREAM_NOT_FOUND)"
    if error != helpful:  # a name like it is looked for for two seconds, too little on a busy machine
        wait_for(lambda: cli("streams", "info", "tt", code=3).err == f"{helpful}\n")
    cli("streams", "rm", "t", "--yes")
