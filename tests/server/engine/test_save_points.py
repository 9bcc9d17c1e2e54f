"""Where states are kept, and that a deterministic prefill is cut by the prompt alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.engine.save_points import FIXED_CHUNK, LAST_SNAPSHOTS, fixed_chunk_end, save_points

boundaries = st.lists(st.integers(1, 3000), min_size=1, max_size=8, unique=True).map(
    lambda ends: tuple(sorted(ends))
)


def test_the_head_and_the_last_messages_are_kept() -> None:
    assert save_points((10, 20, 30, 40, 50), 0, 60) == [10, 30, 40, 50]
    assert save_points((10, 20, 30, 40, 50), 30, 60) == [40, 50]
    assert save_points((10,), 0, 60) == [10]
    assert LAST_SNAPSHOTS == 3


def test_a_branch_inside_a_message_is_kept_when_much_stands_before_it() -> None:
    assert save_points((1000, 1020), 0, 1030, 500) == [484, 1000, 1020]
    assert save_points((1000, 1020), 0, 1030, 20) == [1000, 1020]
    assert save_points((1000, 1020), 490, 1030, 500) == [1000, 1020]
    assert save_points((1000, 1020), 0, 1030, 1036) == [1000, 1020]


@given(ends=boundaries, more=st.integers(1, 700))
def test_a_prompt_is_cut_the_same_whatever_was_cached(ends: tuple[int, ...], more: int) -> None:
    last = ends[-1] + more

    def cuts(start: int) -> list[int]:
        found = []
        while start < last:
            end = fixed_chunk_end(ends, start, last)
            assert start < end <= start + FIXED_CHUNK
            found.append(end)
            start = end
        return found

    cold = cuts(0)
    assert set(ends) <= set(cold)
    for cached in ends:
        assert cuts(cached) == [end for end in cold if end > cached]
