"""`windshift auth`: makes tokens, checks an authorization file, and says what a principal may do."""

from __future__ import annotations

import os
import re
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import Final, NoReturn, TypeAlias

import click

from windshift.cli.failing import USAGE, fail
from windshift.cli.options import Command, PlainCommand
from windshift.server.auth.actions import Action
from windshift.server.auth.permissions import LISTS, Role
from windshift.server.auth.policy import Issuer, Policy, Principal, Quotas
from windshift.server.config.read import auth_file
from windshift.server.config.settings import ConfigurationError

Rows: TypeAlias = list[tuple[str, str]]

_DEFAULTS: Final = Quotas()
_DENIED: Final = 1
_LONGEST: Final = 16 * 1024
_PERIOD: Final = re.compile(r"(\d{1,6})([hdw])")
_HOURS: Final = {"h": 1, "d": 24, "w": 7 * 24}
_FOR_THE_FILE: Final = """\
The token is shown only now. This goes to the end of the authorization file, with the roles in it:

[[principals]]
name = "{name}"
token_sha256 = [{digest}]
roles = ["…"]

When the principal is there already, put what is in [] beside what its token_sha256 has.
"""


@click.group()
def auth() -> None:
    """Make tokens, verify the authorization file, and ask it who may do what."""


@auth.command(cls=PlainCommand)
@click.argument("name")
@click.option(
    "--expires",
    metavar="WHEN",
    help="When the token stops being valid: 90d, 12h or 4w from now, or a date (2027-01-01, at 00:00 UTC) or "
    "a time with its offset (2027-01-01T12:00:00Z). Without it: never.",
)
def token(name: str, expires: str | None) -> None:
    """Make a static token for the principal NAME.

    The token goes to stdout. It is stored nowhere, and cannot be shown again. What belongs into the
    authorization file, with its SHA-256, goes to stderr.

    \b
    Examples:
      windshift auth token billing
      windshift auth token billing --expires 90d > billing.token
    """  # noqa: D301 -- click's mark for lines that stay as they are
    from windshift.server.auth.tokens import make_token, token_digest

    until = None if expires is None else _moment(expires, datetime.now(UTC))
    try:
        made = make_token(name)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    digest = f'"{token_digest(made).hex()}"'
    if until is not None:
        digest = f"{{ sha256 = {digest}, expires = {until:%Y-%m-%dT%H:%M:%SZ} }}"
    click.echo(_FOR_THE_FILE.format(name=name, digest=digest), err=True)
    click.echo(made)


@auth.command(cls=PlainCommand)
@click.option(
    "--file",
    "given",
    type=click.Path(path_type=Path, readable=False),  # that is found out in one line by opening it
    metavar="FILE",
    help="The authorization file. Without it: what WINDSHIFT_AUTH_FILE says.",
)
@click.option("--as", "name", metavar="NAME", help="Ask as this principal.")
@click.option(
    "--token-stdin",
    is_flag=True,
    help="Ask as whoever has the token that is read from stdin, static or JWT. The keys of a JWT's issuer "
    "are fetched as a server does it.",
)
@click.argument("question", nargs=-1, metavar="[VERB RESOURCE...]")
def check(given: Path | None, name: str | None, token_stdin: bool, question: tuple[str, ...]) -> None:
    """Verify the authorization file, or ask it for a decision and the rule behind it.

    Without a principal it shows all that is in the file, or every problem with its line. With one and nothing
    else it shows what that principal has. With VERB and RESOURCE it decides as a server does: allowed or
    denied, and by which line.

    \b
    Verbs:
      publish SUBJECT
      manage-stream STREAM
      view-stream STREAM
      purge-stream STREAM SUBJECT         remove its events, also by smaller limits
      delete-stream STREAM
      bind SUBJECT                        have a stream take it
      copy STREAM SUBJECT                 have a stream copy it from STREAM
      consume STREAM SUBJECT CONSUMER     CONSUMER is - for an ephemeral one of its own
      make-ephemeral STREAM               make a consumer without a name of its own
      use-consumer STREAM CONSUMER        look at it, attach to it
      reject-for-good STREAM CONSUMER     give up events of one that somebody else made
      delete-consumer STREAM CONSUMER
      control-consumer STREAM CONSUMER    pause, resume and move it
      manage-store STORE
      view-store STORE
      read-key STORE KEY
      write-key STORE KEY
      read-dead-letters STREAM CONSUMER   either may be '*': all
      replay-dead-letters STREAM CONSUMER
      purge-dead-letters STREAM CONSUMER
      observe-server PRINCIPAL            '*': all
      end-connections PRINCIPAL
    Subjects and keys may be patterns ('orders.>'): is all of it allowed?
    Quote * and > for your shell.

    \b
    Examples:
      windshift auth check --file auth.toml
      windshift auth check --as billing publish orders.new
      windshift auth check --as billing consume ORDERS 'orders.>' billing-1
      windshift auth check --token-stdin < billing.token

    Exits with 0 when the file is fine, the token is somebody's, or the action is allowed; 1 when the token is
    nobody's or the action is denied; 2 when the file or the command is wrong.
    """  # noqa: D301 -- click's mark for lines that stay as they are
    if name is not None and token_stdin:
        raise click.UsageError("--as and --token-stdin exclude each other")
    if question and name is None and not token_stdin:
        raise click.UsageError("say who asks: --as NAME, or --token-stdin")
    action = _action(question) if question else None
    policy = _read(given)
    if token_stdin:
        principal, rows = _whose(policy, sys.stdin.buffer.read(_LONGEST).strip())
    elif name is not None:
        principal, rows = _named(policy, name)
    else:
        return _show_all(policy)
    return _decide(principal, action) if action is not None else _show_one(policy, principal, rows)


@auth.command("list", cls=Command, examples=["windshift auth list", "windshift auth list -o json"])
def list_() -> None:
    """List the principals of a running server: when each credential was used last, and what is open.

    It is about the one server that answers, and the time since it was started. The caller needs
    server.observe.
    """
    from windshift.cli.principals import list_principals

    list_principals()


@auth.command(cls=Command, examples=["windshift auth end billing"])
@click.argument("name")
def end(name: str) -> None:
    """End all connections of the principal NAME to a running server at once, and the calls on them.

    Its clients may connect again: take it out of the authorization file first if they are not to. It is about
    the one server that answers. The caller needs server.control of the principal.
    """
    from windshift.cli.principals import end_connections

    end_connections(name=name)


# Reading what was said


def _moment(text: str, now: datetime) -> datetime:
    """Return when a token expires, in UTC and in whole seconds."""
    period = _PERIOD.fullmatch(text)
    try:
        if period is not None:
            until = now + timedelta(hours=int(period[1]) * _HOURS[period[2]])
        else:
            until = datetime.fromisoformat(text)
            if re.fullmatch(r"\d{4}-\d\d-\d\d", text) is not None:
                until = until.replace(tzinfo=UTC)
        if until.tzinfo is None:
            raise click.BadParameter(
                "a time needs its offset, as in 2027-01-01T12:00:00Z", param_hint="--expires"
            )
        until = until.astimezone(UTC).replace(microsecond=0)
    except (ValueError, OverflowError):
        raise click.BadParameter(
            "use 90d, 12h or 4w, a date, or a time such as 2027-01-01T12:00:00Z", param_hint="--expires"
        ) from None
    if until <= now:
        raise click.BadParameter("that is in the past", param_hint="--expires")
    return until


def _action(question: tuple[str, ...]) -> Action:
    """Return what is asked for. Whatever a server would refuse as malformed is wrong usage here."""
    from windshift.server.auth.questions import read_action

    try:
        return read_action(*question)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _read(given: Path | None) -> Policy:
    """Return what the file says, or end with its problems."""
    from windshift.server.auth.policy_file import PolicyError, read_policy

    try:
        file = given or auth_file(os.environ)
    except ConfigurationError as error:
        fail(USAGE, *error.problems)
    if file is None:
        fail(USAGE, "name a file with --file, or set WINDSHIFT_AUTH_FILE")
    try:
        policy = read_policy(file)
    except OSError as error:
        fail(USAGE, f"{file}: {error.strerror}")
    except PolicyError as error:
        for problem in error.problems:
            line, _, text = problem.removeprefix("line ").partition(": ")
            click.echo(f"{file}:{line}: {text}", err=True)
        sys.exit(USAGE)
    if unsafe := [told for issuer in policy.issuers.values() if (told := _unsafe_keys(issuer))]:
        fail(USAGE, *unsafe)
    return policy


def _unsafe_keys(issuer: Issuer) -> str:
    """Say who else may write to the file with an issuer's keys, or "". It need not be on this machine."""
    from windshift.server.background.writers import other_writers

    file = Path(issuer.jwks)
    try:
        others = other_writers(file, file.stat().st_mode) if file.is_absolute() else ""
    except OSError:
        return ""
    return others and f"the keys of the issuer {issuer.name!r}: {others}"


def _named(policy: Policy, name: str) -> tuple[Principal, Rows]:
    """Return the principal of this name, and what to say of it."""
    if name not in policy.principals:
        known = ", ".join(sorted(policy.principals)) or "none"
        raise click.UsageError(f"no principal {name!r}; there are {known}")
    principal = policy.principals[name]
    return principal, _principal(principal)


def _whose(policy: Policy, text: bytes) -> tuple[Principal, Rows]:
    """Return whose token this is, and what to say of it, or end with the reason why it is nobody's."""
    import asyncio

    from windshift.server.auth.authenticate import Authenticator, Identity, Pending
    from windshift.server.auth.certificates import CertificateNames
    from windshift.server.domain.errors import IdentityUnavailable, Unauthenticated

    if find_spec("jwt") is None:
        fail(USAGE, "the server is not installed (jwt is missing): pip install 'windshift[server]'")

    async def identify() -> Identity:
        found = Authenticator(policy).identify(b"Bearer " + text, CertificateNames)
        return await found.resolve() if isinstance(found, Pending) else found

    try:
        identity = asyncio.run(identify())
    except Unauthenticated as error:
        fail(_DENIED, f"not valid: {error.why}")
    except IdentityUnavailable as error:
        fail(_DENIED, error.message)
    until = "" if identity.expires == inf else f", until {_time(identity.expires)}"
    name = identity.principal.name
    return identity.principal, [("principal", name), ("credential", f"{identity.credential}{until}")]


# Saying what is there


def _decide(principal: Principal, action: Action) -> NoReturn:
    allowed, rule = principal.permissions.decide(action)
    _show(
        [
            ("principal", principal.name),
            ("verb", action.verb),
            ("resource", action.resource),
            ("decision", "allowed" if allowed else "denied"),
            ("rule", rule),
        ]
    )
    sys.exit(0 if allowed else _DENIED)


def _show_one(policy: Policy, principal: Principal, rows: Rows) -> None:
    _show(rows + _quotas(principal.quotas))
    click.echo()
    _show_roles(policy, [role.name for role in principal.permissions.roles])


def _show_all(policy: Policy) -> None:
    for principal in policy.principals.values():
        _show(_principal(principal) + _quotas(principal.quotas, only_set=True))
        click.echo()
    for issuer in policy.issuers.values():
        _show(_issuer(issuer))
        click.echo()
    if policy.shared_keys:
        _show([("shared_keys", " ".join(entry.pattern for entry in policy.shared_keys))])
        click.echo()
    _show_roles(policy, list(policy.roles))
    counts = (len(policy.principals), len(policy.issuers), len(policy.roles))
    click.echo("principals: {}, issuers: {}, roles: {}; no problems".format(*counts))


def _principal(principal: Principal) -> Rows:
    rows = [("principal", principal.name)]
    # By so much of its hash the audit log names a token too.
    rows += [("token", f"{each.digest.hex()[:8]}{_validity(each.expires)}") for each in principal.tokens]
    rows += [("jwt", f"{each.sub} of {each.issuer}") for each in principal.jwt]
    rows += [("mtls", each) for each in principal.mtls]
    rows.append(("roles", ", ".join(role.name for role in principal.permissions.roles)))
    if principal.max_streams is not None:
        rows.append(("max_streams", str(principal.max_streams)))
    if principal.max_rps is not None:
        rows.append(("max_rps", f"{principal.max_rps:g}"))
    return rows


def _quotas(quotas: Quotas, *, only_set: bool = False) -> Rows:
    """Say how much somebody may have, or what of that is not the default."""
    rows = []
    for key, limit in asdict(quotas).items():
        is_default = limit == getattr(_DEFAULTS, key)
        if not (only_set and is_default):
            rows.append((f"quotas.{key}", _limit(limit) + (_default(key) if is_default else "")))
    return rows


def _default(key: str) -> str:
    if key == "connections":  # how many that are on a server is not in the file
        return " (default; a quarter of GRPC_MAX_CONNECTIONS if that is set)"
    return " (default)"


def _limit(limit: int | None) -> str:
    return "off" if limit is None else f"{limit}"


def _issuer(issuer: Issuer) -> Rows:
    return [
        ("issuer", issuer.name),
        ("iss", issuer.issuer),
        ("audience", ", ".join(issuer.audiences)),
        ("jwks", issuer.jwks),
        ("algorithms", ", ".join(issuer.algorithms)),
        ("max_lifetime", f"{issuer.max_lifetime.total_seconds():g}"),
        ("leeway", f"{issuer.leeway.total_seconds():g}"),
    ]


def _show_roles(policy: Policy, names: list[str]) -> None:
    used = {role.name for principal in policy.principals.values() for role in principal.permissions.roles}
    for name in names:
        unused = "" if name in used else " (nobody has it)"
        _show([("role", f"{name}{unused}"), *_role(policy.roles[name])])
        click.echo()


def _role(role: Role) -> Rows:
    return [
        (f"{prefix}{key}", " ".join(entry.pattern for entry in lists[key]))
        for prefix, lists in (("", role.allow), ("deny.", role.deny))
        for key in LISTS
        if key in lists
    ] + [(f"quotas.{key}", _limit(limit)) for key, limit in role.quotas.items()]


def _show(rows: Rows) -> None:
    """Print keys and values in two columns."""
    width = max(len(key) for key, _ in rows)
    for key, value in rows:
        click.echo(f"{key.ljust(width)}  {value}")


def _validity(expires: float) -> str:
    if expires == inf:
        return ""
    return f" {'expired' if expires <= time.time() else 'until'} {_time(expires)}"


def _time(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%SZ}"
