"""The C# example uses names that protoc generates: where there is no .NET, nothing else would notice."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = (ROOT / "examples" / "languages" / "csharp" / "Program.cs").read_text()

VARIABLES = {
    "confirmation": "EventsResponse.Types.AckConfirmation",
    "delivered": "Event",
    "info": "ErrorInfo",
    "read": "GetResponse",
    "receipt": "PublishEventResponse",
    "response": "EventsResponse",
    "write": "SetRequest",
    "written": "SetResponse",
}
"""What the example's variables hold, as far as that is generated."""
UNPACKED = r"var (\w+) = \w+\.Data\.Unpack<(\w+)>\(\)"
OTHERS = {"call", "error", "handler", "metadata", "options", "policy", "string"}
"""Its variables that hold something else."""
DOTNET = {"Names", "RetryPolicy", "RetryableStatusCodes"}
"""Members of the classes of gRPC's library, where the example does not name the class."""


@dataclass(slots=True)
class Generated:
    """What protoc makes of .proto files for C#, by its rules for names.

    Attributes:
        namespaces: of all files.
        classes: the class of each property, or "", by the names of their classes, nested ones behind `Types`.
        calls: the methods of each service's client.
    """

    namespaces: set[str] = field(default_factory=set)
    classes: dict[str, dict[str, str]] = field(default_factory=dict)
    calls: dict[str, set[str]] = field(default_factory=dict)

    def add(self, file: FileDescriptorProto) -> None:
        """Add what a file is compiled to."""
        self.namespaces.add(file.options.csharp_namespace)
        for message in file.message_type:
            self._add_message(message, message.name, file.package)
        for service in file.service:
            self.calls[service.name] = {
                method.name if method.client_streaming or method.server_streaming else f"{method.name}Async"
                for method in service.method
            }

    def _add_message(self, message: DescriptorProto, name: str, package: str) -> None:
        self.classes[name] = {
            property_name(each.name, message.name): class_of(each.type_name, package)
            for each in message.field
        }
        for nested in message.nested_type:
            self._add_message(nested, f"{name}.Types.{nested.name}", package)


def property_name(name: str, message: str) -> str:
    """Return the property of a field; with `_` where its class, or what all classes have, is called so."""
    pascal = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    return f"{pascal}_" if pascal in {message, "Types", "Descriptor"} else pascal


def class_of(full_name: str, package: str) -> str:
    """Return the class of a message of this package; "" for anything else."""
    return ".Types.".join(full_name.removeprefix(f".{package}.").split(".")) if package in full_name else ""


@pytest.fixture(scope="module")
def generated() -> Generated:
    """Compile what the project file of the example names, and the types of errors."""
    found = Generated()
    for folder in ("proto", "examples/languages/proto"):
        command = [str(Path(sys.executable).with_name("buf")), "build", folder, "-o", "-#format=binpb"]
        built = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
        for file in FileDescriptorSet.FromString(built).file:
            if file.package.startswith(("windshift.events.", "windshift.state.", "shop.", "google.rpc")):
                found.add(file)
    return found


def initializers(text: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield each `new Type { … }` or `new() { … }`: the type, and what is set, with `new()` if it is that."""
    for found in re.finditer(r"\bnew(?: (\w+(?:\.\w+)*))?(?:\(\))?\s*\{", text):
        inside, depth, end = [], 1, found.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            inside.append(text[end] if depth == 1 else " ")
            end += 1
        yield found[1] or "", re.findall(r"(\w+) = (new\(\))?", "".join(inside))


def test_using_directives_name_what_is_generated(generated: Generated) -> None:
    """Each namespace of ours that the example uses is that of a file."""
    used = set(re.findall(r"^using ((?:Windshift|Shop)\..*);$", EXAMPLE, re.MULTILINE))
    assert used
    assert used <= generated.namespaces


def test_objects_are_made_with_properties_that_there_are(generated: Generated) -> None:
    """Of each class that is generated; an object without a named class is that of some property."""
    ours = [(name, members) for name, members in initializers(EXAMPLE) if name in generated.classes]
    assert len(ours) > 5
    for name, members in ours:
        assert {member for member, _ in members} <= generated.classes[name].keys(), name
        assert all(generated.classes[name][member] for member, made in members if made), name
    properties = set().union(*generated.classes.values())
    unnamed = [members for name, members in initializers(EXAMPLE) if not name]
    assert {member for members in unnamed for member, _ in members} <= properties | DOTNET


def test_members_are_those_of_the_classes(generated: Generated) -> None:
    """What the example reads and writes of an object is a property, or clears one."""
    unpacked: dict[str, str] = dict(re.findall(UNPACKED, EXAMPLE))
    holds = VARIABLES | unpacked
    used = re.findall(r"(?<![.\w])([a-z]\w*)\??\.([A-Z]\w*)", EXAMPLE)
    known = holds.keys() | OTHERS | {"events", "state", "channel"}
    assert {variable for variable, _ in used} <= known
    for variable, member in used:
        if variable in holds:
            properties = generated.classes[holds[variable]]
            assert member.removeprefix("Clear") in properties, (variable, member)


def test_methods_are_those_of_the_services(generated: Generated) -> None:
    """Clients are those of services, and what is called is a method of the API."""
    clients = set(re.findall(r"(\w+)\.\1Client (\w+)\)", EXAMPLE))
    assert {name for _, name in clients} == {"events", "state"}
    for service, variable in clients:
        assert set(re.findall(rf"\b{variable}\.(\w+)\(", EXAMPLE)) <= generated.calls[service]
