"""The recipes of docs/sdk.md for messages of one's own, each run as it stands there, where its tool is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w+) title=\"?([^\n\"]+)\"?\n(.*?)^```", re.DOTALL | re.MULTILINE)
RECIPES = {title: text for _, title, text in BLOCK.findall((ROOT / "docs" / "sdk.md").read_text())}


def python_with_grpc_tools() -> Path | None:
    """Return the folder of an interpreter that has grpcio-tools."""
    for folder in (Path(sys.executable).parent, ROOT / ".venv-generate" / "bin"):
        command = [str(folder / "python"), "-c", "import grpc_tools"]
        if (folder / "python").exists() and not subprocess.run(
            command, check=False, stderr=subprocess.DEVNULL
        ).returncode:
            return folder
    return None


@pytest.mark.parametrize("tool", ["grpcio-tools", "protoc", "buf"])
def test_recipe(tool: str, tmp_path: Path) -> None:
    """The commands give a module whose message a payload can hold."""
    folders = [Path(sys.executable).parent]
    if tool != "protoc":
        folders.insert(0, python_with_grpc_tools() or pytest.skip("grpcio-tools is not installed"))
    path = os.pathsep.join([*map(str, folders), os.environ["PATH"]])
    if tool != "grpcio-tools" and shutil.which(tool, path=path) is None:
        pytest.skip(f"{tool} is not installed")
    (tmp_path / "src").mkdir()
    for title, text in RECIPES.items():
        if "/" in title or "." in title:
            (tmp_path / title).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / title).write_text(text)
    commands = "\n".join(line for line in RECIPES[tool].splitlines() if not line.startswith("pip "))
    subprocess.run(["sh", "-ec", commands], cwd=tmp_path, env={**os.environ, "PATH": path}, check=True)
    program = (
        "from acme.shop.v1.orders_pb2 import OrderPlaced\n"
        "from windshift.sdk.payloads import Payloads\n"
        "packed = Payloads().pack(OrderPlaced(order_id='7', cents=2**60 + 1))\n"
        "assert Payloads().unpack(packed).cents == 2**60 + 1\n"
        "print(packed.type_url)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, text=True, stdout=subprocess.PIPE
    )
    assert done.stdout == "type.googleapis.com/acme.shop.v1.OrderPlaced\n"
    assert (tmp_path / "src/acme/shop/v1/orders_pb2.pyi").exists()
