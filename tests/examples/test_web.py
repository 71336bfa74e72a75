"""The web service of the examples, run by uvicorn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.app import running_app
from tests.support.nats_server import NatsServer
from tests.support.web_service import WebService, web_service

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def service(nats_server: NatsServer, unique: Callable[[], str], tmp_path: Path) -> Iterator[WebService]:
    """Run the service, on a server and in a namespace of its own."""
    with running_app(nats_server.url) as address:
        environment = {"WINDSHIFT_ADDRESS": address, "WINDSHIFT_NAMESPACE": unique()}
        with web_service("examples.web.service:web", ROOT, tmp_path / "log", environment) as service:
            yield service


def test_orders_are_published_and_booked(service: WebService) -> None:
    """An order becomes an event, once, and a bill or a dead letter; the service stops in good order."""
    service.ask_until((200, None), "GET", "/readyz")
    for _ in range(2):
        assert service.ask("POST", "/orders", {"number": "7", "cents": 3490}) == (202, {"event": 1})
    service.ask_until((200, {"cents": 3490, "event": 1}), "GET", "/bills/7")
    assert service.ask("POST", "/orders", {"number": "8", "cents": 0}) == (202, {"event": 2})
    service.ask_until((200, ["8 costs 0 cents"]), "GET", "/refused")
    assert service.ask("GET", "/bills/8")[0] == 404
    assert service.ask("POST", "/orders", {"number": "9"})[0] == 422
    assert service.ask("GET", "/bills/no.token")[0] == 422
