"""Who gets in: Host, Origin, CORS and API key, each refusal in our shape."""

import httpx
import pytest

from server.middleware import host_name


def refused(response, status):
    assert response.status_code == status, response.text
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.nip.io", "localhost@evil", "localhost.", "", "a b", "[::1", "::1"],
)
def test_other_names_are_refused(served, host):
    refused(served.http.get("/v1/models", headers={"Host": host}), 403)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1:80", "[::1]:8080"])
def test_own_names_are_served(served, host):
    assert served.http.get("/v1/models", headers={"Host": host}).status_code == 200


def test_further_names(launch):
    served = launch(allowed_host=["mac.local"])
    assert served.http.get("/health", headers={"Host": "mac.local:80"}).status_code == 200
    refused(served.http.get("/health", headers={"Host": "other.local"}), 403)


@pytest.mark.parametrize(
    ("header", "name"),
    [("a.b:80", "a.b"), ("[::1]:1", "[::1]"), ("x:", ""), ("x:y", ""), ("u@x", ""), ("x:1:2", "")],
)
def test_host_name(header, name):
    assert host_name(header) == name


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:1", "http://["]
)
def test_pages_of_other_origins_are_refused(served, origin):
    body = '{"messages": [{"role": "user", "content": "x"}]}'
    headers = {"Origin": origin, "Content-Type": "text/plain"}
    response = served.http.post("/v1/chat/completions", content=body, headers=headers)
    refused(response, 403)
    assert "access-control-allow-origin" not in response.headers
    assert not served.engine.requests


def test_own_origin_is_served(served):
    headers = {"Origin": served.url}
    assert served.http.get("/v1/models", headers=headers).status_code == 200


def test_cors(launch):
    served = launch(cors_origin=["https://app.example"])
    ask = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    preflight = served.http.options("/v1/chat/completions", headers=ask)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://app.example"
    response = served.http.get("/nope", headers={"Origin": "https://app.example"})
    assert response.status_code == 404
    assert response.headers["access-control-allow-origin"] == "https://app.example"
    other = served.http.get("/v1/models", headers={"Origin": "https://evil.example"})
    refused(other, 403)
    assert "access-control-allow-origin" not in other.headers
    asked = {**ask, "Origin": "https://evil.example"}
    other = served.http.options("/v1/chat/completions", headers=asked)
    refused(other, 403)
    assert not [name for name in other.headers if name.startswith("access-control-")]


def test_cors_lets_a_listed_page_read_that_its_key_is_wrong(launch):
    served = launch(cors_origin=["https://app.example"], api_key="s3cret")
    told = served.http.get("/v1/models", headers={"Origin": "https://app.example"})
    refused(told, 401)
    assert told.headers["access-control-allow-origin"] == "https://app.example"


def test_key(launch):
    served = launch(api_key="s3cret")
    client: httpx.Client = served.http
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": "s3cret"},
        {"x-api-key": "s3cre"},
        httpx.Headers({"Authorization": "Bearer s\xe9cret"}, encoding="latin-1"),
    ):
        for path in ("/v1/models", "/health", "/", "/nope"):
            refused(client.get(path, headers=headers), 401)
        assert client.post("/v1/chat/completions", headers=headers).status_code == 401
    for headers in ({"Authorization": "bearer s3cret"}, {"x-api-key": "s3cret"}):
        assert client.get("/v1/models", headers=headers).status_code == 200
    for probe in ("/health/live", "/health/ready"):
        assert client.get(probe).status_code == 200


def test_any_key_will_do_when_none_is_set(served):
    headers = {"Authorization": "Bearer dummy", "x-api-key": "x"}
    assert served.http.get("/v1/models", headers=headers).status_code == 200
