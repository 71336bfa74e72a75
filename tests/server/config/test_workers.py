"""How many processes serve the port."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from windshift.server.config import cores, parsers
from windshift.server.config.read import config_from_environment
from windshift.server.config.settings import ConfigurationError


@pytest.mark.parametrize(("value", "count"), [(None, 1), ("1", 1), ("64", 64), ("auto", 3), ("AUTO", 3)])
def test_number(monkeypatch: pytest.MonkeyPatch, value: str | None, count: int) -> None:
    """A number, or one for each core; one where nothing is said."""
    monkeypatch.setattr(parsers, "usable_cores", lambda: 3)
    environment = {} if value is None else {"WINDSHIFT_WORKERS": value}
    assert config_from_environment(environment).workers == count


@pytest.mark.parametrize("value", ["0", "65", "two", "-1", "1.5"])
def test_other_values(value: str) -> None:
    """Anything else is refused."""
    with pytest.raises(ConfigurationError, match=r"WINDSHIFT_WORKERS: .* 1 to 64, or auto"):
        config_from_environment({"WINDSHIFT_WORKERS": value})


def test_a_system_that_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where connections are not spread over processes, several are refused, and auto is one."""
    monkeypatch.setattr(parsers, "SHARES_PORTS", False)
    with pytest.raises(ConfigurationError, match="only Linux spreads connections"):
        config_from_environment({"WINDSHIFT_WORKERS": "2"})
    assert config_from_environment({"WINDSHIFT_WORKERS": "auto"}).workers == 1


@pytest.mark.parametrize(
    ("files", "usable"),
    [
        ((), 8),
        (("max 100000",), 8),
        (("250000 100000",), 2),
        (("50000 100000",), 1),
        (("1600000 100000",), 8),
        (("nonsense",), 8),
        ((None, "300000", "100000"), 3),
        ((None, "-1", "100000"), 8),
    ],
)
def test_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: tuple[str | None, ...], usable: int
) -> None:
    """Those that the process may run on, and no more than the container has time of."""
    places = [tmp_path / name for name in ("cpu.max", "quota", "period")]
    for place, text in zip(places, files, strict=False):
        if text is not None:
            place.write_text(text)
    monkeypatch.setattr(cores, "_QUOTA", places[0])
    monkeypatch.setattr(cores, "_QUOTA_1", tuple(places[1:]))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    assert cores.usable_cores() == usable
