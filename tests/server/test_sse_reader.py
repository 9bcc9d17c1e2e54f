"""The event reader gives the same events whatever the chunks are."""

from hypothesis import given
from hypothesis import strategies as st

from server.sse_reader import EventReader

payloads = st.lists(st.text().filter(lambda t: "\n" not in t and "\r" not in t), max_size=8)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted(place % (len(data) + 1) for place in places)
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


@given(payloads, st.lists(st.integers(0, 10**6), max_size=10), st.sampled_from(["\n", "\r\n"]))
def test_any_chunking_gives_the_same_events(
    texts: list[str], places: list[int], newline: str
) -> None:
    frames = "".join(f": ping{newline}data: {text}{newline}{newline}" for text in texts)
    reader = EventReader()
    events = [event for part in cut(frames.encode(), places) for event in reader.feed(part)]
    assert events == texts


def test_line_separators_of_unicode_do_not_split() -> None:
    assert EventReader().feed("data: a\u2028b\x85c\n\n".encode()) == ["a\u2028b\x85c"]


def test_data_lines_of_one_event_are_joined_and_other_fields_ignored() -> None:
    assert EventReader().feed(b"event: x\nid: 1\ndata:one\ndata: two\n\n:only\n\n") == ["one\ntwo"]


def test_an_unfinished_event_is_not_given() -> None:
    assert EventReader().feed(b"data: half\n") == []
