"""The gRPC interoperability cases between the project's own client and server.

`make conformance` plays them with those of grpc-go.
"""

from __future__ import annotations

import pytest

from tests.conformance.cases import CASES
from tests.conformance.service import interop_service
from tests.support.certificates import Authority
from windshift.rpc import Server, client_tls, server_tls

from .calling import calling
from .serving import strict_loop


@pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])
@pytest.mark.parametrize("name", CASES)
async def test_case(name: str) -> None:
    """The case of that name passes."""
    with strict_loop():
        server = Server([interop_service()])
        host, port = await server.listen("127.0.0.1", 0)
        async with calling(f"{host}:{port}") as channel:
            await CASES[name](channel)
        server.close()


async def test_all_cases_over_tls(tmp_path_factory: pytest.TempPathFactory) -> None:
    """They pass one after the other on one connection."""
    authority = Authority(tmp_path_factory.mktemp("tls"))
    pair = authority.issue("server")
    with strict_loop():
        server = Server([interop_service()])
        _, port = await server.listen("127.0.0.1", 0, ssl=server_tls(pair.certificate, pair.key))
        async with calling(f"localhost:{port}", ssl=client_tls(authority.certificate)) as channel:
            for case in CASES.values():
                await case(channel)
            assert channel.connections == 1
        server.close()
