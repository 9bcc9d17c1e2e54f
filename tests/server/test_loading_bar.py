"""The loading bar: quiet when fast, a bar on a terminal, lines elsewhere."""

import io
import logging

import pytest

from server.loading_bar import LoadingBar

GB = 10**9


class Terminal(io.StringIO):
    def isatty(self):
        return True


def load(out, seconds, steps=100):
    """A load of 10 GB in `steps` equal steps."""
    now = 0.0
    bar = LoadingBar(out, lambda: now)
    now = 9.0  # what happens before the first bytes is no part of the load
    bar(0, 10 * GB)
    for step in range(1, steps + 1):
        now = 9.0 + seconds * step / steps
        bar(10 * GB * step // steps, 10 * GB)


def test_a_fast_load_is_silent(caplog):
    out = Terminal()
    with caplog.at_level(logging.INFO):
        load(out, 0.4)
        load(io.StringIO(), 0.4)
    assert out.getvalue() == ""
    assert not caplog.records


def test_a_bar_on_a_terminal():
    out = Terminal()
    load(out, 20)
    frames = out.getvalue().split("\r")[1:]
    assert len(frames) > 50
    assert frames[-1] == f"loading [{'#' * 30}] 10.0 of 10.0 GB\n"
    assert all("\n" not in frame for frame in frames[:-1])


def test_lines_in_a_log(caplog):
    out = io.StringIO()
    with caplog.at_level(logging.INFO):
        load(out, 20)
    assert out.getvalue() == ""
    lines = [record.getMessage() for record in caplog.records]
    assert 3 <= len(lines) <= 6
    assert lines[-1] == "loading: 10000 of 10000 MB (100 %)"


@pytest.mark.parametrize("total", [0, -1])
def test_nothing_to_load_is_no_error(total):
    LoadingBar(Terminal())(0, total)


def test_a_conversion_says_how_much_longer_it_takes():
    out = Terminal()
    times = iter((0.0, 10.0, 20.0, 600.0, 601.0))
    bar = LoadingBar(out, lambda: next(times), doing="converting", eta=True)
    for done in (1, 2, 3, 5):
        bar(done * GB, 400 * GB)
    frames = [frame.rstrip() for frame in out.getvalue().split("\r")[1:]]
    assert frames[0].endswith("2.0 of 400.0 GB, 1:06:20 left")
    assert frames[-1].endswith("5.0 of 400.0 GB, 16:27:30 left")
    bar(400 * GB, 400 * GB)
    assert out.getvalue().rstrip().endswith("400.0 of 400.0 GB")
