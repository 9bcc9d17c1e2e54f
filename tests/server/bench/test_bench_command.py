"""The benchmark against a scripted server whose speed and cache are known."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.bench import main
from server.bench.client import BenchError, ChatClient, ChatOptions
from server.bench.servers import ServerProcess, free_port
from server.bench.workloads import DECODE_TOKENS
from tests.server.scripted_server import Script, chunk, serving, whole_answer

GAP_S = 0.01


class Countable:
    """Answers with a known gap between tokens; a word is two tokens, and seen text is cached."""

    def __init__(self, gap_s: float = 0.0) -> None:
        self._gap_s = gap_s
        self.seen: set[str] = set()

    def __call__(self, body: dict[str, Any]) -> Iterator[str]:
        texts = [message["content"] for message in body["messages"]]
        prompt = 12 + 2 * sum(len(text.split()) for text in texts)
        cached = prompt - 10 if texts[0] in self.seen else 0
        self.seen.add(texts[0])
        length = 69 if body["max_tokens"] == DECODE_TOKENS else min(body["max_tokens"], 6) - 1
        return whole_answer("y" * length, prompt=prompt, cached=cached, gap_s=self._gap_s)


def test_the_receipt_has_the_speeds_the_server_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "receipt.json"
    flags = ["--rounds", "2", "--sizes", "128,300", "--json", "--output", str(file)]
    with serving(Script(Countable(GAP_S))) as url:
        assert main(["--url", url, *flags]) == 0
    receipt = json.loads(capsys.readouterr().out)
    assert receipt == json.loads(file.read_text())
    figures = {figure["name"]: figure["servers"]["mxserve"] for figure in receipt["figures"]}
    # Each of n - 1 visible tokens takes a gap; the last, invisible one ends the answer.
    assert figures["300 decode"]["count"] == 2
    assert 20 < figures["300 decode"]["median"] < 1.1 / GAP_S
    assert figures["300 warm: prefilled"]["median"] == 10
    colds = [s for s in receipt["samples"]["mxserve"] if s["name"] == "300 cold"]
    assert all(abs(s["prompt_tokens"] - 300) < 10 and s["cached_tokens"] == 0 for s in colds)
    assert "card best of turns 2-4" in figures


def test_every_cold_prompt_is_new() -> None:
    script = Script(Countable())
    with serving(script) as url:
        main(["--url", url, "--rounds", "2", "--sizes", "128", "--json"])
    colds = [
        body["messages"][0]["content"]
        for body in script.bodies
        if body["max_tokens"] == 32 and len(body["messages"]) == 2
    ]
    assert len(colds) == len({text.split()[0] for text in colds}) == 3  # two rounds and warm-up


def test_banned_tokens_and_thinking_are_in_the_request() -> None:
    body = ChatOptions(max_tokens=5, banned=(7, 9)).body("m", [{"role": "user", "content": "x"}])
    assert body["logit_bias"] == {"7": -100, "9": -100}
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def no_usage(_: dict[str, Any]) -> Iterator[str]:
    yield chunk({"content": "x"})
    yield chunk({}, finish_reason="stop")
    yield "data: [DONE]\n\n"


def cut(_: dict[str, Any]) -> Iterator[str]:
    yield chunk({"content": "x"})


def failed(_: dict[str, Any]) -> Iterator[str]:
    yield 'data: {"error": {"message": "boom"}}\n\n'


@pytest.mark.parametrize(
    ("answer", "said"), [(no_usage, "no usage"), (cut, "finish reason"), (failed, "boom")]
)
def test_an_answer_that_cannot_be_measured_is_an_error(answer: Any, said: str) -> None:
    with (
        serving(Script(answer)) as url,
        ChatClient(url) as client,
        pytest.raises(BenchError, match=said),
    ):
        client.chat([{"role": "user", "content": "x"}], ChatOptions(max_tokens=5))


def test_bad_arguments_and_missing_servers_are_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", str(tmp_path)]) == 1
    assert "no config.json" in capsys.readouterr().err
    assert main(["--url", f"http://127.0.0.1:{free_port()}"]) == 1
    assert "no model list" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--sizes", "5"])


def test_a_server_that_ends_at_start_is_reported_with_its_last_words() -> None:
    import sys

    command = [sys.executable, "-c", "import sys; sys.exit('the folder is empty')"]
    with (
        pytest.raises(BenchError, match=r"status 1(.|\n)*the folder is empty"),
        ServerProcess("broken", command, free_port()),
    ):
        pass


def test_a_started_server_is_gone_afterwards() -> None:
    import sys

    port = free_port()
    script = (
        "import http.server,sys\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(200); self.end_headers()\n"
        f"http.server.HTTPServer(('127.0.0.1', {port}), H).serve_forever()\n"
    )
    with ServerProcess("small", [sys.executable, "-c", script], port) as server:
        assert server.pid is not None
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
