"""What a command does with a server: a client, the output, and what becomes of errors."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any

import click

from windshift.cli.failing import (
    CONFLICT,
    DENIED,
    FAILED,
    INTERRUPTED,
    NOT_FOUND,
    TERMINATED,
    UNAVAILABLE,
    UNKNOWN,
    USAGE,
    Failure,
    report,
)
from windshift.cli.options import Options, options_of
from windshift.cli.output import Output

if TYPE_CHECKING:  # a command imports what it needs when it runs
    import windshift as ws
    from windshift.cli.payloads import Payloads
    from windshift.sdk.settings import Settings

_HINT_SECONDS = 2.0
_SIMILAR = 0.5


class Session:
    """One run of a command, with the shared options of its line."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.out = Output(options)

    @cached_property
    def settings(self) -> Settings:
        """Where the server is and who we are, by the line, the environment and the context."""
        from windshift.sdk.settings import Tls, read_settings

        options = self.options
        files = (options.tls_ca, options.tls_cert, options.tls_key)
        return read_settings(
            options.address,
            tls=Tls(*files) if any(files) else options.tls or None,
            token=options.token_file,
            timeout=options.timeout,
            namespace=options.namespace,
            plaintext_token=False,
            context=options.context,
        )

    @cached_property
    def client(self) -> ws.Client:
        """The client. What it logs is shown with `--verbose` only: a command says itself how it ended."""
        import logging

        from windshift.sdk.calling import Caller
        from windshift.sdk.client import Client

        logging.getLogger("windshift").addHandler(logging.NullHandler())
        return Client(Caller(self.settings))

    @cached_property
    def payloads(self) -> Payloads:
        """What reads and writes payloads."""
        from windshift.cli.context import descriptors_of
        from windshift.cli.payloads import Payloads

        files = self.options.descriptors or descriptors_of(self.options)
        return Payloads(files, self.options.module)

    async def reach(self) -> None:
        """See that the server is there, before work that would wait for it without an end.

        Raises:
            ws.Unreachable: it is not, within `--timeout`.
        """
        await self.client.ready(self.settings.timeout)

    async def confirm(self, question: str) -> None:
        """Ask before something is destroyed.

        Raises:
            Failure: the answer is no, or nobody can answer and `--yes` is not there.
        """
        if self.options.yes:
            return
        stdin: Any = sys.stdin  # None where it was closed
        if stdin is None or not stdin.isatty():
            raise Failure(f"{question}: there is nobody to ask", USAGE, hint="say --yes")
        if (await _answer(f"{question}; go on? [y/N] ")).lower() not in {"y", "yes"}:
            raise Failure("nothing was done")

    async def close(self) -> None:
        """Disconnect, if there was a connection."""
        if "client" in self.__dict__:
            await self.client.close()


async def _answer(question: str) -> str:
    """Ask at the terminal, and read a line when there is one: the connection lives on meanwhile."""
    click.echo(question, nl=False, err=True)
    loop, answered = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin, answered.set)
    try:
        await answered.wait()
    finally:
        loop.remove_reader(sys.stdin)
    return sys.stdin.readline().strip()


def with_session(work: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Turn a coroutine function that needs a session into the function of a command.

    It exits with the status of what went wrong.
    """

    @wraps(work)
    def command(**arguments: Any) -> None:
        session = Session(options_of(click.get_current_context()))
        if session.options.verbose:
            _log()
        try:
            asyncio.run(_run(session, lambda: work(session, **arguments)))
        except Failure as failure:
            if session.options.verbose:
                traceback.print_exception(failure)
            report(failure, json=session.out.json)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except asyncio.CancelledError:
            sys.exit(TERMINATED)

    return command


async def _run(session: Session, work: Callable[[], Awaitable[None]]) -> None:
    from windshift.sdk.errors import WindshiftError

    _stop_on_signals()
    try:
        await work()
    except WindshiftError as error:
        raise await failure_of(session, error) from error
    except ValueError as error:  # arguments that the client does not take together
        raise Failure(str(error), USAGE) from error
    finally:
        await session.close()


def _stop_on_signals() -> None:
    """Have SIGTERM, or a SIGHUP that is not ignored, stop the command in good order, as Ctrl-C does.

    A second one ends it at once.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def stop(number: signal.Signals) -> None:
        loop.remove_signal_handler(number)
        if task is not None:
            task.cancel()

    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, stop, number)


async def failure_of(session: Session, error: ws.WindshiftError) -> Failure:
    """Say what a command ends with that met this error."""
    hint = await _hint(session, error) or error.hint
    return Failure(error.message, status_of(error), reason=error.reason, hint=hint)


def status_of(error: ws.WindshiftError) -> int:
    """Return the exit code for an error."""
    from windshift.sdk import errors

    kinds: tuple[tuple[type[Exception] | tuple[type[Exception], ...], int], ...] = (
        ((errors.InvalidRequest, errors.SettingsError), USAGE),
        (errors.NotFound, NOT_FOUND),
        ((errors.Conflict, errors.SubjectsOverlap), CONFLICT),
        ((errors.Denied, errors.ForbiddenByBroker), DENIED),
        (errors.OutcomeUnknown, UNKNOWN),
    )
    found = next((status for kind, status in kinds if isinstance(error, kind)), FAILED)
    return UNAVAILABLE if found == FAILED and error.retryable else found


async def _hint(session: Session, error: ws.WindshiftError) -> str:
    from windshift.rpc import StatusCode
    from windshift.sdk import errors

    if isinstance(error, errors.StreamNotFound | errors.StoreNotFound | errors.ConsumerNotFound):
        return await _similar(session, error)
    if isinstance(error, errors.Unreachable) or (error.retryable and not error.reason):
        return "`windshift doctor` looks for what is in the way"
    if isinstance(error, errors.Denied):
        return _permission(session, error)
    if isinstance(error, errors.SettingsError) and error.hint:  # of a token in plain text
        return "use --tls or --tls-ca"
    if error.code is StatusCode.UNIMPLEMENTED:
        return "this server cannot do that: is it an older one, or something else? `windshift doctor` tells"
    return ""


def _permission(session: Session, error: ws.Denied) -> str:
    from windshift.sdk import errors

    if isinstance(error, errors.PermissionDenied):
        return "whoever runs the server can allow it, by a role in its authorization file"
    if session.settings.credentials.has_token:
        return "the server does not take this token: is it another server's, expired, or withdrawn?"
    return "a token is needed: --token-file, WINDSHIFT_TOKEN or a context"


async def _similar(session: Session, error: ws.NotFound) -> str:
    """Return a name that exists and looks like the one that does not."""
    import difflib

    from windshift.cli import naming
    from windshift.sdk import errors

    existing = {errors.StoreNotFound: naming.stores, errors.ConsumerNotFound: naming.consumers}
    found = existing.get(type(error), naming.streams)(session.client, click.get_current_context())
    wanted = session.settings.names.bare_name(error.name)
    try:
        async with asyncio.timeout(_HINT_SECONDS):
            names = [name async for name in found]
    except (TimeoutError, errors.WindshiftError):
        return ""
    similar = difflib.get_close_matches(wanted, names, 1, _SIMILAR)
    return f"did you mean {similar[0]!r}?" if similar else ""


def _log() -> None:
    import logging

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    logging.getLogger("windshift").setLevel(logging.DEBUG)
