"""Write those pages of the site that tell what the code has: the API, from the .proto files, and the errors.

    reference.py FOLDER

A page for each .proto file goes to FOLDER/api, one of the errors to FOLDER/errors.md. Exits with 1 when a
service, a method, a message, a field, an enum or a value has no comment.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

from windshift.sdk import errors as sdk_errors
from windshift.server.api.errors import CODES
from windshift.server.domain import errors as domain_errors

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

_SYNTAX = (FileDescriptorProto.SYNTAX_FIELD_NUMBER,)
_MESSAGE = FileDescriptorProto.MESSAGE_TYPE_FIELD_NUMBER
_ENUM = FileDescriptorProto.ENUM_TYPE_FIELD_NUMBER
_SERVICE = FileDescriptorProto.SERVICE_FIELD_NUMBER
_METHOD = ServiceDescriptorProto.METHOD_FIELD_NUMBER
_FIELD = DescriptorProto.FIELD_FIELD_NUMBER
_NESTED_MESSAGE = DescriptorProto.NESTED_TYPE_FIELD_NUMBER
_NESTED_ENUM = DescriptorProto.ENUM_TYPE_FIELD_NUMBER
_VALUE = EnumDescriptorProto.VALUE_FIELD_NUMBER

Path_ = tuple[int, ...]


def page_of(proto: str) -> str:
    """Return the page of a .proto file: `windshift/events/v1alpha1/service.proto` has `events.md`."""
    parts = Path(proto).with_suffix("").parts
    return f"{parts[1] if parts[-1] in {'service', parts[1]} else parts[-1]}.md"


@dataclass(slots=True)
class Page:
    """The page of one .proto file."""

    file: FileDescriptorProto
    pages: dict[str, str]
    """Page of each message and enum, by its full name with a dot before it."""
    comments: dict[Path_, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    """What has no comment."""

    def __post_init__(self) -> None:
        for location in self.file.source_code_info.location:
            above = "".join(location.leading_detached_comments) + location.leading_comments
            self.comments[tuple(location.path)] = above

    def lines(self) -> Iterator[str]:
        """Yield the page, paragraph by paragraph."""
        services = [service.name for service in self.file.service]
        yield f"# {', '.join(services) or self.file.package}"
        yield _text(self.comments.get(_SYNTAX, ""))
        for number, service in enumerate(self.file.service):
            yield from self.service(service, (_SERVICE, number))
        if self.file.message_type or self.file.enum_type:
            yield "## Messages"
        for number, message in enumerate(self.file.message_type):
            yield from self.message(message, "", (_MESSAGE, number))
        for number, enum in enumerate(self.file.enum_type):
            yield from self.enum(enum, "", (_ENUM, number))

    def comment(self, what: str, path: Path_) -> str:
        """Return the comment of something."""
        found = _text(self.comments.get(path, ""))
        if not found:
            self.missing.append(f"{self.file.name}: {what} has no comment")
        return found

    def service(self, service: ServiceDescriptorProto, path: Path_) -> Iterator[str]:
        """Yield a service and its methods."""
        yield f"## {service.name} {{ #{service.name} }}"
        yield f"`{self.file.package}.{service.name}`: {self.comment(service.name, path)}"
        for number, method in enumerate(service.method):
            name = f"{service.name}.{method.name}"
            yield f"### {method.name} {{ #{name} }}"
            sent = self.link(method.input_type, repeated="stream " if method.client_streaming else "")
            answered = self.link(method.output_type, repeated="stream " if method.server_streaming else "")
            yield f"{sent} → {answered}"
            yield self.comment(name, (*path, _METHOD, number))

    def message(self, message: DescriptorProto, outer: str, path: Path_) -> Iterator[str]:
        """Yield a message, its fields, and what is nested in it."""
        name = f"{outer}{message.name}"
        yield f"### {name} {{ #{name} }}"
        yield self.comment(name, path)
        rows = ["| field | number | type | |", "|---|---|---|---|"]
        for number, each in enumerate(message.field):
            meaning = self.comment(f"{name}.{each.name}", (*path, _FIELD, number))
            cells = (f"`{each.name}`", str(each.number), self.type_of(message, each), _cell(meaning))
            rows.append(f"| {' | '.join(cells)} |")
        if message.field:
            yield "\n".join(rows)
        for number, nested in enumerate(message.nested_type):
            if nested.options.map_entry:
                continue
            yield from self.message(nested, f"{name}.", (*path, _NESTED_MESSAGE, number))
        for number, enum in enumerate(message.enum_type):
            yield from self.enum(enum, f"{name}.", (*path, _NESTED_ENUM, number))

    def enum(self, enum: EnumDescriptorProto, outer: str, path: Path_) -> Iterator[str]:
        """Yield an enum and its values."""
        name = f"{outer}{enum.name}"
        yield f"### {name} {{ #{name} }}"
        yield self.comment(name, path)
        rows = ["| value | number | |", "|---|---|---|"]
        for number, value in enumerate(enum.value):
            meaning = self.comment(f"{name}.{value.name}", (*path, _VALUE, number))
            rows.append(f"| `{value.name}` | {value.number} | {_cell(meaning)} |")
        yield "\n".join(rows)

    def type_of(self, message: DescriptorProto, each: FieldDescriptorProto) -> str:
        """Return the type of a field, with a link to what has one, and the oneof that it is in."""
        repeated = "repeated " if each.label == each.LABEL_REPEATED else ""
        if each.proto3_optional:
            repeated = "optional "
        if each.type_name.endswith("Entry"):  # a map, which is a repeated message to the compiler
            return "`map<string, string>`"
        scalar = FieldDescriptorProto.Type.Name(each.type).removeprefix("TYPE_").lower()
        shown = self.link(each.type_name, repeated) if each.type_name else f"{repeated}`{scalar}`"
        if each.HasField("oneof_index") and not each.proto3_optional:
            shown += f", one of `{message.oneof_decl[each.oneof_index].name}`"
        return shown

    def link(self, full_name: str, repeated: str = "") -> str:
        """Return the name of a message or enum, with a link if it has a page."""
        short = full_name.removeprefix(f".{self.file.package}.").removeprefix(".")
        page = self.pages.get(full_name)
        if page is None:
            return f"{repeated}`{short}`"
        anchor = full_name.removeprefix(".").split(".", 3)[-1]
        return f"{repeated}[`{short}`]({page}#{anchor})"


def _text(comment: str) -> str:
    lines = (line.removeprefix(" ") for line in comment.strip("\n").splitlines())
    return "\n".join(lines).replace("<", "&lt;").strip()


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def descriptors() -> FileDescriptorSet:
    """Compile the .proto files, with their comments."""
    done = subprocess.run(
        [BIN / "buf", "build", "proto", "-o", "-#format=binpb"], cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    return FileDescriptorSet.FromString(done.stdout)


def named(file: FileDescriptorProto) -> Iterator[str]:
    """Yield the full names of all messages and enums of a file, with a dot before them."""

    def below(message: DescriptorProto, outer: str) -> Iterator[str]:
        yield f"{outer}.{message.name}"
        yield from (f"{outer}.{message.name}.{enum.name}" for enum in message.enum_type)
        for nested in message.nested_type:
            yield from below(nested, f"{outer}.{message.name}")

    yield from (f".{file.package}.{enum.name}" for enum in file.enum_type)
    for message in file.message_type:
        yield from below(message, f".{file.package}")


def api(folder: Path) -> list[str]:
    """Write the pages of the API, and return what has no comment."""
    files = [file for file in descriptors().file if file.package.startswith("windshift.")]
    pages = {name: page_of(file.name) for file in files for name in named(file)}
    missing = []
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        page = Page(file, pages)
        (folder / page_of(file.name)).write_text("\n\n".join(page.lines()) + "\n")
        missing += page.missing
    return missing


_ERRORS = """\
# Errors

A call that fails has a gRPC status. Its details (`grpc-status-details-bin`) hold a `google.rpc.ErrorInfo`
with the domain `windshift`, the `reason` from this table and `metadata` with what the text names;
INVALID_ARGUMENT about a field has a `google.rpc.BadRequest` beside it. Reasons are stable: programs decide
by them. The text is for people and may change.

The [Python library](python/errors.md) raises the class in the last column.
The [pages about languages](../languages/index.md) show how other clients read the reason.

| reason | code | what happened | in Python |
|---|---|---|---|
"""


def errors() -> str:
    """Return the page of the errors."""
    described = {
        vars(each)["reason"]: inspect.cleandoc(each.__doc__ or "").partition("\n\n")[0]
        for each in vars(domain_errors).values()
        if inspect.isclass(each) and "reason" in vars(each)
    }
    rows = []
    for reason, code in CODES.items():
        known = sdk_errors._BY_REASON.get(reason)  # noqa: SLF001 -- the one table that there is
        name = f"[`ws.{known.__name__}`][windshift.{known.__name__}]" if known else ""
        rows.append(f"| `{reason}` | {code.name} | {_cell(described.get(reason, ''))} | {name} |")
    return _ERRORS + "\n".join(rows) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write the pages and return the exit status."""
    folder = Path(arguments[0])
    missing = api(folder / "api")
    (folder / "errors.md").write_text(errors())
    print("\n".join(missing), end="\n" if missing else "", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
