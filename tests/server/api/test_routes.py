"""Models, health, the root, and the policy on model names."""

import pytest
from anthropic import Anthropic
from anthropic.types import ModelInfo
from openai import OpenAI
from openai.types import Model

SERVED = "served/name"


@pytest.mark.parametrize(
    "path",
    ["/v1/models", "/v1/models/", "/models", "/models/", "/v1/models?", "/v1/models?limit=1000"],
)
def test_models(served, path):
    response = served.http.get(path)
    body = response.json()
    assert (response.status_code, body["object"]) == (200, "list")
    [card] = body["data"]
    Model.model_validate(card, strict=True)
    assert card["id"] == SERVED
    assert card["context_length"] == card["max_model_len"] == 4096


def test_models_for_anthropics_client(served):
    body = served.http.get("/v1/models").json()
    ModelInfo.model_validate(body["data"][0])
    assert body["data"][0]["created_at"] == "2023-11-14T22:13:20Z"
    assert (body["has_more"], body["first_id"], body["last_id"]) == (False, SERVED, SERVED)


def test_both_clients_list_the_model(served):
    with OpenAI(base_url=f"{served.url}/v1", api_key="x") as client:
        assert [card.id for card in client.models.list()] == [SERVED]
        assert client.models.retrieve(SERVED).owned_by == "mxserve"
    with Anthropic(base_url=served.url, api_key="x") as client:
        [card] = client.models.list()
        assert (card.id, card.type, card.display_name) == (SERVED, "model", SERVED)
        assert client.models.retrieve(SERVED).created_at.year == 2023


def test_one_model_with_a_slash_in_its_name(served):
    for path in (f"/v1/models/{SERVED}", f"/models/{SERVED}", f"/v1/models/{SERVED}/"):
        assert served.http.get(path).json()["id"] == SERVED
    assert served.http.get("/v1/models/served%2Fname").json()["id"] == SERVED
    response = served.http.get("/v1/models/other")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("name", [SERVED, "gpt-4o", "", None, "../../etc/passwd"])
def test_any_model_name_is_answered_by_the_loaded_model(served, name):
    assert served.chat(model=name).json()["model"] == SERVED


def test_strict_model_names(launch):
    served = launch(strict_model=True)
    for name in (SERVED, "", None):
        assert served.chat(model=name).status_code == 200
    response = served.chat(model="gpt-4o\n" + "x" * 1000)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (404, "model_not_found")
    assert SERVED in error["message"]
    assert len(error["message"]) < 300


def test_healthy(served):
    response = served.http.get("/health")
    assert response.status_code == 200
    assert response.json()["status"] == "ok"
    assert response.json()["model"] == SERVED


def test_health_has_the_figures(served):
    body = served.http.get("/health").json()
    assert body.pop("version")
    assert body == {
        "status": "ok",
        "reason": None,
        "model": SERVED,
        "active": 3,
        "queued": 2,
        "slots": 16,
        "last_step_age_s": 0.25,
        "memory": {"active_bytes": 10, "peak_bytes": 20, "limit_bytes": 30},
        "cache_bytes": 1000,
        "cache_entries": 5,
        "disk_cache_bytes": 4000,
        "model_state": "loaded",
        "mtp": {},
        "uptime_s": 0.0,
    }


def test_ready_tells_the_status_only(served):
    response = served.http.get("/health/ready")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert served.http.head("/health/ready").status_code == 200


@pytest.mark.parametrize("status", ["loading", "draining", "dead"])
def test_unhealthy(served, status):
    served.engine.status, served.engine.reason = status, "because"
    response = served.http.get("/health")
    assert response.status_code == 503
    assert (response.json()["status"], response.json()["reason"]) == (status, "because")
    ready = served.http.get("/health/ready")
    assert (ready.status_code, ready.json()) == (503, {"status": status})
    assert served.http.get("/health/live").status_code == 200


def test_root(served):
    assert "mxserve" in served.http.get("/").text
    head = served.http.head("/")
    assert (head.status_code, head.content) == (200, b"")
