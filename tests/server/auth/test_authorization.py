"""What the log says when the keys of issuers are asked for on demand."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from tests.support.json_web_keys import AUDIENCE, ISSUER, Signer, write_key_set
from windshift.server.auth import authorization as module
from windshift.server.auth.authorization import Authorization

LIMIT = 30
ASKED = "the issuers were asked for their keys; everybody is judged by them"


async def test_keys_that_others_may_write(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong, its remedy, and what stays in use are told; nobody is judged by new keys then."""
    monkeypatch.setattr(module, "_BETWEEN_FETCHES", 0)
    caplog.set_level(logging.INFO)
    keys = write_key_set(tmp_path / "keys.json", Signer("one"))
    file = tmp_path / "auth.toml"
    file.touch(0o600)
    file.write_text(
        f'[[issuers]]\nname = "corp"\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\n'
        f'jwks = "{keys}"\nalgorithms = ["ES256"]\n'
    )

    def told() -> list[str]:
        return [record.getMessage() for record in caplog.records if "keys" in record.getMessage()]

    async def demand(lines: int) -> list[str]:
        authorization.fetch_keys()
        async with asyncio.timeout(LIMIT):
            while len(told()) < lines:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.01)
        return told()

    authorization = Authorization(file)
    authorization.watched.start()
    watching = asyncio.create_task(authorization.watch())
    try:
        assert await demand(1) == [ASKED]
        keys.chmod(0o664)
        refused = (
            "the keys of the issuer 'corp' cannot be had, and those that are known stay in use: "
            f"a group may write to the file; chmod go-w {keys}"
        )
        assert await demand(2) == [ASKED, refused]
        keys.chmod(0o644)
        assert await demand(3) == [ASKED, refused, ASKED]
    finally:
        watching.cancel()
        await asyncio.wait([watching])
