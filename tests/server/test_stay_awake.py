"""The assertion against sleep: held while there is work, and at no other time."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from server.stay_awake import LINGER_S, StayAwake, caffeinate, stay_awake


class Child:
    def __init__(self) -> None:
        self.status: int | None = None

    def poll(self) -> int | None:
        return self.status

    def terminate(self) -> None:
        self.status = -15

    def wait(self, timeout: float | None = None) -> int:
        assert self.status is not None
        return self.status


class Desk:
    def __init__(self) -> None:
        self.now = 0.0
        self.children: list[Child] = []
        self.awake = StayAwake(self.start, lambda: self.now)

    def start(self) -> Child:
        self.children.append(Child())
        return self.children[-1]

    @property
    def held(self) -> int:
        return sum(child.status is None for child in self.children)


def test_held_while_busy_and_a_little_longer():
    desk = Desk()
    desk.awake.update(busy=False)
    assert not desk.children
    for desk.now in (1.0, 2.0, 3.0):
        desk.awake.update(busy=True)
        assert desk.held == 1
    desk.now = 3.0 + LINGER_S / 2
    desk.awake.update(busy=False)
    assert desk.held == 1
    desk.now = 3.0 + LINGER_S
    desk.awake.update(busy=False)
    assert desk.held == 0
    assert len(desk.children) == 1
    desk.awake.update(busy=True)
    assert (desk.held, len(desk.children)) == (1, 2)
    desk.awake.close()
    assert desk.held == 0


def test_one_that_ended_by_itself_is_begun_anew():
    desk = Desk()
    desk.awake.update(busy=True)
    desk.children[0].status = 1
    desk.awake.update(busy=True)
    assert desk.held == 1


def test_where_it_cannot_be_had_it_is_given_up(caplog: pytest.LogCaptureFixture):
    calls = []

    def missing() -> Child:
        calls.append(1)
        raise FileNotFoundError("no caffeinate")

    awake = StayAwake(missing, lambda: 0.0)
    awake.update(busy=True)
    awake.update(busy=True)
    assert len(calls) == 1
    assert "no caffeinate" in caplog.text


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A caffeinate on PATH; returns the file where it leaves its arguments."""
    script, told = tmp_path / "caffeinate", tmp_path / "told"
    script.write_text(f'#!/bin/sh\necho "$@" > {told}.new && mv {told}.new {told}\nexec sleep 60\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return told


def test_the_command_ends_with_this_process(fake: Path):
    child = caffeinate()
    while not fake.exists():
        assert child.poll() is None
    child.terminate()
    child.wait(10)
    assert fake.read_text().split() == ["-i", "-w", str(os.getpid())]


def test_only_on_a_mac(fake: Path):
    asyncio.run(asyncio.wait_for(stay_awake(lambda: True, platform="linux"), 5))
    assert not fake.exists()
    began = fake.exists

    async def on_a_mac() -> None:
        task = asyncio.create_task(stay_awake(lambda: True, platform="darwin"))
        while not began():  # noqa: ASYNC110 (nobody calls back)
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(on_a_mac(), 20))
