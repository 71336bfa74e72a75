"""The key of a consumer, which authenticates the tokens of its deliveries."""

from __future__ import annotations

import pytest

from windshift.server.events.token_key import KEY, key_of, with_key


def test_the_key_of_a_consumer() -> None:
    """It lies in the metadata, beside what else is there; another one each time."""
    config = with_key({"name": "c", "metadata": {"a": "b"}})
    assert config["metadata"]["a"] == "b"
    assert len(key_of(config)) == 16
    assert key_of(config) != key_of(with_key(config))


@pytest.mark.parametrize(
    "stored", [{}, {"metadata": None}, {"metadata": {KEY: "x"}}, {"metadata": {KEY: "ab"}}]
)
def test_no_key(stored: dict[str, object]) -> None:
    """What cannot be one is none."""
    assert key_of(stored) == b""
