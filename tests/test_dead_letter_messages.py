"""The messages of the service for dead letters keep their names, numbers and types."""

from __future__ import annotations

import pytest

from tests.test_contract import described, expected, signature
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as pb

MESSAGES = {
    "Filter": """
        stream 1 string
        consumer 2 string
        causes 3* Cause
        type 4 string
        since 5? Timestamp
        until 6? Timestamp""",
    "DeadLetter": """
        id 1 string
        stream 2 string
        consumer 3 string
        event 4 Event
        other_headers 5* OtherHeadersEntry
        attempts 6 uint64
        first_delivery 7 Timestamp
        last_delivery 8 Timestamp
        time 9 Timestamp
        cause 10 Cause
        reason 11 string
        error_type 12 string
        replay_count 13 uint64
        replaying 14 bool
        data_size 15 uint64""",
    "ListRequest": """
        filter 1 Filter
        page_size 2 uint32
        page_token 3 string
        without_data 4 bool""",
    "ListResponse": """
        dead_letters 1* DeadLetter
        next_page_token 2 string""",
    "GetRequest": "id 1 string",
    "GetResponse": "dead_letter 1 DeadLetter",
    "ReplayRequest": """
        ids 1* string
        filter 2 Filter
        rate 3 uint32
        dry_run 4 bool
        limit 5 uint32
        page_token 6 string""",
    "ReplayResponse": """
        replayed 1 uint64
        already_replaying 2 uint64
        missing_ids 3* string
        without_consumer 4 uint64
        next_page_token 5 string""",
    "CancelReplayRequest": """
        ids 1* string
        filter 2 Filter
        page_token 3 string""",
    "CancelReplayResponse": """
        cancelled 1 uint64
        delivering 2 uint64
        missing_ids 3* string
        next_page_token 4 string""",
    "SummarizeRequest": """
        filter 1 Filter
        by 2* By
        limit 3 uint32""",
    "SummarizeResponse": """
        groups 1* Group
        total 2 uint64
        truncated 3 bool""",
    "PurgeRequest": """
        ids 1* string
        filter 2 Filter
        dry_run 3 bool
        page_token 4 string""",
    "PurgeResponse": """
        purged 1 uint64
        missing_ids 2* string
        next_page_token 3 string""",
    "WatchRequest": """
        filter 1 Filter
        position 2 string
        existing 3 bool
        without_data 4 bool""",
    "WatchResponse": """
        dead_letter 1 DeadLetter
        position 2 string""",
}

METHODS = {
    "List": "ListRequest -> ListResponse",
    "Get": "GetRequest -> GetResponse",
    "Replay": "ReplayRequest -> ReplayResponse",
    "CancelReplay": "CancelReplayRequest -> CancelReplayResponse",
    "Summarize": "SummarizeRequest -> SummarizeResponse",
    "Purge": "PurgeRequest -> PurgeResponse",
    "Watch": "WatchRequest -> stream WatchResponse",
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages(name: str) -> None:
    """Every message has exactly the fields of the table."""
    assert described(pb.DESCRIPTOR.message_types_by_name[name]) == expected(MESSAGES[name])


def test_all_are_in_the_table() -> None:
    """No message is missing there."""
    assert set(pb.DESCRIPTOR.message_types_by_name) == set(MESSAGES)


def test_causes() -> None:
    """The values of the enum stay."""
    assert dict(pb.Cause.items()) == {
        "CAUSE_UNSPECIFIED": 0,
        "CAUSE_MAX_ATTEMPTS": 1,
        "CAUSE_REJECTED": 2,
    }


def test_methods() -> None:
    """Every method has its messages and its streaming."""
    found = pb.DESCRIPTOR.services_by_name["DeadLettersService"].methods_by_name
    assert {name: signature(found[name]) for name in found} == METHODS
