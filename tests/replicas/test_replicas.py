"""Two replicas behind nginx, as deploy/replicas has it: one dies, and nobody who waits notices."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.replicas.proxy import NGINX, TEMPORARY, configuration
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
