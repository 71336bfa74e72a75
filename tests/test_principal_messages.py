"""The messages of the service for principals keep their names, numbers and types."""

from __future__ import annotations

import pytest

from tests.test_contract import described, expected, signature
from windshift._gen.windshift.admin.v1alpha1 import principals_pb2 as pb

MESSAGES = {
    "ListPrincipalsRequest": "",
    "ListPrincipalsResponse": """
        principals 1* Principal
        since 2 Timestamp""",
    "Principal": """
        name 1 string
        credentials 2* Credential
        connections 3 uint32
        open_streams 4 uint32""",
    "Credential": """
        credential 1 string
        last_used 2 Timestamp
        expires 3 Timestamp""",
    "EndConnectionsRequest": "principal 1 string",
    "EndConnectionsResponse": "connections 1 uint32",
}


@pytest.mark.parametrize("name", MESSAGES)
def test_fields(name: str) -> None:
    """Every message has exactly the fields of the table."""
    assert described(pb.DESCRIPTOR.message_types_by_name[name]) == expected(MESSAGES[name])
    assert set(pb.DESCRIPTOR.message_types_by_name) == set(MESSAGES)


def test_methods() -> None:
    """The service has exactly these methods."""
    methods = pb.DESCRIPTOR.services_by_name["PrincipalsService"].methods_by_name
    assert {name: signature(method) for name, method in methods.items()} == {
        "ListPrincipals": "ListPrincipalsRequest -> ListPrincipalsResponse",
        "EndConnections": "EndConnectionsRequest -> EndConnectionsResponse",
    }
