"""Those exercises of `make clients` whose packages are here anyway, against the demo."""

import sys
from pathlib import Path

import httpx
import pytest

from tests.clients.__main__ import exercise
from tests.clients.catalogue import CLIENTS
from tests.clients.install import Installed

FAST = [client for client in CLIENTS if client.name in ("openai-python", "anthropic-python")]


@pytest.mark.parametrize("client", FAST, ids=lambda client: client.name)
def test_sdk(client, live_server, tmp_path):
    card = httpx.get(f"{live_server.url}/v1/models").json()["data"][0]
    server = {"MXSERVE_URL": live_server.url, "MXSERVE_MODEL": card["id"]}
    here = Path(sys.executable)
    installed = Installed(tmp_path / "prefix", here, here.parent, 0, 0)
    result = exercise(client, installed, server, tmp_path)
    failed = {check.name: check.error for check in result.checks if not check.passed}
    assert not result.wrong, (failed, result.failure)
    assert len(result.checks) >= 10
