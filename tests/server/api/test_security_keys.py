"""Keys on every route, from every source; what a wrong one and a doubled one get."""

from __future__ import annotations

import time

import pytest

from server.api.openapi import document
from server.app import MODULES
from server.keys import KeyRecord, write_key_file
from server.middleware import OPEN_PATHS

ROUTES = [route for module in MODULES for route in module.router.routes]
DESCRIBED = document(ROUTES, with_key=False)["paths"]
EVERY = sorted(
    {(method.upper(), path) for path, methods in DESCRIBED.items() for method in methods}
    | {("GET", path) for route in ROUTES if (path := getattr(route, "path_format", ""))}
    | {("GET", "/nowhere"), ("POST", "/health/live/x"), ("GET", "//health/live")}
)


@pytest.fixture(scope="module")
def keyed(launch, tmp_path_factory):
    """A server with keys of every kind."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    write_key_file(path, [KeyRecord.of("filed", "from-a-file")])
    return launch(api_key="one,two", key_file=path)


@pytest.mark.parametrize(("method", "path"), EVERY)
def test_every_route_but_the_probes_asks_for_a_key(keyed, method, path):
    path = path.replace("{", "").replace("}", "")
    for headers in (
        {},
        {"Authorization": "Bearer thre"},
        {"x-api-key": "on"},
        {"Authorization": "Basic one"},
        {"x-api-key": ""},
    ):
        status = keyed.http.request(method, path, headers=headers).status_code
        if path in OPEN_PATHS:
            assert status in (200, 405)
        else:
            assert status == 401
    assert keyed.http.request(method, path, headers={"x-api-key": "two"}).status_code != 401


@pytest.mark.parametrize("key", ["one", "two", "from-a-file"])
def test_each_key_opens(keyed, key):
    for headers in ({"Authorization": f"Bearer {key}"}, {"x-api-key": key}):
        assert keyed.http.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", "Bearer one"), ("Authorization", "Bearer one")],
        [("Authorization", "Bearer one"), ("Authorization", "Bearer wrong")],
        [("x-api-key", "wrong"), ("x-api-key", "one")],
    ],
)
def test_a_header_that_comes_twice_is_refused(keyed, headers):
    assert keyed.http.get("/v1/models", headers=headers).status_code == 401


def test_the_document_says_that_a_key_is_needed(keyed):
    doc = keyed.http.get("/openapi.json", headers={"x-api-key": "one"}).json()
    assert doc["security"] == [{"key": []}]


def test_metrics_may_be_open(launch):
    assert launch(api_key="k").http.get("/metrics").status_code == 401
    served = launch(api_key="k", metrics_open=True)
    assert served.http.get("/metrics").status_code == 200
    assert served.http.get("/v1/models").status_code == 401


def named(caplog) -> bool:
    """Whether a line tells the key by its name."""
    return any(getattr(r, "fields", {}).get("key") == "filed" for r in caplog.records)


def test_a_key_is_nowhere_in_the_settings_or_the_log(keyed, caplog, capsys):
    with caplog.at_level("DEBUG"):
        for key in ("one-that-is-wrong", "from-a-file"):
            keyed.http.get("/v1/models", headers={"x-api-key": key})
        end = time.monotonic() + 5  # a line may come after its answer
        while not named(caplog) and time.monotonic() < end:
            time.sleep(0.01)
    told = caplog.text + str([r.__dict__ for r in caplog.records]) + "".join(capsys.readouterr())
    assert "from-a-file" not in told
    assert "one-that-is-wrong" not in told
    assert named(caplog)
