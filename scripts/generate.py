"""Generate the committed protobuf code, or check that it is what the .proto files give.

Run it with the interpreter of `.venv-generate`, which `make generate` sets up from requirements/generate.txt:
the generator is pinned and older than the runtime on purpose.

    generate.py           write the generated code
    generate.py --check   exit 1 when the committed code differs from what would be written
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"


@dataclass(frozen=True, slots=True)
class Tree:
    """One folder of .proto files and the package that their code goes to."""

    protos: Path
    """Root that the names of the files are relative to."""
    only: str
    """Top folder below `protos` that is generated."""
    package: Path
    """Folder of the package that receives the code, relative to `root`."""
    root: Path
    """Folder that the package's import name starts at."""
    private_pool: bool = False
    """Give each file a descriptor pool of its own instead of the process-wide default one."""
    aliases: bool = False
    """Make the modules importable also where generated code of others looks for them, `root` / `only`."""


TREES = (
    # The stubs that grpcio-tools generates (`*_pb2_grpc.py`) import `windshift.events.v1alpha1.service_pb2`.
    Tree(ROOT / "proto", "windshift", Path("windshift/_gen"), ROOT / "src", aliases=True),
    # gRPC's own services get pools of their own: their official Python packages register the same names from
    # other files, with other contents from version to version, and the default pool holds a name only once.
    Tree(ROOT / "proto", "grpc", Path("windshift/rpc/_gen"), ROOT / "src", private_pool=True),
    Tree(ROOT / "tests/proto", "grpc", Path("tests/_gen"), ROOT),
    Tree(ROOT / "examples/orders/proto", "shop", Path("examples/orders/_gen"), ROOT),
)


def generate(tree: Tree, out: Path) -> None:
    """Write the code of `tree` below `out`, which stands for the folder of the package."""
    files = sorted(str(path.relative_to(tree.protos)) for path in (tree.protos / tree.only).rglob("*.proto"))
    paths = [f"-I{tree.protos}", f"-I{WELL_KNOWN}"]
    if protoc.main(["protoc", *paths, f"--python_out={out}", f"--pyi_out={out}", *files]) != 0:
        raise SystemExit("generate: protoc failed, see above")
    for path in [*out.rglob("*_pb2.py"), *out.rglob("*_pb2.pyi")]:
        depth = len(path.relative_to(out).parts)
        path.write_text(adapt(path.read_text(), tree, "." * depth))
    for folder in [out, *(path for path in out.rglob("*") if path.is_dir())]:
        (folder / "__init__.py").touch()


def adapt(text: str, tree: Tree, root: str) -> str:
    """Make generated code work at the place of `tree`, which is not at the top of the import path.

    `root` is the relative import of the folder that the code stands in.
    """
    module = ".".join(tree.package.parts)
    text = re.sub(rf"(?m)^from (?={tree.only}\.[\w.]+ import \w+_pb2)", f"from {root}", text)
    text = text.replace(f"(DESCRIPTOR, '{tree.only}.", f"(DESCRIPTOR, '{module}.{tree.only}.")
    if tree.private_pool:
        text = text.replace("_descriptor_pool.Default()", "_descriptor_pool.DescriptorPool()")
    return text


def aliases(tree: Tree, out: Path) -> dict[Path, str]:
    """Return the modules that hand on those of `tree`, whose code is below `out`.

    Their folders are no packages of their own, so that generated code of others can lie beside them.
    """
    names = (path.relative_to(out) for path in out.rglob("*_pb2.py") if tree.aliases)
    return {
        tree.root / name: (
            f'"""The messages of {name.with_suffix("").as_posix().removesuffix("_pb2")}.proto, '
            'for generated code that imports them from here."""\n\n'
            "# Written by `make generate`. Do not edit.\n\n"
            f"from {'.'.join((*tree.package.parts, *name.with_suffix('').parts))} import *\n"
        )
        for name in names
    }


def generated(folder: Path) -> Iterator[Path]:
    """Yield the relative names of the files in a folder of generated code."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in {".py", ".pyi"}:
            yield path.relative_to(folder)


def install(new: Path, target: Path) -> None:
    """Replace the generated code in `target` by that in `new`."""
    for name in set(generated(target)) - set(generated(new)):
        (target / name).unlink()
    for name in generated(new):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes((new / name).read_bytes())


def differences(new: Path, target: Path) -> list[Path]:
    """Return the files that are missing, superfluous or different in `target`."""
    names = set(generated(new)) | set(generated(target))

    def content(path: Path) -> bytes | None:
        return path.read_bytes() if path.exists() else None

    return sorted(target / name for name in names if content(new / name) != content(target / name))


def importable(tree: Tree) -> bool:
    """Tell whether this environment's protobuf, the oldest supported, can import the committed code."""
    package = tree.root / tree.package
    names = [".".join(path.with_suffix("").parts) for path in generated(package) if path.suffix == ".py"]
    program = f"import importlib; [importlib.import_module('_gen.' + name) for name in {names}]"
    path = {**os.environ, "PYTHONPATH": str(package.parent)}
    return (
        subprocess.run([sys.executable, "-W", "error", "-c", program], env=path, check=False).returncode == 0
    )


def main(arguments: list[str]) -> int:
    """Generate or check every tree and return the exit status."""
    stale: list[Path] = []
    for tree in TREES:
        target = tree.root / tree.package
        with tempfile.TemporaryDirectory() as folder:
            generate(tree, Path(folder))
            handed_on = aliases(tree, Path(folder))
            if "--check" in arguments:
                stale += differences(Path(folder), target)
                stale += [
                    path for path, text in handed_on.items() if not path.exists() or path.read_text() != text
                ]
            else:
                install(Path(folder), target)
                for path, text in handed_on.items():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(text)
        if not importable(tree):
            print(
                f"{tree.package}: the oldest supported protobuf cannot import this, see above.",
                file=sys.stderr,
            )
            return 1
    for path in stale:
        print(f"stale: {path.relative_to(ROOT)}", file=sys.stderr)
    if stale:
        print("The committed code is not what the .proto files give: run `make generate`.", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
