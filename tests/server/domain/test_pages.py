"""Pages of lists, cut out of keys that come at once or some at a time."""

from __future__ import annotations

import pytest

from windshift.server.domain.pages import PageCut, read_token, write_token

KEYS = [(float(number % 5), f"n{number}") for number in range(23)]


def cut_page(
    after: tuple[float, str] | None, some: int, *, descending: bool = False
) -> tuple[list[tuple[float, str]], tuple[float, str] | None]:
    """Cut a page of four out of keys that come some at a time."""
    cut = PageCut[tuple[float, str]](4, after, descending=descending)
    for begin in range(0, len(KEYS), some):
        cut.add(KEYS[begin : begin + some])
    return cut.page()


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("some", [1, 4, 100])
def test_pages_that_come_some_at_a_time(descending: bool, some: int) -> None:
    """Page after page has each key once and in order, however many come at a time."""
    after, found = None, []
    while True:
        page, last = cut_page(after, some, descending=descending)
        assert (page, last) == cut_page(after, len(KEYS), descending=descending)
        found += page
        if last is None:
            break
        after = last
    assert found == sorted(KEYS, reverse=descending)


@pytest.mark.parametrize("character", ["a", "ж", "🙂", '"', "\x01", "\N{REPLACEMENT CHARACTER}"])
def test_tokens_of_the_longest_subjects(character: str) -> None:
    """A page may end with any subject that the broker takes: 4,096 bytes, and what is no text is replaced."""
    size = 1 if character == "\N{REPLACEMENT CHARACTER}" else len(character.encode())
    subject = character * (4096 // size)
    assert read_token("page_token", write_token((subject,), "S", ">"), (str,), "S", ">") == (subject,)


def test_no_keys() -> None:
    """A list without entries has one page, which is empty."""
    assert PageCut[tuple[str]](4, None).page() == ([], None)
