"""The mailbox: nothing lost, nothing reordered within a choice, bounded, closed once."""

from hypothesis import given
from hypothesis import strategies as st

from server.engine.errors import Draining, StepFailed
from server.engine.events import (
    ContentDelta,
    Event,
    Failed,
    PrefillProgress,
    ReasoningDelta,
    Started,
    ToolCallDelta,
)
from server.engine.mailbox import Mailbox


def box() -> tuple[Mailbox, list[int]]:
    calls: list[int] = []
    return Mailbox(lambda: calls.append(1)), calls


def test_text_nobody_read_yet_is_one_event():
    mailbox, calls = box()
    mailbox.put(Started(3, 0))
    for done in range(3):
        mailbox.put(PrefillProgress(done, 3))
    for piece in ("a", "b", "c"):
        mailbox.put(ReasoningDelta(0, piece))
    mailbox.put(ContentDelta(0, "d"))
    mailbox.put(ToolCallDelta(0, 0, "id", "f", ""))
    mailbox.put(ToolCallDelta(0, 0, None, None, "{"))
    mailbox.put(ToolCallDelta(0, 0, None, None, "}"))
    mailbox.put(ToolCallDelta(0, 1, "id2", "g", ""))
    assert mailbox.take() == [
        Started(3, 0),
        PrefillProgress(2, 3),
        ReasoningDelta(0, "abc"),
        ContentDelta(0, "d"),
        ToolCallDelta(0, 0, "id", "f", "{}"),
        ToolCallDelta(0, 1, "id2", "g", ""),
    ]
    assert mailbox.take() == []
    assert len(calls) == 1, "the reader is woken once until it reads"


def test_two_choices_in_turns_stay_bounded():
    mailbox, _ = box()
    for number in range(1000):
        mailbox.put(ContentDelta(number % 2, f"{number} "))
    first, second = mailbox.take()
    assert first == ContentDelta(0, "".join(f"{n} " for n in range(0, 1000, 2)))
    assert second == ContentDelta(1, "".join(f"{n} " for n in range(1, 1000, 2)))


def test_only_the_first_close_counts_and_what_was_put_before_is_kept():
    mailbox, calls = box()
    error = StepFailed("x")
    mailbox.put(ContentDelta(0, "a"))
    mailbox.close(error)
    mailbox.close(Draining())
    mailbox.put(ContentDelta(0, "late"))
    assert mailbox.closed
    assert mailbox.take() == [ContentDelta(0, "a"), Failed(error)]
    assert len(calls) == 2


deltas = st.lists(
    st.one_of(
        st.builds(ContentDelta, st.integers(0, 2), st.text("xyz", min_size=1, max_size=3)),
        st.builds(ReasoningDelta, st.integers(0, 2), st.text("xyz", min_size=1, max_size=3)),
        st.none(),
    )
)


@given(deltas)
def test_each_choice_reads_the_same_text_in_the_same_order(events: list[Event | None]):
    mailbox, _ = box()
    read: list[Event] = []
    for event in events:
        if event is None:
            read += mailbox.take()
        else:
            mailbox.put(event)
    read += mailbox.take()

    def story(of: list[Event], choice: int) -> list[tuple[type, str]]:
        return [
            (type(event), character)
            for event in of
            if isinstance(event, ContentDelta | ReasoningDelta) and event.choice == choice
            for character in event.text
        ]

    written = [event for event in events if event is not None]
    for choice in range(3):
        assert story(read, choice) == story(written, choice)


def test_a_merged_delta_counts_the_tokens_of_its_last_piece():
    for make in (
        lambda text, tokens: ContentDelta(0, text, tokens=tokens),
        lambda text, tokens: ReasoningDelta(0, text, tokens=tokens),
        lambda text, tokens: ToolCallDelta(0, 0, None, None, text, tokens=tokens),
    ):
        mailbox = Mailbox(lambda: None)
        for tokens in (3, 4, 6):
            mailbox.put(make("x", tokens))
        assert mailbox.take() == [make("xxx", 6)]
