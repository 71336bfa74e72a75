"""The files below deploy/ that start a server: settings that there are, and time enough to stop."""

from __future__ import annotations

import re
import signal
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.support.broker import connect
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import windshift
from windshift.nats import ConnectFailed
from windshift.server.api.admin import ADMIN
from windshift.server.api.dead_letters import DEAD_LETTERS
from windshift.server.api.events import EVENTS
from windshift.server.api.state import STATE
from windshift.server.config.read import config_from_environment
from windshift.server.config.tree import SETTINGS, ServerConfig

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"


def stopping(config: ServerConfig) -> float:
    """Return the seconds that a stop takes at most."""
    return (config.grpc.drain_timeout + config.embedded.stop_timeout).total_seconds()


@pytest.fixture
def auth_file(tmp_path: Path) -> str:
    """Make a file that may be read."""
    file = tmp_path / "auth.toml"
    file.touch(mode=0o600)
    return str(file)


def test_kubernetes(auth_file: str) -> None:
    """Its environment starts a server that is not open, and its grace is longer than a stop."""
    service, stateful = yaml.safe_load_all((DEPLOY / "kubernetes" / "windshift.yaml").read_text())
    pod = stateful["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert environment.keys() <= SETTINGS.keys()
    mounts = {each["mountPath"] for each in container["volumeMounts"]}
    assert str(Path(environment["WINDSHIFT_AUTH_FILE"]).parent) in mounts
    environment["WINDSHIFT_AUTH_FILE"] = auth_file
    config = config_from_environment({"HOME": "/", "GRPC_HOST": "0.0.0.0", **environment})  # noqa: S104
    assert config.authorizes
    assert pod["terminationGracePeriodSeconds"] >= stopping(config) + 5
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"grpc": config.grpc.listen.port, "health": config.health.port}
    assert service["spec"]["ports"] == [{"name": "grpc", "port": config.grpc.listen.port}]
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_chart() -> None:
    """It has the version of the package, which is that of the image too, and each of its files is there."""
    chart = yaml.safe_load((DEPLOY / "helm" / "windshift" / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (chart["version"], chart["appVersion"]) == (version, version)
    for name in ("alerts.yaml", "dashboard.json"):
        assert (DEPLOY / "helm" / "windshift" / "files" / name).is_file()


def test_durations_on_the_dashboard_leave_out_streaming_calls() -> None:
    """These last as long as their clients stay, and so would say nothing; all others are there."""
    dashboard = (DEPLOY / "grafana" / "windshift.json").read_text()
    (left_out,) = set(re.findall(r'rpc_method!~\\"(.*?)\\"', dashboard))
    methods = [method for each in (EVENTS, STATE, DEAD_LETTERS, ADMIN) for method in each.methods]
    streaming = [each for each in methods if each.client_streaming or each.server_streaming]
    names = {each: f"{each.containing_service.full_name}/{each.name}" for each in methods}
    assert [each for each in methods if re.fullmatch(left_out, names[each])] == streaming
    for selector in re.findall(r"call_duration_seconds_(?:bucket|sum)\{(.*?)\}", dashboard):
        assert left_out in selector or "EventsService/Publish(Event)?" in selector


def test_systemd() -> None:
    """It has longer to stop than that takes, and names settings that there are."""
    unit = (DEPLOY / "systemd" / "windshift.service").read_text()
    settings = dict(re.findall(r"(?m)^Environment=(\w+)=(.*)$", unit))
    config = config_from_environment({"HOME": "/", **settings})
    found = re.search(r"(?m)^TimeoutStopSec=(\d+)$", unit)
    assert found is not None
    assert int(found[1]) >= stopping(config) + 5
    assert "KillMode=mixed" in unit


def test_systemd_reloads_a_server_without_files(tmp_path: Path, nats_server: NatsServer) -> None:
    """It goes on."""
    unit = (DEPLOY / "systemd" / "windshift.service").read_text()
    assert "ExecReload=/bin/kill -HUP $MAINPID" in unit
    found = re.search(r"(?m)^ExecStart=(.*)/opt/windshift/bin/windshift serve$", unit)
    assert found is not None
    with windshift(tmp_path, under=found[1].split(), NATS_URL=nats_server.url) as server:
        server.signal(signal.SIGHUP)
        assert server.probe("/readyz").status == 200
        assert server.stop() == 0
        assert "SIGHUP" not in server.err


COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())


def test_compose() -> None:
    """Windshift has longer to stop than it drains; it has no NATS of its own there."""
    server = COMPOSE["services"]["windshift"]
    assert int(server["stop_grace_period"].removesuffix("s")) >= 10 + 5


async def test_compose_has_a_password(tmp_path: Path) -> None:
    """Its NATS lets nobody in without the password, which Windshift is given, and which nothing makes up."""
    variable = re.compile(r"\$\{NATS_PASSWORD:\?[^}]+\}")
    url, count = variable.subn("s3cret", COMPOSE["services"]["windshift"]["environment"]["NATS_URL"])
    assert count == 1
    config, count = variable.subn("s3cret", COMPOSE["configs"]["nats"]["content"])
    assert count == 1
    (tmp_path / "nats.conf").write_text(re.sub("http_port: .*|store_dir: .*?(?= })", "", config))
    server = NatsServer(tmp_path, "--config", str(tmp_path / "nats.conf"))
    server.start()
    try:
        credentials = url.removeprefix("nats://").partition("@")[0]
        async with connect(f"nats://{credentials}@127.0.0.1:{server.port}") as broker:
            await broker.stream("S")
        with pytest.raises(ConnectFailed):
            async with connect(server.url):
                pass
    finally:
        server.kill()
