"""Who calls a server, when they did last, and an end to their connections."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner

from tests.authorization.callers import Caller, WithMetadata, bearer
from tests.authorization.policies import ALL, digest_of, principal, token_of
from tests.authorization.served import Served, served
from tests.support.app import running_app
from tests.support.client import Client, refused
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import wait_for
from tests.wire.consuming import subscribed
from tests.wire.management import ensure_consumer, get_consumer
from windshift._gen.windshift.admin.v1alpha1 import principals_pb2 as pb
from windshift.cli.main import main
from windshift.server.api.principals import PRINCIPALS

POLICY = (
    ALL
    + '[role.user]\nstreams = { consume = ["USED"], subjects = [">"] }\nconsumers.use = ["*"]\n'
    + principal("all")
    + principal("ann", "user")
    + principal("bob", "user", more='mtls = "CN=bob"\n')
    + principal("idle", "user")
).replace(f'["{digest_of("ann")}"]', f'["{digest_of("ann")}", "{digest_of("ann", 2)}"]')
NUMBERS = count()
LIMIT = 20.0


@pytest.fixture(scope="module")
def server(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Run a process that knows its callers."""
    with served(tmp_path_factory.mktemp("principals"), POLICY, NATS_URL=nats_server.url) as server:
        server.caller("all").ensure_stream("USED", "used.>")
        yield server


def listed(caller: Caller) -> dict[str, pb.Principal]:
    """List the principals, by name."""
    response = caller.call(PRINCIPALS.methods_by_name["ListPrincipals"], pb.ListPrincipalsRequest())
    return {each.name: each for each in response.principals}


def ended(caller: Caller, name: str) -> int:
    """End the connections of a principal; give how many there were."""
    request = pb.EndConnectionsRequest(principal=name)
    response: pb.EndConnectionsResponse = caller.call(PRINCIPALS.methods_by_name["EndConnections"], request)
    return response.connections


def consumer(server: Served) -> tuple[str, int]:
    """Make a consumer of one event; give its name, and the event's id."""
    name = f"c{next(NUMBERS)}"
    ensure_consumer(server.caller("all"), "USED", name=name, subjects=[f"used.{name}"])
    return name, server.caller("all").publish(f"used.{name}")


def test_when_a_credential_was_used_last(server: Served) -> None:
    """Each token has a time of its own, which a change of the rules leaves as it is; none: never."""
    admin = server.caller("all")
    before = time.time()
    with refused("NOT_FOUND", "CONSUMER_NOT_FOUND"):
        ensure_nothing(server.caller("ann"))
    after = time.time()
    used, unused = listed(admin)["ann"].credentials
    assert (used.credential, unused.credential) == tuple(
        f"token {digest_of('ann', version)[:8]}" for version in (1, 2)
    )
    assert before <= used.last_used.ToNanoseconds() / 1e9 <= after
    assert not unused.HasField("last_used")
    assert [each.credential for each in listed(admin)["bob"].credentials][1] == "certificate CN=bob"
    server.hang_up()
    assert listed(admin)["ann"].credentials[0].last_used == used.last_used
    for _ in range(2):
        with refused("NOT_FOUND", "CONSUMER_NOT_FOUND"):
            ensure_nothing(server.caller("ann", 2))
    used, now_used = listed(admin)["ann"].credentials
    assert now_used.last_used.ToNanoseconds() > used.last_used.ToNanoseconds()


def ensure_nothing(caller: Caller) -> None:
    """Look at a consumer that is not there."""
    get_consumer(caller, "USED", "missing")


def test_connections_are_ended(server: Served) -> None:
    """Open streams and idle connections of the principal end at once; what it held goes to others."""
    admin, ann = server.caller("all"), Caller(server.process.address, bearer(token_of("ann")))
    idle = Caller(server.process.address, bearer(token_of("ann", 2)))
    name, event = consumer(server)
    other, theirs = consumer(server)
    with (
        subscribed(ann, "USED", consumer=name) as hers,
        subscribed(server.caller("bob"), "USED", consumer=other) as his,
    ):
        assert [each.id for each in hers.events(1)] == [event]
        assert [each.id for each in his.events(1)] == [theirs]
        with refused("NOT_FOUND", "CONSUMER_NOT_FOUND"):
            ensure_nothing(idle)
        found = listed(admin)["ann"]
        assert found.connections >= 2
        assert found.open_streams == 1
        assert ended(admin, "ann") == found.connections
        refusal = hers.end(LIMIT)
        assert refusal is not None
        assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "CONNECTION_ENDED")
        wait_for(lambda: listed(admin)["ann"].connections == 0)
        wait_for(lambda: listed(admin)["ann"].open_streams == 0)
        with subscribed(server.caller("bob"), "USED", consumer=name) as now_his:
            (again,) = now_his.events(1)
            assert (again.id, again.delivery_attempt) == (event, 2)
            now_his.ack(event)
            now_his.told()
        his.ack(theirs)
        assert his.told() == ("ack", [theirs], [], [])
    with refused("NOT_FOUND", "CONSUMER_NOT_FOUND"):  # whoever is still in the rules comes back
        ensure_nothing(ann)
    assert server.records(event="managed", resource="ann")[-1]["code"] == "OK"


def as_principal(caller: Caller, name: str) -> Client:
    """Return a client that shows a token on the connection of another."""
    client = Client.__new__(Client)
    client.channel = grpc.intercept_channel(caller.channel, WithMetadata(bearer(token_of(name))))
    return client


def test_a_connection_of_several(server: Served) -> None:
    """Calls of others on it end, too."""
    shared = Caller(server.process.address)
    name, _ = consumer(server)
    with subscribed(as_principal(shared, "ann"), "USED", consumer=name) as hers:
        hers.events(1)
        with subscribed(as_principal(shared, "bob"), "USED", consumer=name) as his:
            assert ended(server.caller("all"), "ann") >= 1
            for stream in (hers, his):
                refusal = stream.end(LIMIT)
                assert refusal is not None
                assert refusal.code == "UNAVAILABLE"


def test_nobody_of_that_name(server: Served) -> None:
    """Whose connections are none of the rules' is not found; who has none has none."""
    with refused("NOT_FOUND", "PRINCIPAL_NOT_FOUND"):
        ended(server.caller("all"), "nobody")
    assert ended(server.caller("all"), "idle") == 0


def test_without_rules(nats_server: NatsServer, tmp_path: Path) -> None:
    """There are no principals then, and nobody's connections to end."""
    with running_app(nats_server.url) as address:
        caller = Caller(address)
        assert listed(caller) == {}
        with refused("NOT_FOUND", "PRINCIPAL_NOT_FOUND"):
            ended(caller, "all")
        caller.channel.close()


def command(server: Served, *arguments: str, who: str = "all") -> subprocess.CompletedProcess[str]:
    """Run a command of `windshift auth` as somebody; as nobody with an empty name."""
    shown = ["--token-file", "-"] if who else []
    return subprocess.run(
        [sys.executable, "-m", "windshift", "auth", *arguments, "--server", server.process.address, *shown],
        input=f"{token_of(who)}\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_listing_by_the_command(server: Served) -> None:
    """A line for each credential, and since when that is known."""
    done = command(server, "list")
    assert (done.returncode, done.stderr) == (0, "")
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["PRINCIPAL", "OPEN", "CREDENTIAL", "LAST", "USED", "EXPIRES"]
    assert [line.split()[0] for line in lines if " connections, " in line] == ["all", "ann", "bob", "idle"]
    (idle,) = (line for line in lines if line.startswith("idle "))
    assert " ".join(idle.split()) == f"idle 0 connections, 0 streams token {digest_of('idle')[:8]} never"
    (own,) = (line for line in lines if line.startswith("all "))
    assert re.search(rf"token {digest_of('all')[:8]} +\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ$", own)
    assert lines[-1].endswith("when the server was started")


def test_where_the_server_is_may_be_in_the_environment(server: Served, tmp_path: Path) -> None:
    """What the other commands take from there, these take too."""
    (tmp_path / "token").write_text(token_of("all"))
    where = {"WINDSHIFT_ADDRESS": server.process.address, "WINDSHIFT_TOKEN_FILE": str(tmp_path / "token")}
    done = CliRunner().invoke(main, ["auth", "list"], env=where)
    assert done.exit_code == 0
    assert "\nidle " in done.output


def test_ending_by_the_command(server: Served) -> None:
    """It tells how many there were; what the server refuses is told, with status 1."""
    name, _ = consumer(server)
    with subscribed(server.caller("bob"), "USED", consumer=name) as call:
        call.events(1)
        done = command(server, "end", "bob")
        assert (done.returncode, done.stderr) == (0, "")
        assert re.fullmatch(r"connections that were ended: [1-9]\d*\n", done.stdout)
        assert call.end(LIMIT) is not None
    for who, told in (
        ("ann", "PERMISSION_DENIED: 'ann' may not end connections of principal 'bob'"),
        ("", "UNAUTHENTICATED: the call has no valid credentials; "),
    ):
        done = command(server, "end", "bob", who=who)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"windshift: {told}")


def test_commands_without_a_server() -> None:
    """That nothing answers is one line, and so is what is wrong with the command."""
    run = [sys.executable, "-m", "windshift", "auth", "list"]
    for more, status, told in (
        (["--server", "127.0.0.1:1"], 1, "windshift: UNAVAILABLE: "),
        (["--server", "nowhere"], 1, "windshift: "),
        (["--cert", __file__], 2, "--cert and --key belong together"),
    ):
        done = subprocess.run([*run, *more], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == status
        assert told in done.stderr
        assert "Traceback" not in done.stderr
