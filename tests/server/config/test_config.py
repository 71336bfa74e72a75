"""The configuration: defaults, every variable, and what is said about wrong values."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest

from windshift.server.config.read import config_from_environment
from windshift.server.config.settings import ConfigurationError
from windshift.server.config.telemetry import TelemetryConfig, TlsFiles
from windshift.server.config.tree import (
    SETTINGS,
    ClientAuth,
    LimitsConfig,
    ListenConfig,
    LogLevel,
    NatsConfig,
    ServerConfig,
)

HOME = {"HOME": "/users/somebody"}


def read(**environment: str) -> ServerConfig:
    """Read the configuration of somebody's environment with these variables."""
    return config_from_environment(HOME | environment)


def problems(**environment: str) -> tuple[str, ...]:
    """Return what is said about an environment with these variables."""
    with pytest.raises(ConfigurationError) as caught:
        read(**environment)
    return caught.value.problems


CONTRACT = {
    "DEVELOPMENT": "false",
    "LOG_LEVEL": "info",
    "NATS_PUBLISH_ASYNC_MAX_PENDING": "256",
    "GRPC_HOST": "127.0.0.1",
    "GRPC_PORT": "8080",
    "HEALTH_HOST": "GRPC_HOST",
    "HEALTH_PORT": "8088",
    "WINDSHIFT_NATS_SYNC": "1s",
    "WINDSHIFT_DEFAULT_REPLICAS": "1",
    "WINDSHIFT_DRAIN_TIMEOUT": "10",
    "OTEL_PROPAGATORS": "tracecontext,baggage",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "10",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
    "OTEL_METRIC_EXPORT_INTERVAL": "60",
    "OTEL_METRIC_EXPORT_TIMEOUT": "30",
    "OTEL_TRACING_LOG": "false",
}
"""Defaults that deployments rely on."""


@pytest.mark.parametrize("name", CONTRACT)
def test_defaults_of_the_contract(name: str) -> None:
    """The contract's defaults do not change."""
    assert SETTINGS[name].shown_default == CONTRACT[name]


def test_an_empty_environment_gives_the_defaults() -> None:
    """What a section is by itself is what is read where nothing is set."""
    config = read()
    assert config.nats == NatsConfig()
    assert config.grpc.limits == LimitsConfig()
    assert config.telemetry == TelemetryConfig()


def test_data_lies_below_the_users_data_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data directory follows the platform, and XDG_DATA_HOME where it is absolute."""
    monkeypatch.setattr("sys.platform", "linux")
    assert read().embedded.data_dir == Path("/users/somebody/.local/share/windshift")
    assert read(XDG_DATA_HOME="/data").embedded.data_dir == Path("/data/windshift")
    assert read(XDG_DATA_HOME="data").embedded.data_dir == Path("/users/somebody/.local/share/windshift")
    monkeypatch.setattr("sys.platform", "darwin")
    assert read().embedded.data_dir == Path("/users/somebody/Library/Application Support/windshift")


@pytest.mark.parametrize("name", [name for name, each in SETTINGS.items() if each.default and not each.needs])
def test_a_default_can_be_set(name: str) -> None:
    """Setting a variable to its default changes nothing."""
    assert read(**{name: str(SETTINGS[name].default)}) == read()


UNSAFE_EMPTY = ("WINDSHIFT_", "GRPC_TLS_", "NATS_")


@pytest.mark.parametrize("name", [name for name in SETTINGS if not name.startswith(UNSAFE_EMPTY)])
@pytest.mark.parametrize("blank", ["", "  "])
def test_empty_counts_as_absent(name: str, blank: str) -> None:
    """An empty value is as good as none, where the default lets nobody in and hides no NATS."""
    assert read(**{name: blank}) == read()


def test_every_setting_is_explained() -> None:
    """Each has a sentence, and either a default, a word about its absence, or none at all."""
    for each in SETTINGS.values():
        assert each.meaning[0].isupper()
        assert each.meaning.endswith(".")
        assert not (each.default and each.otherwise)
        assert set(each.needs) <= set(SETTINGS)


HINTS = {name: each.parser.hint.removesuffix(", or auto") for name, each in SETTINGS.items()}
RANGED = {name: hint for name, hint in HINTS.items() if " to " in hint}


@pytest.mark.parametrize("name", RANGED)
def test_ranges_are_those_of_the_documentation(name: str) -> None:
    """Both ends of a documented range are allowed, and nothing beyond them is."""
    low, high = (int(end.replace(",", "")) for end in RANGED[name].split(" to "))
    others = {"NATS_URL": "nats://host", "OTEL_TRACES_SAMPLER": "traceidratio"}
    for inside in (low, high):
        read(**others, **{name: str(inside)})
    for outside in (low - 1, high + 1):
        assert len(problems(**others, **{name: str(outside)})) == 1


@pytest.mark.parametrize("text", ["1", "t", "true", "TRUE", "True", "yes", "on"])
def test_true(text: str) -> None:
    """Booleans take the usual spellings of true."""
    assert read(WINDSHIFT_INSECURE=text).auth.insecure


@pytest.mark.parametrize("text", ["0", "f", "false", "FALSE", "no", "off"])
def test_false(text: str) -> None:
    """Booleans take the usual spellings of false."""
    assert not read(DEVELOPMENT=text).log.development


def test_development_logs_more() -> None:
    """Development mode means debug level, unless a level is named."""
    assert read(DEVELOPMENT="true").log.level is LogLevel.DEBUG
    assert read(DEVELOPMENT="true", LOG_LEVEL="error").log.level is LogLevel.ERROR


@pytest.mark.parametrize(("text", "level"), [("DEBUG", "debug"), ("warn", "warning"), ("Error", "error")])
def test_log_level(text: str, level: str) -> None:
    """Levels are read in any case; `warn` means warning."""
    assert read(LOG_LEVEL=text).log.level == level


def test_limits() -> None:
    """How much clients may take up can be set."""
    limits = read(
        GRPC_MAX_CONNECTIONS="100",
        GRPC_MAX_CONNECTIONS_PER_ADDRESS="10",
        GRPC_MAX_CONCURRENT_STREAMS="1000",
        GRPC_KEEPALIVE_INTERVAL="0",
        GRPC_KEEPALIVE_TIMEOUT="5.5",
        GRPC_HANDSHAKE_TIMEOUT="3",
        GRPC_MAX_HELD_MB="64",
        GRPC_MAX_ANONYMOUS_PERCENT="20",
        GRPC_ANONYMOUS_TIMEOUT="30",
        GRPC_MAX_FAILING_CALLS="0",
        GRPC_MAX_ADDRESS_WAIT="600",
        GRPC_PROXY_ADDRESSES="192.0.2.1, 2001:db8::/32",
        GRPC_PROXY_PROTOCOL_FROM="10.0.0.0/8",
    ).grpc.limits
    assert limits == LimitsConfig(
        max_connections=100,
        max_connections_per_address=10,
        max_concurrent_streams=1000,
        keepalive_interval=timedelta(0),
        keepalive_timeout=timedelta(seconds=5.5),
        handshake_timeout=timedelta(seconds=3),
        max_held=64_000_000,
        max_anonymous_share=20,
        anonymous_timeout=timedelta(seconds=30),
        max_failing_calls=0,
        longest_wait=timedelta(minutes=10),
        proxies=(ip_network("192.0.2.1"), ip_network("2001:db8::/32")),
        proxy_protocol=(ip_network("10.0.0.0/8"),),
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("GRPC_MAX_CONNECTIONS", "0"),
        ("GRPC_MAX_CONNECTIONS_PER_ADDRESS", "-1"),
        ("GRPC_MAX_CONCURRENT_STREAMS", "10001"),
        ("GRPC_KEEPALIVE_INTERVAL", "3601"),
        ("GRPC_KEEPALIVE_TIMEOUT", "0"),
        ("GRPC_HANDSHAKE_TIMEOUT", "nan"),
        ("GRPC_MAX_HELD_MB", "0"),
        ("GRPC_MAX_ANONYMOUS_PERCENT", "0"),
        ("GRPC_ANONYMOUS_TIMEOUT", "0"),
        ("GRPC_MAX_FAILING_CALLS", "-1"),
        ("GRPC_MAX_ADDRESS_WAIT", "86401"),
        ("GRPC_PROXY_ADDRESSES", "proxy.local"),
        ("GRPC_PROXY_PROTOCOL_FROM", "10.0.0.1/8"),
        ("HEALTH_PROBES_FROM", "10.0.0.0/33"),
    ],
)
def test_limits_out_of_range(name: str, text: str) -> None:
    """A limit that would keep everybody out, or no one, is refused."""
    assert [problem.partition(":")[0] for problem in problems(**{name: text})] == [name]


def test_health_follows_the_api() -> None:
    """Probes are answered where the API is, unless told otherwise."""
    assert read(GRPC_HOST="::1").health.host == "::1"
    assert read(HEALTH_HOST="10.0.0.1").health.host == "10.0.0.1"
    assert read(GRPC_HOST="::1", HEALTH_HOST="127.0.0.1").health.host == "127.0.0.1"
    assert read(GRPC_HOST="[::1]").grpc.listen.host == "::1"


def test_free_ports() -> None:
    """Port 0 asks for a free one, of both listeners at once too."""
    config = read(GRPC_PORT="0", HEALTH_PORT="0")
    assert (config.grpc.listen.port, config.health.port) == (0, 0)


def test_nats_urls() -> None:
    """NATS_URL holds one or several servers, with credentials that are never shown."""
    config = read(NATS_URL="nats://me:p%40ss@one:4333, tls://two,three")
    assert [server.url for server in config.nats.servers] == [
        "nats://one:4333",
        "tls://two:4222",
        "nats://three:4222",
    ]
    assert config.nats.servers[0].password == "p@ss"
    assert "p@ss" not in repr(config)


def test_nats_files(tmp_path: Path) -> None:
    """Credentials and TLS files of NATS are taken as named."""
    file = tmp_path / "file"
    file.touch()
    names = ("NATS_CREDS", "NATS_TLS_CA", "NATS_TLS_CERT", "NATS_TLS_KEY")
    config = read(NATS_URL="nats", **dict.fromkeys(names, str(file)))
    assert (config.nats.credentials, config.nats.nkey) == (file, None)
    assert config.nats.tls == TlsFiles(file, file, file)
    config = read(NATS_URL="nats", NATS_NKEY=str(file))
    assert (config.nats.credentials, config.nats.nkey) == (None, file)


def test_who_windshift_is_to_nats_is_said_once(tmp_path: Path) -> None:
    """A credentials file has a key of its own; another one beside it is a mistake."""
    file = tmp_path / "file"
    file.touch()
    assert problems(NATS_URL="nats", NATS_CREDS=str(file), NATS_NKEY=str(file)) == (
        "NATS_NKEY: not together with NATS_CREDS; set one of them",
    )
    assert read(NATS_URL="nats", NATS_CREDS=str(file)).nats.credentials == file


@pytest.mark.parametrize(
    "names",
    [
        *(("NATS_CREDS",), ("NATS_NKEY",), ("NATS_PASSWORD_FILE",), ("NATS_TLS_CA",)),
        ("NATS_TLS_CERT", "NATS_TLS_KEY"),
    ],
)
def test_files_for_a_nats_without_a_url(names: tuple[str, ...], tmp_path: Path) -> None:
    """An embedded server in its place would be empty."""
    file = tmp_path / "file"
    file.touch()
    expected = tuple(f"{name}: needs NATS_URL; set it too" for name in names)
    assert problems(**dict.fromkeys(names, str(file))) == expected
    assert problems(NATS_URL="ftp://nats", **dict.fromkeys(names, str(file)))[0].startswith("NATS_URL: ")


def test_a_password_is_said_once(tmp_path: Path) -> None:
    """In a file or in the URL."""
    file = tmp_path / "password"
    file.touch()
    given = {"NATS_PASSWORD_FILE": str(file)}
    assert read(**given, NATS_URL="nats://windshift@nats").nats.password == file
    assert problems(**given, NATS_URL="nats://one@a,nats://two:s3cret@b") == (
        "NATS_PASSWORD_FILE: NATS_URL has a password, too; take that out",
    )


def test_the_largest_message_of_an_embedded_server() -> None:
    """It is that of nats-server, unless it is said."""
    assert read().embedded.max_payload == 1024 * 1024
    assert read(WINDSHIFT_NATS_MAX_PAYLOAD_KB="8192").embedded.max_payload == 8 * 1024 * 1024
    assert problems(WINDSHIFT_NATS_MAX_PAYLOAD_KB="8193")


def test_tls_before_the_first_word() -> None:
    """NATS_TLS_FIRST is for a nats-server that wants it so."""
    assert not read().nats.tls_first
    assert not read(NATS_TLS_FIRST="false").nats.tls_first
    assert read(NATS_URL="nats", NATS_TLS_FIRST="true").nats.tls_first
    assert problems(NATS_TLS_FIRST="true") == ("NATS_TLS_FIRST: needs NATS_URL; set it too",)


def test_api_tls(tmp_path: Path) -> None:
    """TLS of the API takes a certificate and its key, with or without client certificates."""
    file = tmp_path / "file"
    file.touch()
    pair = {"GRPC_TLS_CERT": str(file), "GRPC_TLS_KEY": str(file)}
    assert read(**pair).grpc.tls == TlsFiles(None, file, file)
    config = read(**pair, GRPC_TLS_CLIENT_CA=str(file))
    assert (config.grpc.tls, config.grpc.client_auth) == (TlsFiles(file, file, file), ClientAuth.REQUIRE)
    config = read(**pair, GRPC_TLS_CLIENT_CA=str(file), GRPC_TLS_CLIENT_AUTH="optional")
    assert config.grpc.client_auth is ClientAuth.OPTIONAL


@pytest.mark.parametrize("value", ["require", "optional"])
def test_client_certificates_need_authorities(value: str) -> None:
    """Whoever says how certificates are asked for and forgets the authorities is told."""
    assert problems(GRPC_TLS_CLIENT_AUTH=value) == (
        "GRPC_TLS_CLIENT_AUTH: needs GRPC_TLS_CLIENT_CA; set it too",
    )


def test_client_certificates_are_asked_for_in_one_way_or_the_other(tmp_path: Path) -> None:
    """Another word for it is wrong."""
    file = tmp_path / "file"
    file.touch()
    names = ("GRPC_TLS_CERT", "GRPC_TLS_KEY", "GRPC_TLS_CLIENT_CA")
    (line,) = problems(**dict.fromkeys(names, str(file)), GRPC_TLS_CLIENT_AUTH="none")
    assert line == "GRPC_TLS_CLIENT_AUTH: 'none' is not allowed; use one of require, optional"


@pytest.mark.parametrize("text", ["1s", "500ms", "2m", "1m30s", "1.5s", "always"])
def test_flush_interval(text: str) -> None:
    """The flush interval is passed on as nats-server writes it."""
    assert read(WINDSHIFT_NATS_SYNC=text).embedded.sync == text


def test_embedded(tmp_path: Path) -> None:
    """Data directory and program of the embedded server; the directory is made absolute."""
    program = tmp_path / "nats-server"
    program.touch(mode=0o755)
    config = read(WINDSHIFT_DATA_DIR="data", WINDSHIFT_NATS_SERVER=str(program))
    assert config.embedded.data_dir == Path.cwd() / "data"
    assert config.embedded.program == program


def test_drain_timeout() -> None:
    """The drain timeout is in seconds, fractions and 0 allowed."""
    assert read(WINDSHIFT_DRAIN_TIMEOUT="2.5").grpc.drain_timeout == timedelta(seconds=2.5)
    assert read(WINDSHIFT_DRAIN_TIMEOUT="0").grpc.drain_timeout == timedelta(0)


@pytest.mark.parametrize(
    ("text", "seconds"), [("60", 60), ("999", 999), ("1000", 1), ("60000", 60), ("0.5", 0.5)]
)
def test_telemetry_seconds_or_milliseconds(text: str, seconds: float) -> None:
    """From 1000 on a number is milliseconds, OpenTelemetry's own unit."""
    interval = read(OTEL_METRIC_EXPORT_INTERVAL=text).telemetry.metric_export.interval
    assert interval == timedelta(seconds=seconds)


WRONG = [
    ("DEVELOPMENT", "maybe", "true or false"),
    ("LOG_LEVEL", "loud", "one of debug, info, warning, error"),
    ("NATS_PUBLISH_ASYNC_MAX_PENDING", "0", "a whole number from 1 to 10000"),
    ("NATS_PUBLISH_ASYNC_MAX_PENDING", "10001", "a whole number from 1 to 10000"),
    ("NATS_TLS_FIRST", "always", "true or false"),
    ("GRPC_PORT", "http", "a whole number from 0 to 65535"),
    ("GRPC_PORT", "-1", "a whole number from 0 to 65535"),
    ("GRPC_PORT", "²", "a whole number from 0 to 65535"),
    ("HEALTH_PORT", "65536", "a whole number from 0 to 65535"),
    ("GRPC_HOST", "localhost:8080", "without a port"),
    ("HEALTH_HOST", "http://x", "without a port"),
    ("WINDSHIFT_NATS_SYNC", "1", "a duration such as 500ms, 1s or 2m, or always"),
    ("WINDSHIFT_NATS_SYNC", "0s", "a duration"),
    ("WINDSHIFT_NATS_SYNC", "-1s", "a duration"),
    ("WINDSHIFT_NATS_SYNC", "never", "a duration"),
    ("WINDSHIFT_DEFAULT_REPLICAS", "0", "a whole number from 1 to 5"),
    ("WINDSHIFT_DEFAULT_REPLICAS", "6", "a whole number from 1 to 5"),
    ("WINDSHIFT_DEFAULT_REPLICAS", "1.5", "a whole number from 1 to 5"),
    ("WINDSHIFT_DRAIN_TIMEOUT", "soon", "seconds from 0 to 3600"),
    ("WINDSHIFT_DRAIN_TIMEOUT", "-1", "seconds from 0 to 3600"),
    ("WINDSHIFT_DRAIN_TIMEOUT", "nan", "seconds from 0 to 3600"),
    ("WINDSHIFT_DRAIN_TIMEOUT", "inf", "seconds from 0 to 3600"),
    ("WINDSHIFT_INSECURE", "2", "true or false"),
    ("OTEL_PROPAGATORS", "tracecontext,pigeon", "some of tracecontext, baggage, none"),
    ("OTEL_PROPAGATORS", ",", "some of"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "-1", "seconds"),
    ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "x", "seconds"),
    ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "nan", "seconds"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "one of grpc, http/protobuf"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "0", "seconds"),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "one of none, gzip"),
    ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "x", "true or false"),
    ("OTEL_SDK_DISABLED", "x", "true or false"),
    ("OTEL_TRACES_EXPORTER", "zipkin", "one of otlp, none"),
    ("OTEL_LOGS_EXPORTER", "console", "one of otlp, none"),
    ("OTEL_TRACES_SAMPLER", "jaeger_remote", "one of always_on, always_off, traceidratio"),
    ("OTEL_BSP_SCHEDULE_DELAY", "5s", "milliseconds"),
    ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "a whole number from 1"),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0", "a whole number from 1"),
    ("OTEL_BSP_EXPORT_TIMEOUT", "x", "seconds"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "1m", "seconds"),
    ("OTEL_METRIC_EXPORT_TIMEOUT", "1m", "seconds"),
    ("OTEL_TRACING_LOG", "x", "true or false"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), WRONG)
def test_wrong_value(name: str, value: str, allowed: str) -> None:
    """A wrong value gives one line with the variable, the value and what is allowed."""
    (line,) = problems(**{name: value})
    assert line.startswith(f"{name}: {value!r} is not allowed; use ")
    assert allowed in line
    assert "\n" not in line


def test_replicas_need_a_cluster() -> None:
    """The embedded NATS is one server: with it nothing could ever be kept more than once."""
    (line,) = problems(WINDSHIFT_DEFAULT_REPLICAS="3")
    assert line.startswith("WINDSHIFT_DEFAULT_REPLICAS: 3 needs a cluster")
    assert read(WINDSHIFT_DEFAULT_REPLICAS="3", NATS_URL="a,b,c").nats.default_replicas == 3
    assert len(problems(WINDSHIFT_DEFAULT_REPLICAS="3", NATS_URL="http://x")) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NATS_URL", "http://me:s3cret@host"),
        ("NATS_URL", "nats://me:s3cret@host:port"),
        ("NATS_URL", "nats://me:s3cret@"),
        ("NATS_URL", "nats://ok,,nats://me:s3cret@ok"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "me:s3cret@collector:4317"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://me:s3cret@collector"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "s3cret"),
    ],
)
def test_wrong_url_hides_secrets(name: str, value: str) -> None:
    """A URL that may hold a password is not repeated."""
    (line,) = problems(**{name: value})
    assert line.startswith(f"{name}: ")
    assert "s3cret" not in line


@pytest.mark.parametrize(
    "name",
    [
        *("NATS_CREDS", "NATS_NKEY", "NATS_PASSWORD_FILE", "NATS_TLS_CA", "WINDSHIFT_AUTH_FILE"),
        *("GRPC_TLS_CERT", "GRPC_TLS_KEY", "GRPC_TLS_CLIENT_CA", "NATS_TLS_CERT", "NATS_TLS_KEY"),
    ],
)
def test_missing_file(name: str, tmp_path: Path) -> None:
    """A file that is not there, or a directory in its place, is told by name."""
    for wrong in (tmp_path / "absent", tmp_path):
        line = problems(**{name: str(wrong)})[0]
        assert line.startswith(f"{name}: cannot read the file '{wrong}'")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("GRPC_TLS_CERT", "GRPC_TLS_CERT: needs GRPC_TLS_KEY; set it too"),
        ("GRPC_TLS_KEY", "GRPC_TLS_KEY: needs GRPC_TLS_CERT; set it too"),
        ("GRPC_TLS_CLIENT_CA", "GRPC_TLS_CLIENT_CA: needs GRPC_TLS_CERT and GRPC_TLS_KEY; set them too"),
        ("NATS_TLS_CERT", "NATS_TLS_CERT: needs NATS_TLS_KEY; set it too"),
        ("NATS_TLS_KEY", "NATS_TLS_KEY: needs NATS_TLS_CERT; set it too"),
    ],
)
def test_half_a_pair(given: str, line: str, tmp_path: Path) -> None:
    """Certificate and key go together, and client certificates need both."""
    file = tmp_path / "file"
    file.touch()
    assert problems(NATS_URL="nats", **{given: str(file)}) == (line,)


def test_program_must_be_one(tmp_path: Path) -> None:
    """WINDSHIFT_NATS_SERVER names something that can be run."""
    plain = tmp_path / "plain"
    plain.touch(mode=0o644)
    assert problems(WINDSHIFT_NATS_SERVER=str(plain))[0].startswith("WINDSHIFT_NATS_SERVER: ")


def test_home_of_nobody() -> None:
    """A path below the home of an unknown user is told."""
    (line,) = problems(WINDSHIFT_DATA_DIR="~no-such-user/data")
    assert line.startswith("WINDSHIFT_DATA_DIR: '~no-such-user/data' is not allowed; use a path")


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home must name a data directory, unless there is no data to keep."""

    def no_home() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ConfigurationError, match=r"^WINDSHIFT_DATA_DIR: this user has no home"):
        config_from_environment({})
    assert config_from_environment({"WINDSHIFT_DATA_DIR": "/data"}).embedded.data_dir == Path("/data")
    assert config_from_environment({"NATS_URL": "nats://host"}).nats.servers


def test_same_port_twice() -> None:
    """API and probes cannot share a port."""
    assert problems(GRPC_PORT="8088") == ("HEALTH_PORT: 8088 is GRPC_PORT too; use another port",)


def test_authorization_file(tmp_path: Path) -> None:
    """The file that says who may do what is a path like others; nothing is read here."""
    file = tmp_path / "auth.toml"
    file.touch()
    assert read().auth.file is None
    assert read(WINDSHIFT_AUTH_FILE=str(file)).auth.file == file


OTHERS = [
    "0.0.0.0",  # noqa: S104 - nothing listens
    "::",
    "10.0.0.1",
    "::ffff:10.0.0.1",
    "fe80::1%eth0",
    "host",
    "localhost.example",
    "127.1",
]
"""Hosts that are, or may be, reached by other machines."""


@pytest.mark.parametrize("host", OTHERS)
def test_safe_start(host: str, tmp_path: Path) -> None:
    """Other machines are let in only where something says who may do what, or where that is meant."""
    (line,) = problems(GRPC_HOST=host)
    assert line == (
        f"GRPC_HOST: {host!r} may let other machines in, and nothing says who may do what; set "
        "WINDSHIFT_AUTH_FILE, or GRPC_HOST=127.0.0.1, or WINDSHIFT_INSECURE=true to let everybody who "
        "reaches the port do everything"
    )
    file = tmp_path / "file"
    file.touch()
    assert read(GRPC_HOST=host, WINDSHIFT_INSECURE="true").auth.insecure
    assert read(GRPC_HOST=host, WINDSHIFT_AUTH_FILE=str(file)).authorizes
    tls = {"GRPC_TLS_CERT": str(file), "GRPC_TLS_KEY": str(file)}
    assert problems(GRPC_HOST=host, **tls) == (line,)
    tls["GRPC_TLS_CLIENT_CA"] = str(file)
    assert read(GRPC_HOST=host, **tls).authorizes
    assert problems(GRPC_HOST=host, **tls, GRPC_TLS_CLIENT_AUTH="optional") == (line,)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost", "LocalHost"])
def test_loopback_is_safe(host: str) -> None:
    """This machine alone gets there."""
    config = read(GRPC_HOST=host)
    assert config.grpc.listen.loopback
    assert not config.authorizes


@pytest.mark.parametrize("host", OTHERS)
def test_probes_may_come_from_anywhere(host: str) -> None:
    """They can do nothing."""
    assert read(HEALTH_HOST=host).health == ListenConfig(host, 8088)


def test_all_problems_at_once() -> None:
    """Several wrong variables are told together, each on its own line."""
    lines = problems(GRPC_PORT="x", LOG_LEVEL="y", NATS_URL="ftp://z")
    assert sorted(line.partition(":")[0] for line in lines) == ["GRPC_PORT", "LOG_LEVEL", "NATS_URL"]
