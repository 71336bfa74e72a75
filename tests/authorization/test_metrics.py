"""What principals ask for, and when they lose their tokens, as metrics of a server process."""

from __future__ import annotations

import math
from pathlib import Path

from tests.authorization.policies import ALL, digest_of, principal
from tests.authorization.served import served
from tests.support.client import refused
from tests.wire.consuming import ensure_consumer, subscribed

EXPIRING = principal("ann", "all").replace(
    f'"{digest_of("ann")}"',
    f'{{ sha256 = "{digest_of("ann")}", expires = 2100-01-01T00:00:00Z }}, '
    f'{{ sha256 = "{digest_of("ann", 2)}", expires = 2100-01-02T00:00:00Z }}',
)
BOTH = EXPIRING.replace('"ann"', '"eve"').replace(digest_of("ann"), digest_of("eve"))
BOTH = BOTH.replace(digest_of("ann", 2), digest_of("eve", 2)) + '\nmtls = ["DNS:eve"]\n'
POLICY = (
    ALL
    + EXPIRING
    + BOTH
    + principal("bob", "all")
    + principal("nobody", "little")
    + '[role.little]\nstreams.view = ["X"]\n'
)
SECOND_DAY = 4_102_531_200


def test_malformed_events(tmp_path: Path) -> None:
    """They count as publishes that fail, whether or not their subjects look like what the rules allow."""
    with served(tmp_path, POLICY) as there:
        for who in ("ann", "nobody"):
            for subject in ("", "S.*", "$JS.API.INFO"):
                with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
                    there.caller(who).publish(subject)
        with refused("PERMISSION_DENIED", "PERMISSION_DENIED"):
            there.caller("nobody").publish("S.x")
        seen = there.seen()
    assert seen.value("windshift_publish_failures_total", reason="INVALID_FIELD") == 6
    assert seen.value("windshift_publish_failures_total") == 6
    assert seen.value("windshift_auth_denials_total") == 1


def test_principals(tmp_path: Path) -> None:
    """Calls count for whoever makes them, refused ones too; the end of a last token is told."""
    with served(tmp_path, POLICY) as there:
        ann, bob, nobody = there.caller("ann"), there.caller("bob"), there.caller("nobody")
        ann.ensure_stream("S")
        ensure_consumer(bob, "S", "c")
        for _ in range(3):
            ann.publish("S.x")
        with refused("PERMISSION_DENIED", "PERMISSION_DENIED"):
            nobody.publish("S.x")
        with refused("UNAUTHENTICATED", "UNAUTHENTICATED"):
            there.caller("stranger").publish("S.x")
        with subscribed(bob, "S", 5) as call:
            call.events(3)
        seen = there.seen()
    calls = "windshift_principal_calls_total"
    told = {who: seen.value(calls, principal=who) for who in ("ann", "bob", "nobody", "(others)")}
    assert told == {"ann": 4, "bob": 2, "nobody": 1, "(others)": 0}
    assert seen.labels(calls)["principal"] == told.keys()
    assert seen.value("windshift_principal_deliveries_total", principal="bob") == 3
    assert seen.value("windshift_principal_deliveries_total") == 3
    expiry = "windshift_auth_token_expiry_seconds"
    assert seen.labels(expiry)["principal"] == {"ann", "(others)"}
    assert seen.value(expiry, principal="ann") == SECOND_DAY
    assert seen.value(expiry, principal="(others)") == math.inf
