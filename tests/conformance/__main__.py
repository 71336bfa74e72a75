"""Run the gRPC interoperability tests and h2spec against `windshift.rpc`.

Four ways for the interoperability tests: the client of grpc-go against this server and this client against
the server of grpc-go, each without and with TLS. h2spec tests the server's HTTP/2 alone. Exits 1 when
something fails that `h2spec_exceptions.txt` does not list.
"""

# ruff: noqa: T201 -- a program: its results go to standard output
from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop

from tests.support.certificates import Authority, Pair
from tests.support.ports import new_port
from windshift.rpc import (
    Channel,
    HealthService,
    RpcError,
    Server,
    client_tls,
    reflection_services,
    server_tls,
)

from .cases import CASES
from .service import interop_service
from .tools import Outcome, build, read_exceptions, read_report, run

PROGRAMS = Path(__file__).resolve().parents[2] / ".cache" / "conformance"

_CASE_TIMEOUT = 30.0
_HOST = "127.0.0.1"


class Session:
    """One run: where the servers are, and what has failed so far.

    Attributes:
        failures: what to print at the end, one entry for each failure.
    """

    def __init__(self, folder: Path, ca: Path, certificate: Pair) -> None:
        self._folder = folder
        self._ca = ca
        self._certificate = certificate
        self.failures: list[str] = []

    async def interoperability(self, ports: dict[bool, int]) -> None:
        """Run every case in the four ways and print a table."""
        async with self._go_server(tls=False) as plain, self._go_server(tls=True) as secured:
            print(f"{'interoperability':<28}{'grpc-go → windshift':<22}windshift → grpc-go")
            print(f"{'':<28}{'plain':<8}{'TLS':<14}{'plain':<8}TLS")
            for name in CASES:
                cells = [
                    self._note(name, "grpc-go → windshift", await self._go_client(name, ports[tls], tls=tls))
                    for tls in (False, True)
                ]
                cells += [
                    self._note(name, "windshift → grpc-go", await self._own_client(name, port, tls=tls))
                    for tls, port in ((False, plain), (True, secured))
                ]
                print(f"{name:<28}{cells[0]:<8}{cells[1]:<14}{cells[2]:<8}{cells[3]}")

    async def h2spec(self, ports: dict[bool, int]) -> None:
        """Run h2spec with and without TLS and print a line for each."""
        exceptions = read_exceptions()
        for tls in (False, True):
            report = self._folder / f"h2spec-{tls}.xml"
            command: list[str | Path] = [
                PROGRAMS / "h2spec",
                "-h",
                _HOST,
                "-p",
                str(ports[tls]),
                "-j",
                report,
            ]
            await run(*command, *(["-t", "-k"] if tls else []))
            self._judge("TLS" if tls else "plain", read_report(report), exceptions)

    def _judge(self, way: str, cases: dict[str, str | None], exceptions: dict[str, str]) -> None:
        failed = {name: why for name, why in cases.items() if why is not None}
        for name, why in failed.items():
            if name not in exceptions:
                self.failures.append(f"h2spec, {way}: {name}\n{why}")
        for name in exceptions.keys() - failed.keys():
            if exceptions[name].startswith("sometimes"):
                continue
            self.failures.append(f"h2spec, {way}: {name}\nlisted in h2spec_exceptions.txt, but it passes")
        listed = len(failed.keys() & exceptions.keys())
        others = len(failed) - listed
        print(
            f"h2spec, {way + ':':<7} {len(cases)} cases, {len(cases) - len(failed)} passed, "
            f"{listed} fail as h2spec_exceptions.txt says, {others} others failed"
        )

    def _note(self, name: str, way: str, outcome: Outcome) -> str:
        if outcome.passed:
            return "ok"
        self.failures.append(f"{name}, {way}\n{outcome.output}")
        return "FAILED"

    async def _go_client(self, name: str, port: int, *, tls: bool) -> Outcome:
        command: list[str | Path] = [PROGRAMS / "client", f"-test_case={name}"]
        command += [f"-server_host={_HOST}", f"-server_port={port}"]
        if tls:
            command += ["-use_tls", "-use_test_ca", f"-ca_file={self._ca}", "-server_host_override=localhost"]
        return await run(*command)

    async def _own_client(self, name: str, port: int, *, tls: bool) -> Outcome:
        context = client_tls(self._ca) if tls else None
        try:
            async with Channel(f"{_HOST}:{port}", ssl=context) as channel, asyncio.timeout(_CASE_TIMEOUT):
                await CASES[name](channel)
        except (RpcError, AssertionError, TimeoutError) as error:
            return Outcome(False, f"{type(error).__name__}: {error}")
        return Outcome(True)

    @asynccontextmanager
    async def _go_server(self, *, tls: bool) -> AsyncIterator[int]:
        """Run the server of grpc-go and yield its port."""
        port = new_port()
        command: list[str | Path] = [PROGRAMS / "server", f"-port={port}"]
        if tls:
            command += ["-use_tls", f"-tls_cert_file={self._certificate.certificate}"]
            command += [f"-tls_key_file={self._certificate.key}"]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        try:
            context = client_tls(self._ca) if tls else None
            async with Channel(f"{_HOST}:{port}", ssl=context) as channel:
                await channel.wait_ready(_CASE_TIMEOUT)
            yield port
        finally:
            process.terminate()
            await process.wait()


async def conform(folder: Path) -> list[str]:
    """Run everything and return the failures."""
    authority = Authority(folder)
    certificate = authority.issue("server")
    services = [interop_service(), HealthService()]
    server = Server([*services, *reflection_services(services)])
    context = server_tls(certificate.certificate, certificate.key)
    _, plain = await server.listen(_HOST, 0)
    _, secured = await server.listen(_HOST, 0, ssl=context)
    session = Session(folder, authority.certificate, certificate)
    try:
        await session.interoperability({False: plain, True: secured})
        await session.h2spec({False: plain, True: secured})
    finally:
        server.close()
    return session.failures


def main() -> int:
    """Build the programs, run everything, print the results and return the exit status."""
    go = shutil.which("go")
    if go is None:
        print("conformance: skipped, because the programs that test are built with Go, and there is no `go`.")
        return 0
    print("Building the interoperability programs of grpc-go and h2spec", flush=True)
    try:
        build(go, PROGRAMS)
    except subprocess.CalledProcessError:
        print("conformance: Go could not build the programs, see above.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        failures = uvloop.run(conform(Path(folder)))
    for failure in failures:
        print(f"\nFAILED: {failure}")
    print(f"\nconformance: {'FAILED' if failures else 'ok'}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
