"""What is missing of a data directory, decided without it."""

from __future__ import annotations

import pytest

from windshift.server.process.embedded.stock import Damage, Stock, damage


@pytest.mark.parametrize("name", ["orders", "a(b", "a+b", "[", "a*"])
def test_a_stream_that_cannot_be_read(name: str) -> None:
    """What nats-server says of it is told, whatever its name is."""
    about = f"Error reading metafile for /data/jetstream/$G/streams/{name}/meta.inf"
    other = "Error reading metafile for /data/jetstream/$G/streams/other/meta.inf"
    told = list(damage(None, Stock({}), {name}, [other, about]))
    assert told == [Damage(name, f"cannot be read: {about}", ".")]
