"""A process whose engine cannot go on ends itself, with a status that makes a supervisor act."""

import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]

# An engine that serves until its file appears, then is dead; stop() hangs when told to.
SCRIPT = """
import asyncio, pathlib, sys
import server.serve as serve
from server.cli import leave
from server.engine import GenerationDefaults, Health, ModelInfo
from server.settings import load_settings

flag, hangs, port = pathlib.Path(sys.argv[1]), sys.argv[2] == "hangs", sys.argv[3]

class Dying:
    info = ModelInfo("m", 1, 1, False, GenerationDefaults(1, 1, 0, 0))
    def __init__(self, settings, progress): pass
    async def start(self): pass
    def health(self):
        dead = flag.exists()
        return Health("dead" if dead else "ready", 0, 0, None, 0, 0, self.info, "it broke")
    async def stop(self, drain_s):
        if hangs: await asyncio.sleep(600)

serve.Engine = Dying
leave(serve.serve(load_settings({"port": port})))
"""


@pytest.mark.parametrize("stopping", ["stops", "hangs"])
def test_a_dead_engine_ends_the_process(tmp_path, stopping):
    flag = tmp_path / "dead"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(flag), stopping, "0"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        ready = next(line for line in process.stderr if "ready at " in line)
        url = ready.split("ready at ")[1].strip().removesuffix("/v1")
        assert httpx.get(f"{url}/health").status_code == 200
        began = time.monotonic()
        flag.touch()
        while (health := httpx.get(f"{url}/health")).status_code == 200:
            assert time.monotonic() - began < 1
        assert health.status_code == 503
        assert (health.json()["status"], health.json()["reason"]) == ("dead", "it broke")
        assert httpx.get(f"{url}/health/ready").status_code == 503
        assert httpx.get(f"{url}/health/live").status_code == 200
        assert process.wait(20) == 70
        assert time.monotonic() - began < 5
        assert "it broke" in process.stderr.read()
