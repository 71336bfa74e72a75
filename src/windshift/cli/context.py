"""`windshift context`: names for servers, in a file that the Python library reads too."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

from windshift.cli.failing import CONFLICT, NOT_FOUND, USAGE, Failure, report
from windshift.cli.options import Group, Options, options_of, takes
from windshift.cli.output import Output

Entries = dict[str, Any]

_TOKENS = ("token_file", "token_env", "token_command", "oidc")
_SECRETS = frozenset({"token", "client_secret"})
_HEAD = ("", "NAME", "ADDRESS", "TLS", "TOKEN", "NAMESPACE")


def descriptors_of(options: Options) -> tuple[Path, ...]:
    """Return the descriptor files of the context that is used."""
    chosen = options.context or os.environ.get("WINDSHIFT_CONTEXT")
    if chosen is None and (options.address or os.environ.get("WINDSHIFT_ADDRESS")):
        return ()
    known = _read()
    name = chosen or known.selected
    value = known.contexts.get(name, {}).get("descriptors", []) if name is not None else []
    files = [value] if isinstance(value, str) else value
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        raise Failure(f"descriptors in {known.path} are not a list of files", USAGE)
    return tuple(known.path.parent / Path(file).expanduser() for file in files)


@dataclass(slots=True)
class _Contexts:
    """What the file says."""

    path: Path
    contexts: dict[str, Entries]
    selected: str | None

    def named(self, name: str) -> Entries:
        if name not in self.contexts:
            hint = "`windshift context ls` lists them"
            raise Failure(f"there is no context {name!r} in {self.path}", NOT_FOUND, hint=hint)
        return self.contexts[name]

    def write(self, path: Path) -> None:
        """Replace a file, or what it links to; nobody else may read it."""
        path = Path(os.path.realpath(path))
        lines = [f"selected = {_toml(self.selected)}"] if self.selected else []
        for name, entries in sorted(self.contexts.items()):
            lines += ["", f"[contexts.{_toml(name)}]"]
            lines += [f"{_key(key)} = {_toml(value)}" for key, value in entries.items()]
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.{os.getpid()}")
        new.touch(0o600)
        new.write_text("\n".join(lines).lstrip("\n") + "\n", "utf-8", "backslashreplace")
        new.replace(path)


def _read() -> _Contexts:
    import tomllib

    path = _path()
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        document = {}
    except (OSError, ValueError) as error:
        raise Failure(f"{path} cannot be read: {error}", USAGE) from error
    contexts = document.get("contexts", {})
    if not isinstance(contexts, dict) or not all(isinstance(each, dict) for each in contexts.values()):
        raise Failure(f"{path} has contexts that are not tables", USAGE)
    if not isinstance(document.get("selected", ""), str):
        raise Failure(f"`selected` in {path} is not a name", USAGE)
    return _Contexts(path, contexts, document.get("selected"))


def _path() -> Path:
    """Return the file's path, as `windshift.sdk.contexts` does, which imports far more."""
    configured = os.environ.get("XDG_CONFIG_HOME")
    folder = Path(configured) if configured else Path("~/.config").expanduser()
    return folder / "windshift" / "contexts.toml"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        import json

        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
    return key if bare else _toml(key)


def _row(name: str, entries: Entries, selected: object) -> tuple[str, ...]:
    token = next((kind for kind in _TOKENS if kind in entries), "-")
    tls = "yes" if entries.get("tls") else "no"
    mark = "*" if name == selected else ""
    return mark, name, str(entries.get("address", "-")), tls, token, str(entries.get("namespace", "-"))


def _without_secrets(entries: Entries) -> Entries:
    """Return what a context says, without what somebody wrote into the file that does not belong there."""
    return {
        key: _without_secrets(value) if isinstance(value, dict) else value
        for key, value in entries.items()
        if key not in _SECRETS
    }


def _problems(known: _Contexts, name: str) -> list[str]:
    """Return what is wrong with a context that is to be written."""
    import tempfile

    from windshift.sdk.contexts import read_context
    from windshift.sdk.settings import read_targets

    problems: list[str] = []
    read_targets(str(known.contexts[name].get("address", "")), problems)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / known.path.name
        known.write(copy)
        read_context(name, copy, os.environ, problems)
        told = [problem for problem in problems if "which is not set" not in problem]
        return [problem.replace(str(copy), str(known.path)) for problem in told]


def _failing(work: Any) -> Any:
    """Let a command end with a failure."""

    @wraps(work)
    def command(**arguments: Any) -> None:
        options = options_of(click.get_current_context())
        try:
            work(Output(options), **arguments)
        except Failure as failure:
            report(failure, json=options.json)

    return command


def complete_context(*_: Any) -> list[str]:
    """Return the names that may stand for a context; none where the file cannot be read."""
    try:
        return sorted(_read().contexts)
    except Failure:
        return []


@click.group(cls=Group)
def context() -> None:
    """Names for servers, with what is needed to reach them.

    They are in ~/.config/windshift/contexts.toml, or under $XDG_CONFIG_HOME, which the Python library reads
    too. -c NAME and WINDSHIFT_CONTEXT win over the selected one; arguments and other variables over both.
    """


_takes_settings = takes(
    click.option("--select", is_flag=True, help="Select it."),
    click.option(
        "--oidc",
        metavar="KEY=VALUE",
        multiple=True,
        help="Have an OpenID Connect issuer make tokens: issuer, client_id, and client_secret_file or "
        "client_secret_env; audience, scope and ca if it wants them.",
    ),
    click.option("--token-command", metavar="COMMAND", help="Program that prints the token."),
    click.option("--token-env", metavar="VARIABLE", help="Variable that has the token."),
)
"""Adds the options of `add` and `edit`. Those for the connection are the shared ones."""


def _oidc(pairs: Sequence[str]) -> Entries:
    """Return what the line says of an issuer; its files are named from the root on."""
    entries: Entries = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise Failure(f"--oidc {pair}: not KEY=VALUE", USAGE)
        is_file = key in {"client_secret_file", "ca"}
        entries[key] = str(Path(value).expanduser().absolute()) if is_file else value
    return entries


def _given(
    options: Options, token_env: str | None, token_command: str | None, oidc: Sequence[str]
) -> Entries:
    """Return the entries that the line says."""
    files = {"ca": options.tls_ca, "cert": options.tls_cert, "key": options.tls_key}
    tls: Entries | bool = {part: str(file.absolute()) for part, file in files.items() if file}
    entries = {
        "address": options.address,
        "token_file": str(options.token_file.absolute()) if options.token_file else None,
        "token_env": token_env,
        "token_command": token_command,
        "oidc": _oidc(oidc) or None,
        "tls": tls or options.tls or None,
        "namespace": options.namespace,
        "descriptors": [str(file.absolute()) for file in options.descriptors] or None,
    }
    return {key: value for key, value in entries.items() if value is not None}


def _store(out: Output, name: str, entries: Entries, known: _Contexts, *, select: bool) -> None:
    known.contexts[name] = entries
    if select or not known.selected:
        known.selected = name
    if problems := _problems(known, name):
        raise Failure("; ".join(problems), USAGE)
    known.write(known.path)
    selected = known.selected == name
    shown = f"{name}: {entries.get('address', 'no address')}{', selected' if selected else ''}"
    out.done({"name": name, **entries, "selected": selected}, shown)


@context.command(
    examples=["windshift context add dev --address 127.0.0.1:8080 --select"],
)
@click.argument("name")
@_takes_settings
@_failing
def add(out: Output, name: str, *, select: bool, **token: Any) -> None:
    """Add the context NAME, with --address, --tls…, --token-file, --namespace and --descriptors of this line.

    The first one is selected. Tokens are named by where they are, and never stored.
    """
    known = _read()
    if name in known.contexts:
        hint = "change it with `windshift context edit`"
        raise Failure(f"there is a context {name!r} already", CONFLICT, hint=hint)
    entries = _given(out.options, **token)
    if "address" not in entries:
        raise Failure("a context needs an --address", USAGE)
    _store(out, name, entries, known, select=select)


@context.command(examples=["windshift context edit dev --namespace me"])
@click.argument("name", shell_complete=complete_context)
@_takes_settings
@_failing
def edit(out: Output, name: str, *, select: bool, **token: Any) -> None:
    """Change what this line says of the context NAME. Comments in the file are lost."""
    known = _read()
    entries = dict(known.named(name))
    given = _given(out.options, **token)
    if any(kind in given for kind in _TOKENS):
        entries = {key: value for key, value in entries.items() if key not in _TOKENS}
    _store(out, name, {**entries, **given}, known, select=select)


@context.command("ls", examples=["windshift context ls"])
@_failing
def list_(out: Output) -> None:
    """List the contexts; * marks the selected one."""
    known = _read()
    contexts = sorted(known.contexts.items())
    values = [
        {"name": name, "selected": name == known.selected, **_without_secrets(entries)}
        for name, entries in contexts
    ]
    out.table(values, _HEAD, [_row(name, entries, known.selected) for name, entries in contexts])


@context.command(examples=["windshift context show dev"])
@click.argument("name", required=False, shell_complete=complete_context)
@_failing
def show(out: Output, name: str | None) -> None:
    """Show a context: NAME, or the one that commands use."""
    known = _read()
    chosen = name or out.options.context or os.environ.get("WINDSHIFT_CONTEXT") or known.selected
    if chosen is None:
        raise Failure("no context is selected", NOT_FOUND, hint="`windshift context add` makes one")
    entries = _without_secrets(known.named(chosen))
    shown = [(key, value if isinstance(value, str) else _toml(value)) for key, value in entries.items()]
    out.fields({"name": chosen, **entries}, [("name", chosen), *shown])


@context.command(examples=["windshift context select dev"])
@click.argument("name", shell_complete=complete_context)
@_failing
def select(out: Output, name: str) -> None:
    """Select the context that commands use; - for the one before."""
    known = _read()
    before = known.path.with_name("previous")
    if name == "-":
        try:
            name = before.read_text("utf-8").strip()
        except OSError:
            raise Failure("no context was selected before", NOT_FOUND) from None
    known.named(name)
    if known.selected not in {None, name}:
        before.write_text(f"{known.selected}\n", "utf-8")
    known.selected = name
    known.write(known.path)
    out.done({"selected": name}, f"selected {name}")


@context.command("rm", examples=["windshift context rm dev"])
@click.argument("name", shell_complete=complete_context)
@_failing
def remove(out: Output, name: str) -> None:
    """Remove a context."""
    known = _read()
    known.named(name)
    del known.contexts[name]
    if known.selected == name:
        known.selected = None
    known.write(known.path)
    out.done({"removed": name}, f"removed {name}")
