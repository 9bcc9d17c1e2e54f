"""--idle-unload over HTTP: health, a load on demand, and one that fails."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.api.answering import _frames
from server.engine.events import Event, ModelLoading, PrefillProgress
from tests.conftest import ROOT, start_server
from tests.e2e.conftest import FRANCE, Reading, chat_body, wait_for


@pytest.mark.slow
def test_a_server_that_unloads_and_loads(tmp_path: Path):
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(ROOT / "model" / "demo" / "checkpoint", checkpoint)
    server = start_server("--model", str(checkpoint), "--idle-unload", "0.005")
    try:
        chat = f"{server.url}/v1/chat/completions"

        def health() -> dict[str, Any]:
            reply = httpx.get(f"{server.url}/health", timeout=20)
            assert reply.status_code == 200
            return reply.json()

        def unloaded() -> bool:
            found = health()
            return found["model_state"] == "unloaded" and found["cache_entries"] == 0

        wait_for(unloaded)
        assert health()["status"] == "ok"
        assert httpx.get(f"{server.url}/v1/models", timeout=20).json()["data"]
        streamed = Reading(chat, chat_body(FRANCE, stream=True)).end()
        assert streamed.finished
        assert "Paris" in streamed.content

        wait_for(unloaded)
        checkpoint.rename(tmp_path / "away")
        failed = httpx.post(chat, json=chat_body(FRANCE), timeout=60)
        assert failed.status_code == 503
        assert failed.json()["error"]["code"] == "model_load_failed"
        assert int(failed.headers["retry-after"]) > 0
        (tmp_path / "away").rename(checkpoint)
        again = httpx.post(chat, json=chat_body(FRANCE), timeout=60)
        assert "Paris" in again.json()["choices"][0]["message"]["content"]
        assert server.stop() == 0
    finally:
        server.stop()


def test_a_stream_says_how_far_the_load_is():
    class Answer:
        complete = True

        def add(self, event: Event) -> list[bytes]:
            return [type(event).__name__.encode()]

        def closing(self) -> list[bytes]:
            return [b"end"]

        def failed(self, error: Exception) -> list[bytes]:
            raise AssertionError(error)

    async def events() -> AsyncIterator[Event]:
        yield ModelLoading(3, 4)
        yield PrefillProgress(1, 2)

    async def test() -> list[bytes]:
        return [frame async for frame in _frames(events(), Answer())]

    comment = b": loading the model: 3 of 4 bytes\n\n"
    assert asyncio.run(test()) == [comment, b"PrefillProgress", b"end"]
