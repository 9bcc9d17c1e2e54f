"""Two replicas behind nginx, as deploy/replicas has it: one dies, and nobody who waits notices."""

from __future__ import annotations

import subprocess
from pathlib import Path

import httpx
import pytest

from tests.conftest import ServerProcess
from tests.replicas.proxy import NGINX, TEMPORARY, configuration, proxy
from tests.replicas.run import run, told

pytestmark = pytest.mark.skipif(NGINX is None, reason="there is no nginx here")


def test_nginx_takes_the_file(tmp_path: Path):
    (tmp_path / "nginx.conf").write_text(configuration(tmp_path, 18080, (18081, 18082)))
    command = [str(NGINX), "-t", "-p", str(tmp_path), "-e", str(tmp_path / "error.log")]
    done = subprocess.run(
        [*command, "-c", str(tmp_path / "nginx.conf")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} >= set(TEMPORARY)


def test_replicas_see_who_is_asked_and_by_whom(tmp_path: Path, live_server: ServerProcess):
    port = int(live_server.url.rsplit(":", 1)[1])
    body = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 2}
    with proxy(tmp_path, (port, port)) as url:
        chat = f"{url}/v1/chat/completions"
        page = httpx.post(chat, json=body, headers={"Origin": url}, timeout=60)
        assert page.status_code == 200, page.text
        for named in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
            assert httpx.post(chat, json=body, headers=named, timeout=60).status_code == 403
        assert httpx.get(f"{url}/v1/models", headers={"Host": "evil.example"}).status_code == 403


@pytest.mark.slow
def test_no_request_is_lost_when_a_replica_dies(tmp_path: Path):
    result = run(tmp_path, clients=8, requests=60)
    figures = result.figures()
    assert not result.unexpected(), told(result)
    assert figures["answered"] + figures["cut_after_they_had_begun"] == figures["requests"]
    assert figures["answered_by_a_second_replica"] > 0
    assert figures["sessions_that_moved_while_both_ran"] == 0
    assert figures["later_turns_with_a_cached_prefix"] > 0
    assert figures["by_the_killed_one_after_its_return"] > 0
