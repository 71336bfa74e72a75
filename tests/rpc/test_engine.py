"""Which libnghttp2 speaks HTTP/2."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import ngh2._core
import pytest

from windshift.rpc import libnghttp2_version

LOCK = Path(__file__).resolve().parents[2] / "requirements.lock"


class _Info(ctypes.Structure):
    """`nghttp2_info` of nghttp2.h."""

    _fields_ = (("age", ctypes.c_int), ("number", ctypes.c_int), ("version", ctypes.c_char_p))


def test_it_is_the_one_that_is_loaded() -> None:
    """The library says the same of itself, where it can be asked: in a wheel of `make engine`."""
    try:
        ask = ctypes.CDLL(ngh2._core.__file__).nghttp2_version
    except AttributeError:
        assert "+" not in ngh2.__version__
        pytest.skip("the wheels of ngh2 leave `nghttp2_version` out")
    ask.restype = ctypes.POINTER(_Info)
    assert ask(0)[0].version.decode() == libnghttp2_version()


def test_it_is_known_of_the_locked_ngh2(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the lock moves, somebody has to look it up."""
    (locked,) = re.findall(r"(?m)^ngh2==(\S+)", LOCK.read_text())
    monkeypatch.setattr(ngh2, "__version__", locked)
    assert re.fullmatch(r"\d+\.\d+\.\d+", libnghttp2_version())


@pytest.mark.parametrize(
    ("of_ngh2", "expected"),
    [("0.3.0", "1.70.0"), ("0.3.0+nghttp2.1.70.1", "1.70.1"), ("0.3.0+mine", ""), ("99.0.0", "")],
)
def test_it_is_told_by_the_version_of_ngh2(
    monkeypatch: pytest.MonkeyPatch, of_ngh2: str, expected: str
) -> None:
    """A wheel that was built with another one says so; of a foreign build nobody knows it."""
    monkeypatch.setattr(ngh2, "__version__", of_ngh2)
    assert libnghttp2_version() == expected
