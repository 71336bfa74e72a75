"""Write the types of the synchronous client, src/windshift/sdk/sync.pyi, or check that they are up to date.

They are those of the asynchronous client without what waits: what `windshift.sdk.facade` does at run time,
done to the signatures in the source.

    sync.py           write the stub
    sync.py --check   exit 1 when it is not what the code gives
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SDK = ROOT / "src" / "windshift" / "sdk"
STUB = SDK / "sync.pyi"

HEADER = '''\
"""The client without asyncio: `ws.sync.connect()`. Same names, no `await`; see docs/sdk.md."""

# Written by `make generate` from the asynchronous code. Do not edit.

'''
PLAIN = {
    "AsyncIterator": "Iterator",
    "AbstractAsyncContextManager": "AbstractContextManager",
    "AsyncGenerator": "Generator",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
}
IMPORTS = {
    "Iterator": "from collections.abc import Iterator",
    "Callable": "from collections.abc import Callable",
    "Any": "from typing import Any",
    "AbstractContextManager": "from contextlib import AbstractContextManager",
    "Future": "from concurrent.futures import Future",
    "overload": "from typing import overload",
    "TypeVar": "from typing import TypeVar",
}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Module:
    """A module of the asynchronous client."""

    def __init__(self, path: Path) -> None:
        self.name = f"windshift.sdk.{path.stem}"
        self.tree = ast.parse(path.read_text())
        self.classes = {node.name: node for node in self.tree.body if isinstance(node, ast.ClassDef)}
        self.imports: dict[str, str] = {}
        self.variables: dict[str, str] = {}
        for node in statements(self.tree):
            if isinstance(node, ast.ImportFrom):
                origin = f"windshift.sdk.{node.module}" if node.level else node.module
                for each in node.names:
                    suffix = f" as {each.asname}" if each.asname else ""
                    self.imports[each.asname or each.name] = f"from {origin} import {each.name}{suffix}"
            elif isinstance(node, ast.Import):
                self.imports.update({each.name: f"import {each.name}" for each in node.names})
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                if isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "TypeVar":
                    self.variables[node.targets[0].id] = ast.unparse(node)
                else:
                    self.imports[node.targets[0].id] = f"from {self.name} import {node.targets[0].id}"
        self.imports.update({name: f"from {self.name} import {name}" for name in self.classes})


def statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the statements of a module, with the imports that are for types only."""
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from node.body
        else:
            yield node


def members(kind: ast.ClassDef) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the methods of a class that its facade has; of overloaded ones, the overloads."""
    overloaded = {
        each.name for each in kind.body if isinstance(each, FUNCTIONS) and decorated(each, "overload")
    }
    for each in kind.body:
        if not isinstance(each, FUNCTIONS):
            continue
        public = not each.name.startswith("_") or each.name in ("__aenter__", "__aexit__")
        if decorated(each, "cached_property"):
            continue  # an attribute
        if public and (each.name not in overloaded or decorated(each, "overload")):
            yield each


def decorated(function: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> bool:
    """Say whether a function has a decorator."""
    return any(isinstance(each, ast.Name) and each.id == name for each in function.decorator_list)


def is_asynchronous(kind: ast.ClassDef) -> bool:
    """Say whether a class gets a facade, as `windshift.sdk.facade` decides it."""
    return any(
        isinstance(each, ast.AsyncFunctionDef)
        for each in kind.body
        if isinstance(each, FUNCTIONS) and (each.name == "__aenter__" or not each.name.startswith("_"))
    ) and not any(ast.unparse(base) == "Protocol" for base in kind.bases)


class Plain(ast.NodeTransformer):
    """Turns the types of asynchronous code into those of synchronous code."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Rename what iterates or is entered; a handler gets the facade of a delivery."""
        if node.id == "Handler":
            return expression("Callable[[Delivery[Any]], object]")
        return ast.Name(PLAIN.get(node.id, node.id))

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        """Take the future of threads for that of asyncio."""
        return ast.Name("Future") if ast.unparse(node) == "asyncio.Future" else node

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        """Leave asynchronous iterables out."""
        if isinstance(node.right, ast.Subscript) and ast.unparse(node.right.value) == "AsyncIterable":
            left: ast.expr = self.visit(node.left)
            return left
        self.generic_visit(node)
        return node


def expression(text: str) -> ast.expr:
    """Parse an expression."""
    return ast.parse(text, mode="eval").body


def plain(annotation: ast.expr | None) -> ast.expr | None:
    """Return the synchronous form of a type."""
    return None if annotation is None else Plain().visit(ast.parse(ast.unparse(annotation), mode="eval").body)


def names_in(node: ast.AST | None) -> set[str]:
    """Return the names that a type consists of."""
    return set() if node is None else {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


class Stub:
    """The stub while it is written."""

    def __init__(self) -> None:
        self.modules = [Module(path) for path in sorted(SDK.glob("*.py"))]
        self.asynchronous = {
            name: module
            for module in self.modules
            for name, kind in module.classes.items()
            if is_asynchronous(kind) and not name.startswith("_")
        }
        self.lines: list[str] = []
        self.needed: dict[str, str] = {}
        self.variables: dict[str, str] = {}
        self.waiting = ["Client"]
        self.done: set[str] = set()

    def text(self) -> str:
        """Return the stub."""
        client = next(module for module in self.modules if module.name.endswith(".client"))
        while self.waiting:
            name = self.waiting.pop(0)
            if name not in self.done:
                self.done.add(name)
                self.write_class(self.asynchronous[name], name)
        for node in client.tree.body:
            if isinstance(node, ast.FunctionDef) and node.name == "connect":
                self.write_function(client, node, "")
        self.lines += [
            "",
            "def shared() -> Client:",
            '    """Return the client of this process, made as the environment says. It is never closed."""',
        ]
        imports = "\n".join(sorted(set(self.needed.values())))
        if self.variables:
            imports += "\n" + IMPORTS["TypeVar"]
        variables = "\n".join(sorted(self.variables.values()))
        return f"{HEADER}{imports}\n\n{variables}\n" + "\n".join(self.lines) + "\n"

    def use(self, module: Module, node: ast.AST | None) -> None:
        """Note what a type needs: imports, variables, other facades."""
        for name in sorted(names_in(node)):
            if name in self.asynchronous and (
                name in module.classes
                or "windshift.sdk" in module.imports.get(name, "")
                or name == "Delivery"
            ):
                self.waiting.append(name)
            elif name in module.variables:
                self.variables[name] = module.variables[name]
            elif name in module.imports or name in IMPORTS:
                self.needed[name] = module.imports.get(name) or IMPORTS[name]

    def write_class(self, module: Module, name: str) -> None:
        """Write a class with its attributes and methods."""
        kind = module.classes[name]
        bases = [base for base in kind.bases if ast.unparse(base).startswith("Generic")]
        for base in bases:
            self.use(module, base)
        head = f"({ast.unparse(bases[0])})" if bases else ""
        self.lines += ["", f"class {name}{head}:", f'    """{docstring(kind)}"""']
        for attribute, annotation in attributes(kind):
            self.use(module, annotation)
            self.lines.append(f"    {attribute}: {ast.unparse(annotation)}")
        for each in members(kind):
            self.write_function(module, each, "    ")

    def write_function(
        self, module: Module, function: ast.FunctionDef | ast.AsyncFunctionDef, indent: str
    ) -> None:
        """Write a function or method."""
        arguments = function.args
        variadic = [each for each in (arguments.vararg, arguments.kwarg) if each is not None]
        for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *variadic):
            each.annotation = plain(each.annotation)
            self.use(module, each.annotation)
        for default in (*arguments.defaults, *arguments.kw_defaults):
            self.use(module, default)
        returns = plain(function.returns)
        if decorated(function, "asynccontextmanager") and isinstance(returns, ast.Subscript):
            returns = expression(f"AbstractContextManager[{ast.unparse(returns.slice)}]")
        self.use(module, returns)
        for decorator in ("overload", "property"):
            if decorated(function, decorator):
                self.use(module, ast.Name(decorator))
                self.lines.append(f"{indent}@{decorator}")
        name = PLAIN.get(function.name, function.name)
        result = ast.unparse(returns) if returns is not None else "None"
        self.lines.append(f"{indent}def {name}({ast.unparse(arguments)}) -> {result}:")
        text = docstring(function)
        self.lines.append(f'{indent}    """{text}"""' if text else f"{indent}    ...")


def docstring(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return the first line of a docstring."""
    return (ast.get_docstring(node) or "").partition("\n")[0].replace("`async with", "`with")


def attributes(kind: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    """Yield the public attributes that `__init__` sets or that are made late, with their types."""
    for function in kind.body:
        if isinstance(function, ast.FunctionDef) and function.name == "__init__":
            yield from set_in(function, kind.name)
        elif isinstance(function, ast.FunctionDef) and decorated(function, "cached_property"):
            yield function.name, function.returns or ast.Name("Any")


def set_in(function: ast.FunctionDef, kind: str) -> Iterator[tuple[str, ast.expr]]:
    """Yield the public attributes that a function sets, with their types."""
    arguments = {each.arg: each.annotation for each in (*function.args.args, *function.args.kwonlyargs)}
    for node in function.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if not isinstance(target, ast.Attribute) or target.attr.startswith("_"):
            continue
        found: ast.expr | None = None
        value = getattr(node, "value", None)
        if isinstance(node, ast.AnnAssign):
            found = node.annotation
        elif isinstance(value, ast.Call):
            found = value.func
        elif isinstance(value, ast.Name):
            found = arguments.get(value.id)
        elif isinstance(value, ast.Constant):
            found = ast.Name(type(value.value).__name__)
        if found is None:
            raise SystemExit(f"sync: the type of {kind}.{target.attr} is not to be seen")
        yield target.attr, found


def formatted(text: str) -> str:
    """Return the stub as the formatter has it."""
    ruff = str(Path(sys.executable).parent / "ruff")
    for arguments in (["check", "--select", "I", "--fix", "--quiet"], ["format", "--quiet"]):
        command = [ruff, *arguments, "--stdin-filename", str(STUB), "-"]
        text = subprocess.run(
            command, input=text, text=True, stdout=subprocess.PIPE, check=True, cwd=ROOT
        ).stdout
    return text


def main(arguments: list[str]) -> int:
    """Write the stub or check it, and return the exit status."""
    text = formatted(Stub().text())
    if "--check" not in arguments:
        STUB.write_text(text)
    elif not STUB.exists() or STUB.read_text() != text:
        print("src/windshift/sdk/sync.pyi is not what the code gives: run `make generate`.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
