"""Stubs that users generate from the .proto files with grpcio-tools, beside the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.sdk.test_recipes import python_with_grpc_tools
from tests.support.app import running_app
from tests.support.nats_server import NatsServer

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import sys
getattr(sys.path, sys.argv[1])(*([0] if sys.argv[1] == "insert" else []), sys.argv[2])
import grpc
from windshift.events.v1alpha1 import service_pb2, service_pb2_grpc
import windshift as ws
from windshift.protos import events
assert service_pb2.EnsureStreamRequest is events.EnsureStreamRequest
with grpc.insecure_channel(sys.argv[3]) as channel:
    stub = service_pb2_grpc.EventsServiceStub(channel)
    request = service_pb2.EnsureStreamRequest(name=sys.argv[4], subjects={"subjects": [sys.argv[4]]})
    print(type(stub.EnsureStream(request, timeout=20)).__name__)
with ws.sync.connect(sys.argv[3]) as client:
    client.stream(sys.argv[4]).delete()
"""


@pytest.mark.parametrize("messages", [False, True], ids=["stubs", "stubs and messages"])
@pytest.mark.parametrize("order", ["insert", "append"])
def test_generated_stubs_live_beside_the_package(
    nats_server: NatsServer, tmp_path: Path, order: str, messages: bool
) -> None:
    """They import, before the package on the import path or behind it, and share its messages."""
    tools = python_with_grpc_tools() or pytest.skip("grpcio-tools is not installed")
    protos = sorted(str(path.relative_to(ROOT / "proto")) for path in ROOT.glob("proto/windshift/**/*.proto"))
    outs = [f"--grpc_python_out={tmp_path}", *([f"--python_out={tmp_path}"] if messages else [])]
    command = [str(tools / "python"), "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", *outs, *protos]
    subprocess.run(command, check=True)
    with running_app(nats_server.url) as address:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, order, str(tmp_path), address, f"stubs-{order}-{messages}"],
            check=True,
            text=True,
            stdout=subprocess.PIPE,
        )
    assert done.stdout == "EnsureStreamResponse\n"
