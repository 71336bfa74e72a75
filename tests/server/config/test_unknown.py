"""Variables that are ours by their names: misspelt, empty, of clients, of Kubernetes."""

from __future__ import annotations

from pathlib import Path

import pytest

from windshift.server.config.read import config_from_environment
from windshift.server.config.settings import ConfigurationError
from windshift.server.config.tree import SETTINGS


def problems(**environment: str) -> list[str]:
    """Return what is said about an environment with these variables."""
    try:
        config_from_environment({"HOME": "/", **environment})
    except ConfigurationError as error:
        return list(error.problems)
    return []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("WINDSHIFT_AUTHFILE", "WINDSHIFT_AUTH_FILE"),
        ("WINDSHIFT_AUTH_FLIE", "WINDSHIFT_AUTH_FILE"),
        ("WINDSHIFT_AUTHORIZATION_FILE", "WINDSHIFT_AUTH_FILE"),
        ("windshift_auth_file", "WINDSHIFT_AUTH_FILE"),
        ("WINDSHIFT-AUTH-FILE", "WINDSHIFT_AUTH_FILE"),
        ("WINDSHFIT_AUTH_FILE", "WINDSHIFT_AUTH_FILE"),
        ("WINSHIFT_AUTH_FILE", "WINDSHIFT_AUTH_FILE"),
        ("WIND_SHIFT_AUTH_FILE", "WINDSHIFT_AUTH_FILE"),
        ("WINDSHIFT_DATADIR", "WINDSHIFT_DATA_DIR"),
        ("WINDSHIFT_NATS_URL", "NATS_URL"),
        ("WINDSHIFT_GRPC_PORT", "GRPC_PORT"),
        ("WINDSHIFT_PORT", "GRPC_PORT"),
        ("WINDSHIFT_TOKN", "WINDSHIFT_TOKEN"),
    ],
)
@pytest.mark.parametrize("value", ["1", ""])
def test_misspelt(name: str, meant: str, value: str) -> None:
    """It is named, with what was probably meant, whatever its value."""
    assert problems(**{name: value}) == [f"{name}: there is no such setting; did you mean {meant}?"]


@pytest.mark.parametrize("name", ["WINDSHIFT_XYZZY", "WINDSHIFT_", "WINDSHIFT_TEST_FUZZ"])
def test_like_nothing(name: str) -> None:
    """Where nothing is alike, it is said where all of them are listed."""
    (problem,) = problems(**{name: "1"})
    assert problem.startswith(f"{name}: there is no such setting")
    assert "--help" in problem


@pytest.mark.parametrize("name", [name for name in SETTINGS if name.startswith("WINDSHIFT_")])
@pytest.mark.parametrize("blank", ["", "  "])
def test_empty(name: str, blank: str) -> None:
    """One of ours that is set, and empty, is an error."""
    assert problems(**{name: blank}) == [f"{name}: it is set, and empty; give it a value, or unset it"]


@pytest.mark.parametrize("name", [name for name in SETTINGS if name.startswith(("GRPC_TLS_", "NATS_"))])
@pytest.mark.parametrize("blank", ["", "  "])
def test_empty_where_others_would_be_let_in(name: str, blank: str) -> None:
    """No open server and no embedded NATS takes the place of what a forgotten value would have said."""
    assert problems(**{name: blank}) == [f"{name}: it is set, and empty; give it a value, or unset it"]


ANY = "0.0.0.0"  # noqa: S104 - nothing listens


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("WINDSHIFT_TLS_CERT", "GRPC_TLS_CERT"),
        ("WINDSHIFT_TLS_KEY", "GRPC_TLS_KEY"),
        ("WINDSHIFT_TLS_CA", "GRPC_TLS_CLIENT_CA"),
    ],
)
@pytest.mark.parametrize("value", ["file.pem", ""])
def test_tls_of_clients(name: str, meant: str, value: str, tmp_path: Path) -> None:
    """A server for others that has no such file refuses it; on loopback it is that of a client."""
    others = {"GRPC_HOST": ANY, "WINDSHIFT_INSECURE": "true"}
    told = [f"{name}: only clients read it; did you mean {meant}? If not, unset it"]
    assert problems(**others, **{name: value}) == told
    assert problems(**{name: value}) == []
    file = tmp_path / "file"
    file.touch()
    files = dict.fromkeys(("GRPC_TLS_CERT", "GRPC_TLS_KEY", "GRPC_TLS_CLIENT_CA"), str(file))
    assert problems(**others, **files, **{name: value}) == []


def test_all_are_told_at_once() -> None:
    """Wrong names and wrong values are said together."""
    wrong = {"WINDSHIFT_AUTHFILE": "x", "WINDSHIFT_DATADIR": "x", "WINDSHIFT_INSECURE": "", "GRPC_PORT": "x"}
    assert {each.partition(":")[0] for each in problems(**wrong)} == set(wrong)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WINDSHIFT_SERVICE_HOST", "10.0.0.1"),
        ("WINDSHIFT_SERVICE_PORT", "8080"),
        ("WINDSHIFT_SERVICE_PORT_GRPC", "8080"),
        ("WINDSHIFT_PORT", "tcp://10.0.0.1:8080"),
        ("WINDSHIFT_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("WINDSHIFT_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("WINDSHIFT_PORT_8080_TCP_PORT", "8080"),
        ("WINDSHIFT_PORT_8080_TCP_PROTO", "tcp"),
        ("WINDSHIFT_HEADLESS_SERVICE_HOST", "10.0.0.1"),
        ("WINDSHIFT_HEADLESS_SERVICE_PORT", "8088"),
        ("WINDSHIFT_HEADLESS_PORT", "tcp://10.0.0.1:8088"),
        ("WINDSHIFT_HEADLESS_PORT_8088_TCP", "tcp://10.0.0.1:8088"),
        ("WINDSHIFT_HEADLESS_PORT_8088_TCP_ADDR", "10.0.0.1"),
        ("WINDSHIFT_AUTH_SERVICE_HOST", "10.0.0.1"),
        ("WINDSHIFT_ADDRESS", "127.0.0.1:8080"),
        ("WINDSHIFT_TOKEN", ""),
        ("WINDSHIFT_TLS_CA", "ca.pem"),
        ("WINDSHIFT", "1"),
        ("WINDOWID", "1"),
        ("WINDOWS_TRACING_FLAGS", "1"),
        ("WAYLAND_DISPLAY", "wayland-0"),
    ],
)
def test_those_of_others(name: str, value: str) -> None:
    """What Kubernetes puts there, what clients read, and what only looks alike is left alone."""
    assert problems(**{name: value}) == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("GRPC_TLS_CRT", "GRPC_TLS_CERT"),
        ("GRPC_PROT", "GRPC_PORT"),
        ("GRPC_TLS_CLIENTCA", "GRPC_TLS_CLIENT_CA"),
        ("GRPC_TLS_CA", "GRPC_TLS_CLIENT_CA"),
        ("GRPC_TLS_CA_FILE", "GRPC_TLS_CLIENT_CA"),
        ("GRPC_MTLS_CA", "GRPC_TLS_CLIENT_CA"),
        ("GRPC_CA", "GRPC_TLS_CLIENT_CA"),
        ("GRPC_CERT", "GRPC_TLS_CERT"),
        ("GRPC_SSL_CERT", "GRPC_TLS_CERT"),
        ("GRPC_SERVER_KEY", "GRPC_TLS_KEY"),
        ("GRPC_TLS_PRIVATE_KEY", "GRPC_TLS_KEY"),
        ("GRPC_CLIENT_CA_FILE", "GRPC_TLS_CLIENT_CA"),
        ("GRPC_CLIENT_CA_CERT", "GRPC_TLS_CLIENT_CA"),
        ("GRPC_CA_CERT", "GRPC_TLS_CLIENT_CA"),
        ("GRPC_CACERT", "GRPC_TLS_CLIENT_CA"),
        ("GRPC_TRUSTED_CA", "GRPC_TLS_CLIENT_CA"),
        ("GRPC_REQUIRE_CLIENT_CERT", "GRPC_TLS_CLIENT_CA"),
        ("GRPC_CERTFILE", "GRPC_TLS_CERT"),
        ("GRPC_CRT", "GRPC_TLS_CERT"),
        ("GRPC_KEYFILE", "GRPC_TLS_KEY"),
        ("GRPC_SSL", "GRPC_TLS_KEY"),
        ("grpc_tls_cert", "GRPC_TLS_CERT"),
        ("GRPC_MAX_CONNECTIONS_PER_ADRESS", "GRPC_MAX_CONNECTIONS_PER_ADDRESS"),
        ("HEALTH_PORTS", "HEALTH_PORT"),
        ("NATS_URLS", "NATS_URL"),
        ("NATS_URI", "NATS_URL"),
        ("NATS_ULR", "NATS_URL"),
        ("nats_url", "NATS_URL"),
        ("NATS_SERVERS", "NATS_URL"),
        ("NATS_SERVER_URL", "NATS_URL"),
        ("NATS_CREDENTIALS_FILE", "NATS_CREDS"),
        ("NATS_CREDS_FILE", "NATS_CREDS"),
        ("NATS_NKEY_FILE", "NATS_NKEY"),
        ("NATS_PASSWD_PATH", "NATS_PASSWORD_FILE"),
        ("NATS_SSL_CA", "NATS_TLS_CA"),
        ("NATS_ROOT_CA", "NATS_TLS_CA"),
        ("NATS_CRED", "NATS_CREDS"),
        ("NATS_CREDENTIALS", "NATS_CREDS"),
        ("NATS_TLS_CERTS", "NATS_TLS_CERT"),
        ("NATS_TLS_CA_CERT", "NATS_TLS_CA"),
        ("OTEL_EXPORTER_OTLP_ENDPONT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("OTEL_TRACE_SAMPLER", "OTEL_TRACES_SAMPLER"),
    ],
)
@pytest.mark.parametrize("value", ["1", ""])
def test_misspelt_in_a_family_that_others_share(name: str, meant: str, value: str) -> None:
    """What is nearly one of ours is named, with what was probably meant."""
    assert problems(**{name: value}) == [f"{name}: there is no such setting; did you mean {meant}?"]


@pytest.mark.parametrize(
    "name",
    [
        "GRPC_VERBOSITY",
        "GRPC_TRACE",
        "GRPC_DNS_RESOLVER",
        "GRPC_EXPERIMENTS",
        "GRPC_POLL_STRATEGY",
        "GRPC_ENABLE_FORK_SUPPORT",
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
        "GRPC_NOT_USE_SYSTEM_SSL_ROOTS",
        "GRPC_SYSTEM_SSL_ROOTS_DIR",
        "GRPC_SSL_CIPHER_SUITES",
        "GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS",
        "GRPC_XDS_BOOTSTRAP",
        "GRPC_GO_LOG_SEVERITY_LEVEL",
        "GRPC_PYTHON_BUILD_WITH_CYTHON",
        "GRPC_API_KEY",
        "GRPC_CLIENT_CERT",
        "GRPC_CLIENT_KEY_FILE",
        "GRPC_CLIENT_TLS_CERT",
        "grpc_proxy",
        "NATS_SERVER",
        "NATS_SERVER_CERT",
        "nats_context",
        "NATS_USER",
        "NATS_PASSWORD",
        "NATS_CONTEXT",
        "NATS_KEY",
        "NATS_CERT",
        "NATS_CA",
        "NATS_WINDSHIFT_PASSWORD",
        "OTEL_LOG_LEVEL",
        "OTEL_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_BLRP_SCHEDULE_DELAY",
        "OTEL_METRICS_EXEMPLAR_FILTER",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        "OTEL_EXPORTER_ZIPKIN_ENDPOINT",
        "OTEL_EXPORTER_PROMETHEUS_PORT",
        "OTEL_PYTHON_LOG_CORRELATION",
        "OTEL_SEMCONV_STABILITY_OPT_IN",
        "HEALTH_CHECK_INTERVAL",
        "NATS_SERVICE_HOST",
        "NATS_SERVICE_PORT_CLIENT",
        "NATS_PORT_4222_TCP_ADDR",
        "GRPC_SERVICE_PORT",
        "OTEL_COLLECTOR_SERVICE_HOST",
    ],
)
def test_variables_of_others(name: str) -> None:
    """Those of gRPC, OpenTelemetry, NATS's tools and Kubernetes are left alone."""
    assert problems(**{name: "1"}) == []


def test_the_url_that_kubernetes_sets_for_a_service() -> None:
    """It is left alone where it is no setting of ours."""
    assert problems(NATS_PORT="tcp://10.0.0.1:4222", HEALTH_API_PORT="tcp://10.0.0.1:80") == []
