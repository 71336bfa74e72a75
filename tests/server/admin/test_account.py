"""What is read of the broker's answers about an account."""

from __future__ import annotations

import pytest

from windshift.server.admin.account import Resource, Usage, read_time_ns, read_usage


def test_limits_by_replicas() -> None:
    """Where the account has limits for each number of replicas, these are told; -1 is no limit."""
    tiers = {
        "R3": {
            "storage": 7,
            "reserved_storage": 9,
            "streams": 1,
            "limits": {"max_storage": 100, "max_streams": -1},
        },
        "R1": {"memory": 5, "limits": {"max_memory": 0}},
    }
    found = list(read_usage({"storage": 12, "limits": {"max_storage": 0}, "tiers": tiers}))
    assert found[:2] == [
        Usage(Resource.STORAGE, "R1", 0, 0, None),
        Usage(Resource.MEMORY, "R1", 5, 0, 0),
    ]
    assert found[4] == Usage(Resource.STORAGE, "R3", 7, 9, 100)
    assert found[6] == Usage(Resource.STREAMS, "R3", 1, 0, None)
    assert len(found) == 8


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b'{"server":{"time":"1970-01-01T00:00:01.5Z"}}', 1_500_000_000),
        (b'{"server":{"time":"yesterday"}}', None),
        (b'{"server":{}}', None),
        (b'{"server":{"time":7}}', None),
        (b"[]", None),
        (b"", None),
        (b"[" * 100_000, None),
    ],
)
def test_what_time_it_is(answer: bytes, found: int | None) -> None:
    """An answer that says no time is none, whatever it is."""
    assert read_time_ns(answer) == found
